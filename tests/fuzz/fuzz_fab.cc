// A zip is read as an app bundle, anything else as the pyproject.toml of one, which the checksums
// of a zip would keep from being changed.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "fab/project.h"
#include "fedumm/fab.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  if (!bytes.starts_with("PK")) {
    const auto project = fedumm::fab::ParseProject(bytes);
    if (project.ok() && (project->name.empty() || project->publisher.empty())) std::abort();
    return 0;
  }
  const absl::StatusOr<fedumm::Fab> fab = fedumm::Fab::Parse(std::string(bytes));
  if (!fab.ok()) return 0;
  // What was accepted is kept as it is.
  if (fab->content() != bytes || fab->hash().size() != 64 || fab->version().empty()) std::abort();
  return 0;
}
