#include "fedumm/model/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <tuple>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "model/checkpoint/safetensors_header.h"

namespace fedumm::model {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the reference's limit
constexpr uint64_t kLengthBytes = 8;
constexpr char kMetadataKey[] = "__metadata__";

struct DTypeRow {
  const char* name;
  uint64_t bits;
};
constexpr std::array<DTypeRow, 22> kDTypes = {{
    {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
    {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
    {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
    {"I64", 64},        {"U64", 64},
}};
static_assert(kDTypes.size() == static_cast<size_t>(SafetensorsDType::kU64) + 1);

absl::StatusOr<SafetensorsDType> DTypeFromSafetensorsName(std::string_view name) {
  for (size_t i = 0; i < kDTypes.size(); ++i) {
    if (name == kDTypes[i].name) return static_cast<SafetensorsDType>(i);
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "unknown safetensors dtype: ", absl::CHexEscape(std::string(name.substr(0, 40)))));
}

std::string Quoted(std::string_view name) {
  return absl::StrCat("'", absl::CHexEscape(std::string(name.substr(0, 200))), "'");
}

// product(shape) * bits / 8, left to right: a product that overflows is an error, even if a later
// dimension is 0.
template <typename Dim>
std::optional<uint64_t> ByteCount(SafetensorsDType dtype, const std::vector<Dim>& shape) {
  uint64_t bits = 1;
  for (const Dim dim : shape) {
    if (__builtin_mul_overflow(bits, static_cast<uint64_t>(dim), &bits)) return std::nullopt;
  }
  if (__builtin_mul_overflow(bits, kDTypes[static_cast<size_t>(dtype)].bits, &bits)) {
    return std::nullopt;
  }
  if (bits % 8 != 0) return std::nullopt;
  return bits / 8;
}

struct Mapping {
  Mapping(void* address, size_t size, int fd, const struct stat& info, std::string path)
      : address(address), size(size), fd(fd), info(info), path(std::move(path)) {}
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    munmap(address, size);
    close(fd);
  }

  void* address;
  size_t size;
  int fd;
  struct stat info;  // when it was mapped
  std::string path;
};

}  // namespace

std::string_view SafetensorsDTypeName(SafetensorsDType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].name;
}

absl::StatusOr<DType> ToDType(SafetensorsDType dtype) {
  switch (dtype) {
    case SafetensorsDType::kBool:
      return DType::kBool;
    case SafetensorsDType::kU8:
      return DType::kUInt8;
    case SafetensorsDType::kI8:
      return DType::kInt8;
    case SafetensorsDType::kI16:
      return DType::kInt16;
    case SafetensorsDType::kU16:
      return DType::kUInt16;
    case SafetensorsDType::kF16:
      return DType::kFloat16;
    case SafetensorsDType::kBF16:
      return DType::kBFloat16;
    case SafetensorsDType::kI32:
      return DType::kInt32;
    case SafetensorsDType::kU32:
      return DType::kUInt32;
    case SafetensorsDType::kF32:
      return DType::kFloat32;
    case SafetensorsDType::kF64:
      return DType::kFloat64;
    case SafetensorsDType::kI64:
      return DType::kInt64;
    case SafetensorsDType::kU64:
      return DType::kUInt64;
    default:
      return absl::InvalidArgumentError(absl::StrCat("unsupported safetensors dtype: ",
                                                     kDTypes[static_cast<size_t>(dtype)].name));
  }
}

SafetensorsDType ToSafetensorsDType(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return SafetensorsDType::kBool;
    case DType::kInt8:
      return SafetensorsDType::kI8;
    case DType::kInt16:
      return SafetensorsDType::kI16;
    case DType::kInt32:
      return SafetensorsDType::kI32;
    case DType::kInt64:
      return SafetensorsDType::kI64;
    case DType::kUInt8:
      return SafetensorsDType::kU8;
    case DType::kUInt16:
      return SafetensorsDType::kU16;
    case DType::kUInt32:
      return SafetensorsDType::kU32;
    case DType::kUInt64:
      return SafetensorsDType::kU64;
    case DType::kFloat16:
      return SafetensorsDType::kF16;
    case DType::kBFloat16:
      return SafetensorsDType::kBF16;
    case DType::kFloat32:
      return SafetensorsDType::kF32;
    case DType::kFloat64:
      return SafetensorsDType::kF64;
  }
  return SafetensorsDType::kF32;  // not reached: the switch names every DType
}

struct SafetensorsFile::Content {
  std::optional<Mapping> mapping;
  std::string_view bytes;
  std::vector<SafetensorsTensor> tensors;
  absl::flat_hash_map<std::string_view, const SafetensorsTensor*> by_name;
  std::map<std::string, std::string> metadata;
};

SafetensorsFile::SafetensorsFile(std::shared_ptr<const Content> content)
    : content_(std::move(content)) {}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  absl::Cleanup close_fd = [fd] { close(fd); };
  struct stat info;
  if (fstat(fd, &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", path));
  if (!S_ISREG(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat("not a regular file: ", path));
  }
  auto content = std::make_shared<Content>();
  if (info.st_size > 0) {
    const size_t size = static_cast<size_t>(info.st_size);
    // Writable, because weights that stay here may be trained; no memory is set aside for that.
    void* const address =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
    if (address == MAP_FAILED) return absl::ErrnoToStatus(errno, absl::StrCat("cannot map ", path));
    std::move(close_fd).Cancel();
    content->mapping.emplace(address, size, fd, info, path);
    content->bytes = std::string_view(static_cast<const char*>(address), size);
  }
  absl::StatusOr<SafetensorsFile> file = ParseInto(std::move(content));
  if (!file.ok()) {
    return absl::Status(file.status().code(), absl::StrCat(path, ": ", file.status().message()));
  }
  return file;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(std::string_view bytes) {
  auto content = std::make_shared<Content>();
  content->bytes = bytes;
  return ParseInto(std::move(content));
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::ParseInto(std::shared_ptr<Content> content) {
  const std::string_view bytes = content->bytes;
  if (bytes.size() < kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors file is too short: ", bytes.size(), " bytes"));
  }
  uint64_t header_bytes = 0;
  for (size_t i = kLengthBytes; i > 0; --i) {
    header_bytes = (header_bytes << 8) | static_cast<unsigned char>(bytes[i - 1]);
  }
  if (header_bytes > kMaxHeaderBytes || header_bytes > bytes.size() - kLengthBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors header of ", header_bytes, " bytes in a file of ", bytes.size()));
  }
  FEDUMM_ASSIGN_OR_RETURN(SafetensorsHeader header,
                          ParseSafetensorsHeader(bytes.substr(kLengthBytes, header_bytes)));
  const std::string_view data = bytes.substr(kLengthBytes + header_bytes);
  std::ranges::sort(header.entries, [](const auto& a, const auto& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });

  content->metadata = std::move(header.metadata);
  content->tensors.reserve(header.entries.size());  // by_name points into it
  uint64_t covered = 0;
  for (SafetensorsHeader::Entry& entry : header.entries) {
    FEDUMM_ASSIGN_OR_RETURN(const SafetensorsDType dtype, DTypeFromSafetensorsName(entry.dtype));
    if (entry.begin != covered || entry.end < entry.begin || entry.end > data.size()) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", Quoted(entry.name),
                                                     " has invalid data_offsets: ", entry.begin,
                                                     ", ", entry.end));
    }
    if (ByteCount(dtype, entry.shape) != entry.end - entry.begin) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(entry.name), " has ", entry.end - entry.begin,
                       " bytes, which is not what its dtype and shape need"));
    }
    SafetensorsTensor tensor = {.name = std::move(entry.name),
                                .dtype = dtype,
                                .bytes = data.substr(entry.begin, entry.end - entry.begin)};
    tensor.shape.reserve(entry.shape.size());
    for (const uint64_t dim : entry.shape) {
      tensor.shape.push_back(
          static_cast<int64_t>(std::min<uint64_t>(dim, std::numeric_limits<int64_t>::max())));
    }
    content->tensors.push_back(std::move(tensor));
    const SafetensorsTensor& added = content->tensors.back();
    if (!content->by_name.emplace(added.name, &added).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(added.name), " occurs twice"));
    }
    covered = entry.end;
  }
  if (covered != data.size()) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors file has ", data.size(),
                                                   " bytes of data, its tensors cover ", covered));
  }
  return SafetensorsFile(std::move(content));
}

std::span<const SafetensorsTensor> SafetensorsFile::tensors() const { return content_->tensors; }

const SafetensorsTensor* SafetensorsFile::Find(std::string_view name) const {
  const auto it = content_->by_name.find(name);
  return it == content_->by_name.end() ? nullptr : it->second;
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return content_->metadata;
}

absl::Status SafetensorsFile::CheckUnchanged() const {
  if (!content_->mapping.has_value()) return absl::OkStatus();
  const Mapping& mapping = *content_->mapping;
  struct stat now;
  if (fstat(mapping.fd, &now) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot stat ", mapping.path));
  }
  const auto same = [](const timespec& a, const timespec& b) {
    return a.tv_sec == b.tv_sec && a.tv_nsec == b.tv_nsec;
  };
  if (now.st_size == mapping.info.st_size && same(now.st_mtim, mapping.info.st_mtim)) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(
      absl::StrCat(mapping.path, " was changed while it was read; try again when it is complete"));
}

void SafetensorsFile::Forget(std::string_view bytes) const {
  if (!content_->mapping.has_value() || bytes.empty()) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = (reinterpret_cast<uintptr_t>(bytes.data()) + page - 1) / page * page;
  const auto last = reinterpret_cast<uintptr_t>(bytes.data() + bytes.size()) / page * page;
  // A hint: the pages come back from the file when they are read again.
  if (last > first) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

std::shared_ptr<const void> SafetensorsFile::owner() const { return content_; }

absl::StatusOr<std::string> SerializeSafetensors(
    std::span<const SafetensorsTensor> tensors,
    const std::map<std::string, std::string>& metadata) {
  std::vector<const SafetensorsTensor*> order;
  for (const SafetensorsTensor& tensor : tensors) {
    const bool negative = std::ranges::any_of(tensor.shape, [](int64_t dim) { return dim < 0; });
    if (negative || ByteCount(tensor.dtype, tensor.shape) != tensor.bytes.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", Quoted(tensor.name), " has ", tensor.bytes.size(),
                       " bytes, which is not what its dtype and shape need"));
    }
    if (tensor.name == kMetadataKey) {
      return absl::InvalidArgumentError(absl::StrCat("reserved tensor name: ", kMetadataKey));
    }
    order.push_back(&tensor);
  }
  std::ranges::sort(order, [](const auto* a, const auto* b) {
    return std::tie(b->dtype, a->name) < std::tie(a->dtype, b->name);
  });

  uint64_t offset = 0;
  absl::flat_hash_set<std::string_view> seen;
  std::string text = "{";
  try {
    if (!metadata.empty()) {
      absl::StrAppend(&text, "\"", kMetadataKey, "\":", nlohmann::json(metadata).dump());
    }
    for (const SafetensorsTensor* tensor : order) {
      if (!seen.insert(tensor->name).second) {
        return absl::InvalidArgumentError(
            absl::StrCat("tensor ", Quoted(tensor->name), " occurs twice"));
      }
      absl::StrAppend(&text, text.size() > 1 ? "," : "", nlohmann::json(tensor->name).dump(),
                      ":{\"dtype\":\"", std::string(SafetensorsDTypeName(tensor->dtype)),
                      "\",\"shape\":", nlohmann::json(tensor->shape).dump(), ",\"data_offsets\":[",
                      offset, ",", offset + tensor->bytes.size(), "]}");
      offset += tensor->bytes.size();
    }
  } catch (const nlohmann::json::exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tensor name or metadata value is not UTF-8: ", error.what()));
  }
  text.push_back('}');
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("safetensors header would have ", text.size(), " bytes"));
  }

  std::string file;
  file.reserve(kLengthBytes + text.size() + offset);
  for (size_t i = 0; i < kLengthBytes; ++i) {
    file.push_back(static_cast<char>((uint64_t{text.size()} >> (8 * i)) & 0xff));
  }
  file.append(text);
  for (const SafetensorsTensor* tensor : order) file.append(tensor->bytes);
  return file;
}

absl::Status WriteSafetensors(const std::string& path, std::span<const SafetensorsTensor> tensors,
                              const std::map<std::string, std::string>& metadata) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string file, SerializeSafetensors(tensors, metadata));
  return WriteFileAtomically(path, file);
}

}  // namespace fedumm::model
