#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/config.h"

namespace fedumm::model {

// An image's size in patches (before merging): t frames of h rows by w columns.
struct ImageGrid {
  int64_t t = 1;
  int64_t h = 0;
  int64_t w = 0;

  friend bool operator==(const ImageGrid&, const ImageGrid&) = default;
  friend auto operator<=>(const ImageGrid&, const ImageGrid&) = default;
};

// How many image tokens the decoder sees for one image.
inline int64_t ImageTokens(const VisionConfig& config, const ImageGrid& grid) {
  return grid.t * grid.h * grid.w / config.merge_area();
}

// Multimodal rotary positions of one row of tokens.
struct RopePositions {
  std::vector<int64_t> ids;  // [3, n] row-major: time, row, column of each token
  int64_t delta =
      0;  // the token generated at index i (from n on) is at position i + delta on every axis
};

// Positions of `tokens` (no padding), whose runs of image tokens belong to `grids` in order.
// INVALID_ARGUMENT for a video token, an image of more than one frame, and runs that do not fit the
// grids.
absl::StatusOr<RopePositions> RopePositionsOf(const BackboneConfig& config,
                                              std::span<const int64_t> tokens,
                                              std::span<const ImageGrid> grids);

}  // namespace fedumm::model
