#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace fedumm {

// A Flower App Bundle: the zip that `flwr build` makes, checked. It is never unpacked; its files
// are only looked at. Immutable; copying is expensive, share it.
class Fab {
 public:
  // INVALID_ARGUMENT, with the reason, for anything that is no sound bundle: not a zip, over
  // 10 MiB, entries that are too many, too large, too well compressed, doubled, links or outside
  // the bundle, an `.info/CONTENT` that is missing or does not fit the files, no pyproject.toml, or
  // one without `project.name`, `project.version`, `tool.flwr.app.publisher` and its components
  // `clientapp` and `serverapp`, which Flower's nodes want.
  static absl::StatusOr<Fab> Parse(std::string content);
  // Parse of a file; NOT_FOUND if there is none.
  static absl::StatusOr<Fab> Load(const std::string& path);

  const std::string& content() const { return content_; }
  const std::string& hash() const { return hash_; }        // lower-case hex SHA-256 of content()
  const std::string& id() const { return id_; }            // publisher/name
  const std::string& version() const { return version_; }  // project.version
  // `tool.flwr.app.config`, the defaults of the run config; keys of nested tables joined by dots.
  const ConfigRecord& config() const { return config_; }

 private:
  Fab() = default;

  std::string content_;
  std::string hash_;
  std::string id_;
  std::string version_;
  ConfigRecord config_;
};

}  // namespace fedumm
