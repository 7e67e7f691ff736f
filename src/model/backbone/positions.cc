#include "fedumm/model/positions.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fedumm::model {

absl::StatusOr<RopePositions> RopePositionsOf(const BackboneConfig& config,
                                              std::span<const int64_t> tokens,
                                              std::span<const ImageGrid> grids) {
  const size_t n = tokens.size();
  const int64_t merge = config.vision.spatial_merge_size;
  RopePositions result{std::vector<int64_t>(3 * n), 0};
  int64_t* const time = result.ids.data();
  int64_t* const row = time + n;
  int64_t* const column = row + n;
  int64_t current = 0;
  size_t image = 0;
  for (size_t i = 0; i < n;) {
    if (tokens[i] == config.video_token_id) {
      return absl::InvalidArgumentError("positions: video tokens are not supported");
    }
    if (tokens[i] != config.image_token_id) {
      time[i] = row[i] = column[i] = current++;
      ++i;
      continue;
    }
    if (image == grids.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("positions: more image tokens than ", grids.size(), " images have"));
    }
    const ImageGrid& grid = grids[image++];
    if (grid.t != 1 || grid.h < merge || grid.w < merge || grid.h % merge != 0 ||
        grid.w % merge != 0) {
      return absl::InvalidArgumentError(absl::StrCat("positions: an image of ", grid.t, " x ",
                                                     grid.h, " x ", grid.w,
                                                     " patches is not supported"));
    }
    const int64_t rows = grid.h / merge;
    const int64_t columns = grid.w / merge;
    if (rows > static_cast<int64_t>(n - i) / columns ||
        std::any_of(tokens.begin() + i, tokens.begin() + i + rows * columns,
                    [&](int64_t token) { return token != config.image_token_id; })) {
      return absl::InvalidArgumentError(
          absl::StrCat("positions: image ", image - 1, " needs ", rows, " x ", columns,
                       " image tokens in a row, the prompt has fewer"));
    }
    for (int64_t cell = 0; cell < rows * columns; ++cell, ++i) {
      time[i] = current;
      row[i] = current + cell / columns;
      column[i] = current + cell % columns;
    }
    current += std::max(rows, columns);
  }
  if (image != grids.size()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "positions: ", grids.size(), " images, but image tokens for ", image, " only"));
  }
  result.delta = current - static_cast<int64_t>(n);
  return result;
}

}  // namespace fedumm::model
