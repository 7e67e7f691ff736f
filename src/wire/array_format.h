// What Flower says about an array beside its bytes, in object bodies and in inline records alike.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/array.h"
#include "fedumm/limits.h"

namespace fedumm::wire {

struct ArrayFormat {
  std::string dtype;  // str() of NumPy's dtype; "" if the sender does not say (legacy apps)
  std::vector<int64_t> shape;  // then empty
  std::string stype;           // how the bytes are serialised: "numpy.ndarray"
  friend bool operator==(const ArrayFormat&, const ArrayFormat&) = default;
};

ArrayFormat FormatOf(const Array& array);

// How many bytes the .npy stream of that array must have, as its header says, which `start` begins
// with. Errors as of ArrayFromData.
absl::StatusOr<int64_t> NumStreamBytes(const ArrayFormat& format, std::string_view start,
                                       const Limits& limits);

// The array whose .npy stream fills `buffer` from `offset`; see ReadNpy. INVALID_ARGUMENT if the
// stream is malformed, beyond `limits`, or not what `format` says; UNIMPLEMENTED for an stype other
// than NumPy's and our own for bfloat16. An empty stream without dtype, a legacy app's way to send
// no array, is a default Array.
absl::StatusOr<Array> ArrayFromData(const ArrayFormat& format,
                                    std::shared_ptr<const std::string> buffer, size_t offset,
                                    const Limits& limits);

}  // namespace fedumm::wire
