#include "model/checkpoint/mapped_tensor.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/printable.h"

namespace fedumm::model {
namespace {

struct DTypePair {
  at::ScalarType torch;
  SafetensorsDType file;
};
constexpr DTypePair kDTypePairs[] = {
    {at::kFloat, SafetensorsDType::kF32}, {at::kBFloat16, SafetensorsDType::kBF16},
    {at::kHalf, SafetensorsDType::kF16},  {at::kDouble, SafetensorsDType::kF64},
    {at::kLong, SafetensorsDType::kI64},  {at::kInt, SafetensorsDType::kI32},
    {at::kShort, SafetensorsDType::kI16}, {at::kChar, SafetensorsDType::kI8},
    {at::kByte, SafetensorsDType::kU8},   {at::kBool, SafetensorsDType::kBool},
};

}  // namespace

std::optional<at::ScalarType> ScalarTypeOf(SafetensorsDType dtype) {
  for (const DTypePair& pair : kDTypePairs) {
    if (pair.file == dtype) return pair.torch;
  }
  return std::nullopt;
}

std::optional<SafetensorsDType> SafetensorsDTypeOf(at::ScalarType dtype) {
  for (const DTypePair& pair : kDTypePairs) {
    if (pair.torch == dtype) return pair.file;
  }
  return std::nullopt;
}

absl::StatusOr<at::Tensor> MappedTensor(const SafetensorsFile& file,
                                        const SafetensorsTensor& tensor) {
  const std::optional<at::ScalarType> dtype = ScalarTypeOf(tensor.dtype);
  if (!dtype.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint: tensor ", ValidUtf8(tensor.name, 200), " has dtype ",
                     std::string(SafetensorsDTypeName(tensor.dtype)), ", which is not supported"));
  }
  const char* const bytes = tensor.bytes.data();
  if (tensor.bytes.empty() || reinterpret_cast<uintptr_t>(bytes) % c10::elementSize(*dtype) != 0) {
    at::Tensor copy = at::empty(tensor.shape, *dtype);
    if (!tensor.bytes.empty()) {
      std::memcpy(copy.mutable_data_ptr(), bytes, tensor.bytes.size());
    }
    return copy;
  }
  return at::from_blob(
      const_cast<char*>(bytes), tensor.shape, [owner = file.owner()](void*) {},
      at::TensorOptions(*dtype));
}

}  // namespace fedumm::model
