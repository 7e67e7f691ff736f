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

bool SaysNothing(const ArrayFormat& format) { return format.dtype.empty() && format.shape.empty(); }

// The header of a stream, if it is what `format` says.
absl::StatusOr<NpyHeader> ReadHeader(const ArrayFormat& format, std::string_view stream,
                                     const Limits& limits) {
  if (format.stype != kNumPy && format.stype != kBFloat16) {
    return absl::UnimplementedError(absl::StrCat("unknown array stype: '", format.stype, "'"));
  }
  FEDUMM_ASSIGN_OR_RETURN(NpyHeader header, ParseNpyHeader(stream, limits));
  if (format.stype == kBFloat16) {
    if (header.dtype != DType::kUInt16) {
      return absl::InvalidArgumentError(
          absl::StrCat("bfloat16 array is not sent as uint16: ", NpyDescr(header.dtype)));
    }
    header.dtype = DType::kBFloat16;
  }
  if (SaysNothing(format)) return header;
  // str() of a dtype in foreign byte order is its descr.
  const bool same_dtype = format.dtype == DTypeName(header.dtype) ||
                          format.dtype == NpyDescr(header.dtype, header.layout.big_endian);
  if (same_dtype && format.shape == header.shape) return header;
  return absl::InvalidArgumentError(absl::StrCat(
      "array is announced as '", format.dtype, "' [", absl::StrJoin(format.shape, ", "),
      "], its npy header says '", NpyDescr(header.dtype, header.layout.big_endian), "' [",
      absl::StrJoin(header.shape, ", "), "]"));
}

}  // namespace

ArrayFormat FormatOf(const Array& array) {
  return {.dtype = std::string(DTypeName(array.dtype())),
          .shape = {array.shape().begin(), array.shape().end()},
          .stype = std::string(array.dtype() == DType::kBFloat16 ? kBFloat16 : kNumPy)};
}

absl::StatusOr<int64_t> NumStreamBytes(const ArrayFormat& format, std::string_view start,
                                       const Limits& limits) {
  FEDUMM_ASSIGN_OR_RETURN(const NpyHeader header, ReadHeader(format, start, limits));
  return static_cast<int64_t>(header.num_bytes) + header.num_elements * ElementSize(header.dtype);
}

absl::StatusOr<Array> ArrayFromData(const ArrayFormat& format,
                                    std::shared_ptr<const std::string> buffer, size_t offset,
                                    const Limits& limits) {
  if (SaysNothing(format) && format.stype == kNumPy && offset == buffer->size()) return Array();
  FEDUMM_ASSIGN_OR_RETURN(NpyHeader header,
                          ReadHeader(format, std::string_view(*buffer).substr(offset), limits));
  return ReadNpyData(std::move(header), std::move(buffer), offset);
}

}  // namespace fedumm::wire
