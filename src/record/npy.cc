#include "record/npy.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <span>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "record/shape.h"

namespace fedumm {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr size_t kAlignment = 64;         // of the whole preamble
constexpr size_t kGrowthAxisDigits = 21;  // room NumPy leaves to rewrite the outermost dimension

struct Code {
  DType dtype;
  std::string_view text;
};
constexpr Code kCodes[] = {
    {DType::kBool, "b1"},    {DType::kInt8, "i1"},    {DType::kInt16, "i2"},
    {DType::kInt32, "i4"},   {DType::kInt64, "i8"},   {DType::kUInt8, "u1"},
    {DType::kUInt16, "u2"},  {DType::kUInt32, "u4"},  {DType::kUInt64, "u8"},
    {DType::kFloat16, "f2"}, {DType::kFloat32, "f4"}, {DType::kFloat64, "f8"},
};

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("malformed npy header: ", what));
}

// Reads the few Python literals that a header may hold; evaluates nothing.
class LiteralReader {
 public:
  explicit LiteralReader(std::string_view text) : rest_(text) {}

  // Skips white space, then takes `token` if it is next.
  bool Take(std::string_view token) {
    SkipSpace();
    if (rest_.substr(0, token.size()) != token) return false;
    rest_.remove_prefix(token.size());
    return true;
  }
  bool AtEnd() {
    SkipSpace();
    return rest_.empty();
  }
  // A string without escapes.
  absl::StatusOr<std::string_view> String() {
    SkipSpace();
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) return Malformed("no string");
    const size_t end = rest_.find(rest_[0], 1);
    if (end == std::string_view::npos) return Malformed("string without an end");
    const std::string_view value = rest_.substr(1, end - 1);
    if (value.find('\\') != std::string_view::npos) return Malformed("escape in a string");
    rest_.remove_prefix(end + 1);
    return value;
  }
  absl::StatusOr<bool> Bool() {
    if (Take("True")) return true;
    if (Take("False")) return false;
    return Malformed("fortran_order is neither True nor False");
  }
  // (), (2,) or (2, 3): dimensions without sign or leading zero.
  absl::StatusOr<std::vector<int64_t>> Shape(int64_t max_dims) {
    if (!Take("(")) return Malformed("shape is no tuple");
    std::vector<int64_t> shape;
    bool comma = true;
    while (!Take(")")) {
      if (!comma) return Malformed("shape lacks a comma");
      if (static_cast<int64_t>(shape.size()) >= max_dims) {
        return Malformed(absl::StrCat("shape has more than ", max_dims, " dimensions"));
      }
      FEDUMM_ASSIGN_OR_RETURN(const int64_t dim, Dimension());
      shape.push_back(dim);
      comma = Take(",");
    }
    if (shape.size() == 1 && !comma) return Malformed("shape is no tuple");
    return shape;
  }

 private:
  void SkipSpace() {
    const size_t begin = rest_.find_first_not_of(" \t\r\n");
    rest_.remove_prefix(begin == std::string_view::npos ? rest_.size() : begin);
  }
  absl::StatusOr<int64_t> Dimension() {
    SkipSpace();
    size_t digits = 0;
    int64_t value = 0;
    for (; digits < rest_.size() && rest_[digits] >= '0' && rest_[digits] <= '9'; ++digits) {
      if (__builtin_mul_overflow(value, int64_t{10}, &value) ||
          __builtin_add_overflow(value, int64_t{rest_[digits] - '0'}, &value)) {
        return Malformed("dimension beyond 64 bits");
      }
    }
    if (digits == 0 || (digits > 1 && rest_[0] == '0')) return Malformed("bad dimension");
    rest_.remove_prefix(digits);
    return value;
  }

  std::string_view rest_;
};

absl::Status ParseDescr(std::string_view descr, NpyHeader& header) {
  const auto* code = descr.size() == 3 ? std::ranges::find(kCodes, descr.substr(1), &Code::text)
                                       : std::end(kCodes);
  if (code == std::end(kCodes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("npy dtype is not a plain number (object dtypes need pickle, which is never "
                     "read): '",
                     Text(descr), "'"));
  }
  const bool one_byte = ElementSize(code->dtype) == 1;
  if (descr[0] != '<' && descr[0] != '>' && !(descr[0] == '|' && one_byte)) {
    return Malformed(absl::StrCat("unknown byte order: '", Text(descr), "'"));
  }
  header.dtype = code->dtype;
  header.layout.big_endian = descr[0] == '>' && !one_byte;
  return absl::OkStatus();
}

// The dict literal with exactly the three keys, in any order.
absl::Status ParseDict(std::string_view text, const Limits& limits, NpyHeader& header) {
  LiteralReader reader(text);
  if (!reader.Take("{")) return Malformed("no dict");
  bool has_descr = false;
  bool has_order = false;
  bool has_shape = false;
  bool comma = true;
  while (!reader.Take("}")) {
    if (!comma) return Malformed("dict lacks a comma");
    FEDUMM_ASSIGN_OR_RETURN(const std::string_view key, reader.String());
    if (!reader.Take(":")) return Malformed("dict lacks a colon");
    if (key == "descr" && !std::exchange(has_descr, true)) {
      if (reader.Take("[") || reader.Take("(")) {
        return absl::InvalidArgumentError(
            "npy dtype is structured: only plain numbers are read, never pickle");
      }
      FEDUMM_ASSIGN_OR_RETURN(const std::string_view descr, reader.String());
      FEDUMM_RETURN_IF_ERROR(ParseDescr(descr, header));
    } else if (key == "fortran_order" && !std::exchange(has_order, true)) {
      FEDUMM_ASSIGN_OR_RETURN(header.layout.fortran_order, reader.Bool());
    } else if (key == "shape" && !std::exchange(has_shape, true)) {
      FEDUMM_ASSIGN_OR_RETURN(header.shape, reader.Shape(limits.max_array_dims));
    } else {
      return Malformed("unknown or repeated key");
    }
    comma = reader.Take(",");
  }
  if (!reader.AtEnd()) return Malformed("text after the dict");
  if (!has_descr || !has_order || !has_shape) return Malformed("missing key");
  return absl::OkStatus();
}

// Row-major bytes of an array that is column-major in `bytes`.
std::string FortranToC(std::string_view bytes, std::span<const int64_t> shape, size_t size) {
  if (bytes.empty()) return {};  // its other dimensions may be too large for strides
  std::vector<int64_t> strides(shape.size());
  int64_t stride = static_cast<int64_t>(size);
  for (size_t i = 0; i < shape.size(); ++i) {
    strides[i] = stride;
    stride *= shape[i];
  }
  std::string result(bytes.size(), '\0');
  std::vector<int64_t> index(shape.size());
  int64_t from = 0;
  for (size_t to = 0; to < bytes.size(); to += size) {
    std::memcpy(result.data() + to, bytes.data() + from, size);
    for (size_t i = shape.size(); i-- > 0;) {
      from += strides[i];
      if (++index[i] < shape[i]) break;
      from -= strides[i] * shape[i];
      index[i] = 0;
    }
  }
  return result;
}

void SwapBytes(std::string& bytes, size_t size) {
  for (auto element = bytes.begin(); element != bytes.end(); element += size) {
    std::reverse(element, element + size);
  }
}

}  // namespace

std::string NpyDescr(DType dtype, bool big_endian) {
  if (dtype == DType::kBFloat16) dtype = DType::kUInt16;
  const char order = ElementSize(dtype) == 1 ? '|' : big_endian ? '>' : '<';
  return order + std::string(std::ranges::find(kCodes, dtype, &Code::dtype)->text);
}

absl::StatusOr<NpyHeader> ParseNpyHeader(std::string_view bytes, const Limits& limits) {
  if (bytes.size() < kMagic.size() + 2 || bytes.substr(0, kMagic.size()) != kMagic) {
    return Malformed("no magic");
  }
  const int major = static_cast<uint8_t>(bytes[kMagic.size()]);
  const int minor = static_cast<uint8_t>(bytes[kMagic.size() + 1]);
  if (major < 1 || major > 3 || minor != 0) {
    return Malformed(absl::StrCat("unknown version ", major, ".", minor));
  }
  const size_t length_at = kMagic.size() + 2;
  const size_t length_size = major == 1 ? 2 : 4;
  if (bytes.size() < length_at + length_size) return Malformed("truncated");
  size_t length = 0;
  for (size_t i = 0; i < length_size; ++i) {
    length |= size_t{static_cast<uint8_t>(bytes[length_at + i])} << (8 * i);
  }
  if (static_cast<int64_t>(length) > limits.max_npy_header_bytes) {
    return Malformed(absl::StrCat(length, " bytes, limit ", limits.max_npy_header_bytes));
  }
  NpyHeader header;
  header.num_bytes = length_at + length_size + length;
  if (bytes.size() < header.num_bytes) return Malformed("truncated");
  FEDUMM_RETURN_IF_ERROR(ParseDict(bytes.substr(length_at + length_size, length), limits, header));
  FEDUMM_ASSIGN_OR_RETURN(header.num_elements, NumElements(header.shape));
  if (header.num_elements > limits.max_array_elements) {
    return absl::InvalidArgumentError(absl::StrCat("npy array has ", header.num_elements,
                                                   " elements, limit ", limits.max_array_elements));
  }
  return header;
}

absl::StatusOr<Array> ReadNpyData(NpyHeader header, std::shared_ptr<const std::string> buffer,
                                  size_t offset) {
  const size_t size = static_cast<size_t>(ElementSize(header.dtype));
  const std::string_view bytes = std::string_view(*buffer).substr(offset + header.num_bytes);
  if (bytes.size() % size != 0 || bytes.size() / size != static_cast<size_t>(header.num_elements)) {
    return absl::InvalidArgumentError(absl::StrCat("npy stream has ", bytes.size(), " bytes for ",
                                                   header.num_elements, " elements of ", size));
  }
  const bool transposed = header.layout.fortran_order && header.shape.size() > 1;
  if (!transposed && !header.layout.big_endian) {
    return Array::Create(header.dtype, std::move(header.shape), std::move(buffer),
                         offset + header.num_bytes);
  }
  std::string converted = transposed ? FortranToC(bytes, header.shape, size) : std::string(bytes);
  if (header.layout.big_endian) SwapBytes(converted, size);
  return Array::Create(header.dtype, std::move(header.shape), std::move(converted));
}

absl::StatusOr<Array> ReadNpy(std::shared_ptr<const std::string> buffer, size_t offset,
                              const Limits& limits) {
  if (offset > buffer->size()) return Malformed("truncated");
  FEDUMM_ASSIGN_OR_RETURN(NpyHeader header,
                          ParseNpyHeader(std::string_view(*buffer).substr(offset), limits));
  return ReadNpyData(std::move(header), std::move(buffer), offset);
}

std::string NpyPreamble(const Array& array, NpyLayout layout) {
  const std::span<const int64_t> shape = array.shape();
  std::string dict =
      absl::StrCat("{'descr': '", NpyDescr(array.dtype(), layout.big_endian),
                   "', 'fortran_order': ", layout.fortran_order ? "True" : "False", ", 'shape': (",
                   absl::StrJoin(shape, ", "), shape.size() == 1 ? ",), }" : "), }");
  if (!shape.empty()) {
    const int64_t growth_axis = layout.fortran_order ? shape.back() : shape.front();
    dict.append(kGrowthAxisDigits - absl::StrCat(growth_axis).size(), ' ');
  }
  const size_t unpadded = kMagic.size() + 4 + dict.size() + 1;
  dict.append(kAlignment - unpadded % kAlignment, ' ');  // a whole 64 if nothing is missing
  dict.push_back('\n');
  const char tail[] = {1, 0, static_cast<char>(dict.size() & 255),
                       static_cast<char>(dict.size() >> 8)};
  return absl::StrCat(Text(kMagic), absl::string_view(tail, 4), dict);
}

std::string WriteNpy(const Array& array, NpyLayout layout) {
  const size_t size = static_cast<size_t>(ElementSize(array.dtype()));
  std::string converted;
  std::string_view bytes = array.bytes();
  if (layout.fortran_order || layout.big_endian) {
    // A row-major array is its transpose in column-major order.
    const std::vector<int64_t> transposed(array.shape().rbegin(), array.shape().rend());
    converted = layout.fortran_order ? FortranToC(bytes, transposed, size) : std::string(bytes);
    if (layout.big_endian) SwapBytes(converted, size);
    bytes = converted;
  }
  return absl::StrCat(NpyPreamble(array, layout), Text(bytes));
}

}  // namespace fedumm
