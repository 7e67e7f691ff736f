#pragma once

#include <zlib.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/sha256.h"

namespace fedumm {

struct ZipEntry {
  std::string path;
  std::string content;
  bool deflate = false;
  uint16_t flags = 0x0800;                // names are UTF-8
  uint32_t mode = 0100644;                // Unix
  std::optional<uint16_t> method = {};    // instead of the true one
  std::optional<uint32_t> declared = {};  // uncompressed bytes, instead of the true ones
};

// Writes zips field by field, so that a test can lie in any of them.
class ZipWriter {
 public:
  void Add(const ZipEntry& entry) {
    std::string packed = entry.content;
    if (entry.deflate) {
      uLongf size = compressBound(entry.content.size());
      packed.resize(size);
      compress2(reinterpret_cast<Bytef*>(packed.data()), &size, Raw(entry.content),
                entry.content.size(), 9);
      packed = packed.substr(2, size - 6);  // without zlib's header and checksum
    }
    const auto crc = static_cast<uint32_t>(crc32(0, Raw(entry.content), entry.content.size()));
    std::string fields = Bytes(20, 2) + Bytes(entry.flags, 2) +
                         Bytes(entry.method.value_or(entry.deflate ? 8 : 0), 2) + Bytes(0, 2) +
                         Bytes(0x5941, 2) + Bytes(crc, 4) + Bytes(packed.size(), 4) +
                         Bytes(entry.declared.value_or(entry.content.size()), 4) +
                         Bytes(entry.path.size(), 2) + Bytes(0, 2);
    directory_ += std::string("PK\1\2") + Bytes(0x031e, 2) + fields + Bytes(0, 2) + Bytes(0, 2) +
                  Bytes(0, 2) + Bytes(entry.mode << 16, 4) + Bytes(files_.size(), 4) + entry.path;
    files_ += std::string("PK\3\4") + fields + entry.path + packed;
    ++entries_;
  }
  std::string Finish() const {
    return files_ + directory_ + "PK\5\6" + Bytes(0, 4) + Bytes(entries_, 2) + Bytes(entries_, 2) +
           Bytes(directory_.size(), 4) + Bytes(files_.size(), 4) + Bytes(0, 2);
  }

 private:
  static std::string Bytes(uint64_t number, int width) {
    std::string bytes;
    for (int i = 0; i < width; ++i) bytes += static_cast<char>(number >> (8 * i));
    return bytes;
  }
  static const Bytef* Raw(const std::string& text) {
    return reinterpret_cast<const Bytef*>(text.data());
  }

  std::string files_;
  std::string directory_;
  int entries_ = 0;
};

inline constexpr std::string_view kProject = R"(
[project]
name = "app"
version = "1.0"
[tool.flwr.app]
publisher = "us"
[tool.flwr.app.components]
clientapp = "app:client"
serverapp = "app:server"
)";

// A bundle of these files and a fitting .info/CONTENT.
inline std::string Bundle(std::vector<ZipEntry> entries) {
  ZipWriter zip;
  std::string list;
  for (const ZipEntry& entry : entries) {
    zip.Add(entry);
    if (entry.path.ends_with('/')) continue;
    absl::StrAppend(&list, list.empty() ? "" : "\n", entry.path, ",", Sha256Hex(entry.content), ",",
                    entry.content.size() * 8);
  }
  zip.Add({.path = ".info/CONTENT", .content = list});
  return zip.Finish();
}
inline std::string Bundle(std::string_view project) {
  return Bundle({{.path = "pyproject.toml", .content = std::string(project)}});
}

}  // namespace fedumm
