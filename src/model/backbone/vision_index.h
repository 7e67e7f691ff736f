// In which order the vision tower sees patches, and which of them attend to each other.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/positions.h"

namespace fedumm::model {

// For all patches of some images, one image after the other, each in merge-block order.
struct VisionIndex {
  int64_t num_patches = 0;
  std::vector<int64_t> rows;  // of each patch in its image
  std::vector<int64_t> columns;
  std::vector<int64_t>
      window_index;  // window_index[i]: the merged cell that comes i-th in window order
  // Bounds of the segments that attend to themselves, counted in patches in window order.
  std::vector<int64_t> window_bounds;
  std::vector<int64_t> frame_bounds;
};

// INVALID_ARGUMENT for a grid that is empty, absurdly large or not a multiple of the merge size.
absl::StatusOr<VisionIndex> BuildVisionIndex(const VisionConfig& config,
                                             std::span<const ImageGrid> grids);

}  // namespace fedumm::model
