// Shares of LoraWorkspaceBytes, each planned where it is used.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "fedumm/kernels.h"

namespace fedumm::kernels {

int64_t GradSBWorkspaceBytes(const LoraProblem& problem);
int64_t GradAWorkspaceBytes(const LoraProblem& problem);

inline absl::Status CheckWorkspace(absl::string_view function, const void* workspace,
                                   int64_t floats) {
  if (floats > 0 && (workspace == nullptr || reinterpret_cast<uintptr_t>(workspace) % 256 != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(function, ": the workspace is null or not aligned to 256 bytes"));
  }
  return absl::OkStatus();
}

}  // namespace fedumm::kernels
