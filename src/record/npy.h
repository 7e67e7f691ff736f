// NumPy's .npy streams, versions 1.0 to 3.0: how an array's bytes travel and lie in files. Plain
// data only: object and structured dtypes, which would need pickle, are refused without a switch.
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

namespace fedumm {

// How elements lie in a stream. NumPy keeps what an array had; we write the default.
struct NpyLayout {
  bool big_endian = false;
  bool fortran_order = false;
};

struct NpyHeader {
  DType dtype = DType::kFloat32;
  NpyLayout layout;
  std::vector<int64_t> shape;
  int64_t num_elements = 0;
  size_t num_bytes = 0;  // of the preamble: where the elements begin
};

// "<f4", "|b1", ">i8". kBFloat16, unknown to NumPy, is written as the uint16 that has its bits.
std::string NpyDescr(DType dtype, bool big_endian = false);

// INVALID_ARGUMENT for anything but a well-formed preamble of a plain dtype within `limits`.
// `bytes` may go on with the elements.
absl::StatusOr<NpyHeader> ParseNpyHeader(std::string_view bytes, const Limits& limits);

// The array whose stream fills `buffer` from `offset` to its end. A row-major little-endian stream
// is used in place, without a copy, if its elements are aligned; any other is converted.
// INVALID_ARGUMENT if the number of bytes is not what the header says.
absl::StatusOr<Array> ReadNpyData(NpyHeader header, std::shared_ptr<const std::string> buffer,
                                  size_t offset);
absl::StatusOr<Array> ReadNpy(std::shared_ptr<const std::string> buffer, size_t offset,
                              const Limits& limits);

// What NumPy writes before the elements of a row-major little-endian array, byte for byte.
std::string NpyPreamble(const Array& array, NpyLayout layout = {});
std::string WriteNpy(const Array& array, NpyLayout layout = {});

}  // namespace fedumm
