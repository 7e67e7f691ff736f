#include "model/backbone/vision_index.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace fedumm::model {
namespace {

constexpr int64_t kMaxSide = 65536;                // patches
constexpr int64_t kMaxPatches = int64_t{1} << 26;  // of all images together

absl::Status CheckGrid(const ImageGrid& grid, int64_t merge) {
  const auto fits = [](int64_t side) { return side >= 1 && side <= kMaxSide; };
  if (!fits(grid.t) || !fits(grid.h) || !fits(grid.w) || grid.h % merge != 0 ||
      grid.w % merge != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("vision: a grid of ", grid.t, " x ", grid.h, " x ", grid.w,
                     " patches is not supported: sides must be multiples of ", merge));
  }
  return absl::OkStatus();
}

void AddPositions(const ImageGrid& grid, int64_t merge, VisionIndex& index) {
  for (int64_t frame = 0; frame < grid.t; ++frame) {
    for (int64_t block_row = 0; block_row < grid.h; block_row += merge) {
      for (int64_t block_column = 0; block_column < grid.w; block_column += merge) {
        for (int64_t cell = 0; cell < merge * merge; ++cell) {
          index.rows.push_back(block_row + cell / merge);
          index.columns.push_back(block_column + cell % merge);
        }
      }
    }
  }
}

void AddWindows(const ImageGrid& grid, const VisionConfig& config, VisionIndex& index) {
  const int64_t side = config.window_size / config.spatial_merge_size / config.patch_size;
  const int64_t rows = grid.h / config.spatial_merge_size;
  const int64_t columns = grid.w / config.spatial_merge_size;
  for (int64_t frame = 0; frame < grid.t; ++frame) {
    const int64_t first = (index.num_patches + frame * grid.h * grid.w) / config.merge_area();
    for (int64_t top = 0; top < rows; top += side) {
      for (int64_t left = 0; left < columns; left += side) {
        const int64_t bottom = std::min(top + side, rows);
        const int64_t right = std::min(left + side, columns);
        for (int64_t row = top; row < bottom; ++row) {
          for (int64_t column = left; column < right; ++column) {
            index.window_index.push_back(first + row * columns + column);
          }
        }
        index.window_bounds.push_back(index.window_bounds.back() +
                                      (bottom - top) * (right - left) * config.merge_area());
      }
    }
    index.frame_bounds.push_back(index.frame_bounds.back() + grid.h * grid.w);
  }
}

}  // namespace

absl::StatusOr<VisionIndex> BuildVisionIndex(const VisionConfig& config,
                                             std::span<const ImageGrid> grids) {
  VisionIndex index;
  index.window_bounds.push_back(0);
  index.frame_bounds.push_back(0);
  for (const ImageGrid& grid : grids) {
    if (absl::Status status = CheckGrid(grid, config.spatial_merge_size); !status.ok())
      return status;
    const int64_t patches = grid.t * grid.h * grid.w;
    if (patches > kMaxPatches - index.num_patches) {
      return absl::InvalidArgumentError(
          absl::StrCat("vision: more than ", kMaxPatches, " patches in one call"));
    }
    AddPositions(grid, config.spatial_merge_size, index);
    AddWindows(grid, config, index);
    index.num_patches += patches;
  }
  return index;
}

}  // namespace fedumm::model
