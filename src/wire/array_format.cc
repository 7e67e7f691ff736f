#include "wire/array_format.h"

#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "record/npy.h"

namespace fedumm::wire {
namespace {

constexpr std::string_view kNumPy = "numpy.ndarray";
// NumPy has no bfloat16: the stream holds the bits as uint16. Private to fedumm peers; others
// refuse the stype.
constexpr std::string_view kBFloat16 = "fedumm.bfloat16";

}  // namespace

ArrayFormat FormatOf(const Array& array) {
  return {.dtype = std::string(DTypeName(array.dtype())),
          .shape = {array.shape().begin(), array.shape().end()},
          .stype = std::string(array.dtype() == DType::kBFloat16 ? kBFloat16 : kNumPy)};
}

absl::StatusOr<Array> ArrayFromData(const ArrayFormat& format,
                                    std::shared_ptr<const std::string> buffer, size_t offset,
                                    const Limits& limits) {
  if (format.stype != kNumPy && format.stype != kBFloat16) {
    return absl::UnimplementedError(absl::StrCat("unknown array stype: '", format.stype, "'"));
  }
  const bool says_nothing = format.dtype.empty() && format.shape.empty();
  if (says_nothing && offset == buffer->size()) return Array();
  FEDUMM_ASSIGN_OR_RETURN(NpyHeader header,
                          ParseNpyHeader(std::string_view(*buffer).substr(offset), limits));
  if (format.stype == kBFloat16) {
    if (header.dtype != DType::kUInt16) {
      return absl::InvalidArgumentError(
          absl::StrCat("bfloat16 array is not sent as uint16: ", NpyDescr(header.dtype)));
    }
    header.dtype = DType::kBFloat16;
  }
  if (!says_nothing) {
    // str() of a dtype in foreign byte order is its descr.
    const bool same_dtype = format.dtype == DTypeName(header.dtype) ||
                            format.dtype == NpyDescr(header.dtype, header.layout.big_endian);
    if (!same_dtype || format.shape != header.shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          "array is announced as '", format.dtype, "' [", absl::StrJoin(format.shape, ", "),
          "], its npy header says '", NpyDescr(header.dtype, header.layout.big_endian), "' [",
          absl::StrJoin(header.shape, ", "), "]"));
    }
  }
  return ReadNpyData(std::move(header), std::move(buffer), offset);
}

}  // namespace fedumm::wire
