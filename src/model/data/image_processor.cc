#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/model/image.h"
#include "model/data/image_check.h"

namespace fedumm::model {
namespace {

constexpr double kMaxAspectRatio = 200;
constexpr int64_t kMaxPixels = int64_t{1} << 28;  // the largest limit that options may set

absl::Status CheckOptions(const ImageProcessorOptions& options) {
  const auto small = [](int64_t size) { return size >= 1 && size <= 1024; };
  if (!small(options.patch_size) || !small(options.merge_size) ||
      !small(options.temporal_patch_size)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "patch_size, merge_size and temporal_patch_size must be in 1..1024: ", options.patch_size,
        ", ", options.merge_size, ", ", options.temporal_patch_size));
  }
  const auto limit = [](int64_t pixels) { return pixels >= 0 && pixels <= kMaxPixels; };
  if (!limit(options.min_pixels) || !limit(options.max_pixels) || options.max_pixels == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("impossible pixel limits: ", options.min_pixels, ", ", options.max_pixels));
  }
  for (const double value : options.std) {
    if (!(value > 0)) {
      return absl::InvalidArgumentError(absl::StrCat("std must be positive: ", value));
    }
  }
  return absl::OkStatus();
}

// Appends one patch, channel by channel, each repeated over time.
void AppendPatch(const Image& image, int64_t row, int64_t column,
                 const ImageProcessorOptions& options,
                 const std::array<std::array<float, 256>, 3>& levels, std::vector<float>& values) {
  const int64_t p = options.patch_size;
  for (size_t channel = 0; channel < 3; ++channel) {
    for (int64_t frame = 0; frame < options.temporal_patch_size; ++frame) {
      for (int64_t y = row * p; y < (row + 1) * p; ++y) {
        const uint8_t* pixel =
            &image.pixels[static_cast<size_t>(3 * (y * image.width + column * p))];
        for (int64_t x = 0; x < p; ++x) values.push_back(levels[channel][pixel[3 * x + channel]]);
      }
    }
  }
}

}  // namespace

absl::StatusOr<ImageSize> SmartResize(ImageSize size, const ImageProcessorOptions& options) {
  FEDUMM_RETURN_IF_ERROR(CheckOptions(options));
  if (size.height < 1 || size.width < 1 || size.height > kMaxImageSide ||
      size.width > kMaxImageSide) {
    return absl::InvalidArgumentError(
        absl::StrCat("impossible picture size: ", size.width, "x", size.height));
  }
  const double height = static_cast<double>(size.height);
  const double width = static_cast<double>(size.width);
  if (std::max(height, width) / std::min(height, width) > kMaxAspectRatio) {
    return absl::InvalidArgumentError(
        absl::StrCat("one side of the picture is more than ", kMaxAspectRatio,
                     " times the other: ", size.width, "x", size.height));
  }
  const double factor = static_cast<double>(options.patch_size * options.merge_size);
  const double max_pixels = static_cast<double>(options.max_pixels);
  const double min_pixels = static_cast<double>(options.min_pixels);
  // nearbyint rounds halves to even in the default mode, as Python does.
  double new_height = std::nearbyint(height / factor) * factor;
  double new_width = std::nearbyint(width / factor) * factor;
  if (new_height * new_width > max_pixels) {
    const double shrink = std::sqrt(height * width / max_pixels);
    new_height = std::max(factor, std::floor(height / shrink / factor) * factor);
    new_width = std::max(factor, std::floor(width / shrink / factor) * factor);
  } else if (new_height * new_width < min_pixels) {
    const double grow = std::sqrt(min_pixels / (height * width));
    new_height = std::ceil(height * grow / factor) * factor;
    new_width = std::ceil(width * grow / factor) * factor;
  }
  if (!(new_height >= factor && new_width >= factor)) {
    return absl::InvalidArgumentError(
        absl::StrCat("picture is smaller than half a token and "
                     "min_pixels does not enlarge it: ",
                     size.width, "x", size.height));
  }
  return ImageSize{static_cast<int64_t>(new_height), static_cast<int64_t>(new_width)};
}

absl::StatusOr<ImageProcessorOptions> ProcessorPreset(std::string_view name) {
  if (name == "hub") return ImageProcessorOptions{};
  if (name == "lmms") {
    return ImageProcessorOptions{.min_pixels = 200'704, .max_pixels = 1'605'632};
  }
  if (name == "blip3o-train") return ImageProcessorOptions{.center_crop = 448};
  return absl::InvalidArgumentError(absl::StrCat("unknown processor ", Text(name), "; there are ",
                                                 absl::StrJoin(ProcessorPresets(), ", ")));
}

std::vector<std::string> ProcessorPresets() { return {"hub", "lmms", "blip3o-train"}; }

absl::StatusOr<ImagePatches> ProcessImage(const Image& given,
                                          const ImageProcessorOptions& options) {
  FEDUMM_RETURN_IF_ERROR(CheckImage(given));
  Image cropped;
  if (options.center_crop > 0) {
    FEDUMM_ASSIGN_OR_RETURN(cropped, ResizeAndCenterCrop(given, options.center_crop));
  }
  const Image& image = options.center_crop > 0 ? cropped : given;
  FEDUMM_ASSIGN_OR_RETURN(const ImageSize size, SmartResize({image.height, image.width}, options));
  FEDUMM_ASSIGN_OR_RETURN(const Image resized, ResizeBicubic(image, size.width, size.height));

  std::array<std::array<float, 256>, 3> levels;  // of each grey level after normalisation
  for (size_t channel = 0; channel < 3; ++channel) {
    for (size_t level = 0; level < 256; ++level) {
      const float x = static_cast<float>(static_cast<double>(level) * (1.0 / 255));
      levels[channel][level] = (x - static_cast<float>(options.mean[channel])) /
                               static_cast<float>(options.std[channel]);
    }
  }
  const int64_t rows = size.height / options.patch_size;
  const int64_t columns = size.width / options.patch_size;
  ImagePatches patches = {
      .num_rows = rows * columns,
      .row_size = 3 * options.temporal_patch_size * options.patch_size * options.patch_size,
      .grid_thw = {1, rows, columns}};
  patches.values.reserve(static_cast<size_t>(patches.num_rows * patches.row_size));
  const int64_t merge = options.merge_size;
  for (int64_t block_row = 0; block_row < rows; block_row += merge) {
    for (int64_t block_column = 0; block_column < columns; block_column += merge) {
      for (int64_t i = 0; i < merge * merge; ++i) {
        AppendPatch(resized, block_row + i / merge, block_column + i % merge, options, levels,
                    patches.values);
      }
    }
  }
  return patches;
}

}  // namespace fedumm::model
