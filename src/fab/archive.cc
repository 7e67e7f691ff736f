#include "fab/archive.h"

#include <zip.h>

#include <array>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm::fab {
namespace {

constexpr int64_t kMaxEntries = 10'000;
constexpr int64_t kMaxFileBytes = int64_t{16} << 20;
constexpr int64_t kMaxKeptBytes = int64_t{4} << 20;
constexpr int64_t kMaxTotalBytes = int64_t{64} << 20;
constexpr int64_t kMaxRatio =
    200;  // compression of a file above kAnyRatioBytes; source code has 3 to 20
constexpr int64_t kAnyRatioBytes = int64_t{1} << 20;
constexpr size_t kMaxPathBytes = 1024;

absl::Status Refuse(std::string_view path, absl::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat("app bundle: '", Printable(Text(path)), "' ", reason));
}

uint32_t Number(std::string_view bytes, size_t at, size_t width) {
  uint32_t number = 0;
  for (size_t i = 0; i < width; ++i) {
    number |= uint32_t{static_cast<unsigned char>(bytes[at + i])} << (8 * i);
  }
  return number;
}

// Readers of zips search for the end record from the back, each in its own way. So that all find
// the same one, there must be exactly one, in the last bytes, directly after the directory it
// names.
absl::Status CheckEnd(std::string_view bytes) {
  constexpr size_t kEndBytes = 22;
  constexpr size_t kMaxComment = 65'535;
  constexpr size_t kLocatorBytes = 20;
  constexpr std::string_view kEnd("PK\5\6", 4);
  constexpr std::string_view kZip64Locator("PK\6\7", 4);
  if (bytes.size() < kEndBytes) return absl::InvalidArgumentError("app bundle: this is no zip");
  const size_t end = bytes.size() - kEndBytes;
  const size_t first = end > kMaxComment ? end - kMaxComment : 0;
  if (bytes.find(kEnd, first) != end) {
    return absl::InvalidArgumentError("app bundle: this is no zip, or something follows its end");
  }
  const uint32_t entries = Number(bytes, end + 10, 2);
  const uint64_t directory = uint64_t{Number(bytes, end + 12, 4)} + Number(bytes, end + 16, 4);
  if (Number(bytes, end + 4, 4) != 0 || Number(bytes, end + 8, 2) != entries ||
      Number(bytes, end + 20, 2) != 0 || directory != end ||
      (end >= kLocatorBytes && bytes.substr(end - kLocatorBytes, 4) == kZip64Locator)) {
    return absl::InvalidArgumentError(
        "app bundle: the zip has parts, a comment, large-file records or bytes before its end that "
        "belong to nothing");
  }
  if (entries > kMaxEntries) {
    return absl::InvalidArgumentError(
        absl::StrCat("app bundle: too many entries: ", entries, ", at most ", kMaxEntries));
  }
  return absl::OkStatus();
}

absl::Status CheckPath(std::string_view path) {
  if (path.empty() || path.size() > kMaxPathBytes) {
    return Refuse(path.substr(0, kMaxPathBytes), "is no path, or a very long one");
  }
  for (const char c : path) {
    if (static_cast<unsigned char>(c) < ' ' || c == '\\' || c == ':' || c == 0x7f) {
      return Refuse(path, "holds a character that no path in a bundle may have");
    }
  }
  if (path.ends_with('/')) path.remove_suffix(1);
  while (true) {
    const size_t slash = path.find('/');
    const std::string_view part = path.substr(0, slash);
    if (part.empty() || part == "." || part == "..") {
      return Refuse(path, "could lead out of the bundle");
    }
    if (slash == std::string_view::npos) return absl::OkStatus();
    path.remove_prefix(slash + 1);
  }
}

struct CloseZip {
  void operator()(zip_t* zip) const { zip_discard(zip); }
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};
using Zip = std::unique_ptr<zip_t, CloseZip>;

absl::StatusOr<Zip> Open(std::string_view bytes) {
  zip_error_t error;
  zip_error_init(&error);
  zip_source_t* const source =
      zip_source_buffer_create(bytes.data(), bytes.size(), /*freep=*/0, &error);
  Zip zip(source == nullptr ? nullptr
                            : zip_open_from_source(source, ZIP_RDONLY | ZIP_CHECKCONS, &error));
  if (zip == nullptr) {
    if (source != nullptr) zip_source_free(source);
    absl::Status status = absl::InvalidArgumentError(
        absl::StrCat("app bundle: the zip is broken: ", zip_error_strerror(&error)));
    zip_error_fini(&error);
    return status;
  }
  zip_error_fini(&error);
  return zip;
}

// Checks what the directory says about an entry before any of it is unpacked.
absl::Status CheckEntry(zip_t* zip, zip_uint64_t index, const zip_stat_t& stat) {
  const std::string_view path = stat.name;
  FEDUMM_RETURN_IF_ERROR(CheckPath(path));
  zip_uint8_t system = 0;
  zip_uint32_t attributes = 0;
  zip_file_get_external_attributes(zip, index, 0, &system, &attributes);
  constexpr uint32_t kTypeMask = 0170000;  // of a Unix mode, which is in the upper half
  constexpr uint32_t kFolder = 0040000;
  constexpr uint32_t kFile = 0100000;
  const uint32_t type = attributes >> 16 & kTypeMask;
  const bool folder = path.ends_with('/');
  if (type != 0 && type != (folder ? kFolder : kFile)) {
    return Refuse(path, "is neither a file nor a folder, but a link or a device");
  }
  if (stat.encryption_method != ZIP_EM_NONE) return Refuse(path, "is encrypted");
  if (stat.comp_method != ZIP_CM_STORE && stat.comp_method != ZIP_CM_DEFLATE) {
    return Refuse(path, absl::StrCat("is compressed in an unknown way: ", stat.comp_method));
  }
  if (folder && stat.size != 0) return Refuse(path, "is a folder with content");
  if (stat.size > kMaxFileBytes) {
    return Refuse(path, absl::StrCat("has too many bytes: ", stat.size));
  }
  if (stat.size > kAnyRatioBytes && stat.size / kMaxRatio > stat.comp_size) {
    return Refuse(path, absl::StrCat("unpacks from ", stat.comp_size, " to ", stat.size,
                                     " bytes: that is no source code"));
  }
  return absl::OkStatus();
}

// Reads at most the size in the directory, which CheckEntry has checked.
absl::StatusOr<ArchiveFile> ReadEntry(zip_t* zip, zip_uint64_t index, const zip_stat_t& stat) {
  const std::string_view path = stat.name;
  const bool keep = path == kProjectPath || path == kManifestPath;
  if (keep && stat.size > kMaxKeptBytes) {
    return Refuse(path, absl::StrCat("has too many bytes: ", stat.size));
  }
  const std::unique_ptr<zip_file_t, CloseZip> reader(zip_fopen_index(zip, index, 0));
  if (reader == nullptr) return Refuse(path, "cannot be read");
  ArchiveFile file;
  Sha256 hash;
  std::array<char, 65'536> buffer;
  while (true) {
    const zip_int64_t count = zip_fread(reader.get(), buffer.data(), buffer.size());
    if (count < 0) {
      return Refuse(path, absl::StrCat("cannot be unpacked: ",
                                       zip_error_strerror(zip_file_get_error(reader.get()))));
    }
    if (count == 0) break;
    file.num_bytes += count;
    if (file.num_bytes > static_cast<int64_t>(stat.size)) {
      return Refuse(path, absl::StrCat("is larger than it says: ", stat.size));
    }
    const std::string_view part(buffer.data(), count);
    hash.Update(part);
    if (keep) file.content.append(part);
  }
  if (file.num_bytes != static_cast<int64_t>(stat.size)) {
    return Refuse(path, absl::StrCat("is smaller than it says: ", stat.size));
  }
  file.sha256 = std::move(hash).Hex();
  return file;
}

// A path cannot be a file and a folder at once.
absl::Status CheckFolders(const std::map<std::string, ArchiveFile>& files) {
  for (const auto& [path, file] : files) {
    for (size_t i = path.find('/'); i != std::string::npos; i = path.find('/', i + 1)) {
      if (files.contains(path.substr(0, i))) {
        return Refuse(path.substr(0, i), "is a file and a folder");
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::map<std::string, ArchiveFile>> ReadArchive(std::string_view bytes) {
  FEDUMM_RETURN_IF_ERROR(CheckEnd(bytes));
  FEDUMM_ASSIGN_OR_RETURN(const Zip zip, Open(bytes));
  std::map<std::string, ArchiveFile> files;
  int64_t total_bytes = 0;
  const zip_int64_t entries = zip_get_num_entries(zip.get(), 0);
  for (zip_int64_t i = 0; i < entries; ++i) {
    zip_stat_t stat;
    if (zip_stat_index(zip.get(), i, 0, &stat) != 0 || stat.name == nullptr) {
      return absl::InvalidArgumentError(absl::StrCat("app bundle: entry ", i, " cannot be read"));
    }
    FEDUMM_RETURN_IF_ERROR(CheckEntry(zip.get(), i, stat));
    total_bytes += static_cast<int64_t>(stat.size);
    if (total_bytes > kMaxTotalBytes) {
      return absl::InvalidArgumentError(
          absl::StrCat("app bundle: it unpacks to more than ", kMaxTotalBytes, " bytes"));
    }
    const std::string path = stat.name;
    if (path.ends_with('/')) continue;
    FEDUMM_ASSIGN_OR_RETURN(ArchiveFile file, ReadEntry(zip.get(), i, stat));
    if (!files.emplace(path, std::move(file)).second) return Refuse(path, "is there twice");
  }
  FEDUMM_RETURN_IF_ERROR(CheckFolders(files));
  return files;
}

}  // namespace fedumm::fab
