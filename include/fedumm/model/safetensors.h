// Safetensors files: named tensors behind a JSON header. Names are data, never file paths.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/array.h"

namespace fedumm::model {

// In the order by which the format sorts: the writer puts the last first.
enum class SafetensorsDType {
  kBool,
  kF4,
  kF6E2M3,
  kF6E3M2,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kF8E8M0,
  kF8E4M3Fnuz,
  kF8E5M2Fnuz,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

std::string_view SafetensorsDTypeName(SafetensorsDType dtype);  // "F32", "BF16", …
// INVALID_ARGUMENT for the complex and the 8-bit and smaller float types.
absl::StatusOr<DType> ToDType(SafetensorsDType dtype);
SafetensorsDType ToSafetensorsDType(DType dtype);

struct SafetensorsTensor {
  std::string name;  // any UTF-8 text, even an empty one
  SafetensorsDType dtype = SafetensorsDType::kF32;
  // Never negative. Only an empty tensor can declare a dimension of 2^63 or more; it reads as 2^63
  // - 1.
  std::vector<int64_t> shape;
  std::string_view bytes;  // row-major, little-endian, at any alignment
};

// An open file. Immutable, thread-safe and cheap to copy.
class SafetensorsFile {
 public:
  // Maps the file into memory; pages are read when they are touched, and processes that map the
  // same file share them. A page that is written to becomes this process's own; the file does not
  // change. The file must not be written in place while it is mapped (replace it, as
  // WriteSafetensors does). INVALID_ARGUMENT unless the header describes the file exactly: every
  // byte belongs to one tensor, no name occurs twice.
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // The same over bytes that the caller keeps alive as long as any copy of the result.
  static absl::StatusOr<SafetensorsFile> Parse(std::string_view bytes);

  std::span<const SafetensorsTensor> tensors() const;          // in the order of their bytes
  const SafetensorsTensor* Find(std::string_view name) const;  // null if there is none
  const std::map<std::string, std::string>& metadata() const;
  // FAILED_PRECONDITION, naming the file, if it was written to or cut short since Open.
  absl::Status CheckUnchanged() const;
  // Gives back the memory of a part of the file that was read and is not needed for now.
  void Forget(std::string_view bytes) const;
  // Keeps every `bytes` valid for as long as it is held: for tensors that use the mapped pages
  // without a copy.
  std::shared_ptr<const void> owner() const;

 private:
  struct Content;
  static absl::StatusOr<SafetensorsFile> ParseInto(std::shared_ptr<Content> content);
  explicit SafetensorsFile(std::shared_ptr<const Content> content);

  std::shared_ptr<const Content>
      content_;  // shared because tensors outlive the handle, see owner()
};

// The bytes of a file with these tensors, laid out as the reference implementation does (8-byte
// data is aligned). INVALID_ARGUMENT if a name occurs twice or is not UTF-8, or if `bytes` does not
// fit dtype and shape.
absl::StatusOr<std::string> SerializeSafetensors(
    std::span<const SafetensorsTensor> tensors,
    const std::map<std::string, std::string>& metadata = {});

// Replaces `path` atomically.
absl::Status WriteSafetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace fedumm::model
