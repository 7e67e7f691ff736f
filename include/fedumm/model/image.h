// Pictures: PNG and JPEG files, and the input of Qwen2.5-VL's vision tower.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::model {

// 8-bit RGB, row-major. `pixels` has 3 * width * height bytes; functions that take an Image return
// INVALID_ARGUMENT if it does not.
struct Image {
  int64_t width = 0;
  int64_t height = 0;
  std::vector<uint8_t> pixels;

  friend bool operator==(const Image&, const Image&) = default;
};

inline constexpr int64_t kDefaultMaxPixels = int64_t{1} << 26;

// The pixels that Pillow's Image.open(...).convert("RGB") gives, bit for bit: the stored numbers
// without gamma or colour management, 16-bit channels cut to their high byte (but a 16-bit grey
// picture without alpha is clipped to 255), transparency dropped. INVALID_ARGUMENT for a file that
// is no PNG, damaged or truncated; RESOURCE_EXHAUSTED, before any pixel is allocated, for a picture
// of more than `max_pixels`.
absl::StatusOr<Image> DecodePng(std::string_view bytes, int64_t max_pixels = kDefaultMaxPixels);
absl::StatusOr<Image> ReadPng(const std::string& path, int64_t max_pixels = kDefaultMaxPixels);
absl::StatusOr<std::string> EncodePng(const Image& image);
absl::Status WritePng(const std::string& path, const Image& image);  // atomically

struct ImageReadOptions {
  int64_t max_pixels = kDefaultMaxPixels;
  // Turns and mirrors the picture as the EXIF orientation of a JPEG says. The VQA v2 evaluation and
  // Qwen's processor do not.
  bool apply_exif_orientation = false;
};

// As DecodePng, for JPEG: grey, YCbCr, RGB, CMYK and YCCK, baseline and progressive. CMYK is
// inverted, as Adobe writes it. A file without its end marker counts as truncated.
absl::StatusOr<Image> DecodeJpeg(std::string_view bytes, const ImageReadOptions& options = {});
// A baseline JPEG with 4:2:0 subsampling, byte for byte what Pillow's save(quality=...) writes.
// INVALID_ARGUMENT if `quality` is not in 1..100, or if a side is longer than 65,500 pixels.
absl::StatusOr<std::string> EncodeJpeg(const Image& image, int quality = 75);
absl::Status WriteJpeg(const std::string& path, const Image& image, int quality = 75);

// PNG or JPEG: the first bytes say which, not the name.
absl::StatusOr<Image> DecodeImage(std::string_view bytes, const ImageReadOptions& options = {});
absl::StatusOr<Image> ReadImage(const std::string& path, const ImageReadOptions& options = {});

// Bicubic with antialiasing, bit for bit what Pillow's Image.resize gives.
absl::StatusOr<Image> ResizeBicubic(const Image& image, int64_t width, int64_t height);

// The middle `size` x `size` pixels of the picture with its shorter side resized to `size`: bit for
// bit torchvision's Resize (bicubic) and CenterCrop. INVALID_ARGUMENT for an impossible size.
absl::StatusOr<Image> ResizeAndCenterCrop(const Image& image, int64_t size);

// As in preprocessor_config.json. The pixel limits differ between a checkpoint, its evaluation
// harness and its training code: set them explicitly.
struct ImageProcessorOptions {
  int64_t patch_size = 14;
  int64_t merge_size = 2;           // patches of merge_size x merge_size become one token
  int64_t temporal_patch_size = 2;  // a still picture is repeated this many times
  int64_t min_pixels = 3136;
  int64_t max_pixels = 12'845'056;
  // Before all else the picture's shorter side is resized to so many pixels, and the middle is cut
  // out as a square; 0: not at all.
  int64_t center_crop = 0;
  std::array<double, 3> mean = {0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> std = {0.26862954, 0.26130258, 0.27577711};
};

// The limits that a published use of Qwen2.5-VL and BLIP3o has, by name:
//   hub           the processor beside the checkpoints: 3,136 to 12,845,056 pixels
//   lmms          lmms-eval's adapter for BLIP3o: 200,704 to 1,605,632
//   blip3o-train  BLIP3o's training: the middle 448 x 448 pixels, then as hub
// INVALID_ARGUMENT, naming these, for another name.
absl::StatusOr<ImageProcessorOptions> ProcessorPreset(std::string_view name);
std::vector<std::string> ProcessorPresets();

struct ImageSize {
  int64_t height = 0;
  int64_t width = 0;

  friend bool operator==(const ImageSize&, const ImageSize&) = default;
};

// The size to which a picture is resized: multiples of patch_size * merge_size, within the pixel
// limits where that is possible, close to the original aspect ratio. INVALID_ARGUMENT if one side
// is more than 200 times the other.
absl::StatusOr<ImageSize> SmartResize(ImageSize size, const ImageProcessorOptions& options);

// One row for each patch, [3, temporal_patch_size, patch_size, patch_size], normalised; rows in
// merge-block order: the patches of one token are neighbours.
struct ImagePatches {
  std::vector<float> values;
  int64_t num_rows = 0;
  int64_t row_size = 0;
  std::array<int64_t, 3> grid_thw = {};  // in patches; a picture has t = 1

  // How many image tokens the picture takes in a prompt.
  int64_t num_tokens(int64_t merge_size) const { return num_rows / (merge_size * merge_size); }
};

// SmartResize, ResizeBicubic, normalise, cut into patches.
absl::StatusOr<ImagePatches> ProcessImage(const Image& image, const ImageProcessorOptions& options);

}  // namespace fedumm::model
