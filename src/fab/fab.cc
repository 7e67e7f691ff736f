#include "fedumm/fab.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fab/archive.h"
#include "fab/project.h"

namespace fedumm {
namespace {

constexpr int64_t kMaxBytes = int64_t{10} << 20;  // Flower's own limit

// Checks the list of the bundle's files: it names each other file once, as "path,sha256,bits".
absl::Status CheckManifest(const std::map<std::string, fab::ArchiveFile>& files) {
  const auto manifest = files.find(std::string(fab::kManifestPath));
  if (manifest == files.end()) {
    return absl::InvalidArgumentError("app bundle: there is no .info/CONTENT");
  }
  const std::vector<absl::string_view> lines =
      absl::StrSplit(absl::StripAsciiWhitespace(manifest->second.content), '\n');
  std::map<std::string, fab::ArchiveFile>::const_iterator file;
  std::map<absl::string_view, bool> listed;
  for (const absl::string_view line : lines) {
    const std::vector<absl::string_view> fields =
        absl::StrSplit(absl::StripSuffix(line, "\r"), ',');
    int64_t bits = 0;
    if (fields.size() != 3 || !absl::SimpleAtoi(fields[2], &bits) ||
        (file = files.find(std::string(fields[0]))) == files.end() ||
        fields[1] != file->second.sha256 || bits != file->second.num_bytes * 8 ||
        !listed.emplace(fields[0], true).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "app bundle: .info/CONTENT does not match the files: '", Printable(line), "'"));
    }
  }
  for (const auto& [path, content] : files) {
    if (path != fab::kManifestPath && !listed.contains(path)) {
      return absl::InvalidArgumentError(
          absl::StrCat("app bundle: .info/CONTENT does not list '", Printable(path), "'"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Fab> Fab::Parse(std::string content) {
  if (static_cast<int64_t>(content.size()) > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("app bundle: too many bytes: ", content.size(), ", at most ", kMaxBytes));
  }
  FEDUMM_ASSIGN_OR_RETURN(const auto files, fab::ReadArchive(content));
  FEDUMM_RETURN_IF_ERROR(CheckManifest(files));
  const auto toml = files.find(std::string(fab::kProjectPath));
  if (toml == files.end()) {
    return absl::InvalidArgumentError("app bundle: there is no pyproject.toml at its root");
  }
  FEDUMM_ASSIGN_OR_RETURN(fab::Project project, fab::ParseProject(toml->second.content));
  Fab fab;
  fab.content_ = std::move(content);
  fab.hash_ = Sha256Hex(fab.content_);
  fab.id_ = absl::StrCat(project.publisher, "/", project.name);
  fab.version_ = std::move(project.version);
  fab.config_ = std::move(project.config);
  return fab;
}

absl::StatusOr<Fab> Fab::Load(const std::string& path) {
  absl::StatusOr<std::string> content = ReadFile(path, kMaxBytes);
  if (absl::IsResourceExhausted(content.status())) {
    return absl::InvalidArgumentError(
        absl::StrCat("app bundle: ", path, " has more than ", kMaxBytes, " bytes"));
  }
  FEDUMM_RETURN_IF_ERROR(content.status());
  return Parse(*std::move(content));
}

}  // namespace fedumm
