#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/image.h"
#include "model/data/image_check.h"

namespace fedumm::model {
namespace {

constexpr int kFractionBits = 22;  // of the weights; with 8 bits of pixel and 2 of headroom: 32
constexpr double kSupport = 2;     // of the cubic, in pixels of the coarser grid

double Cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

// The pixels, and their fixed-point weights, that one pixel of the result is a sum of.
struct Window {
  int64_t begin = 0;
  std::vector<int32_t> weights;
};

std::vector<Window> MakeWindows(int64_t from, int64_t to) {
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  const double stretch = std::max(scale, 1.0);  // the antialiasing: shrinking widens the filter
  const double support = kSupport * stretch;
  std::vector<Window> windows(static_cast<size_t>(to));
  std::vector<double> weights;
  for (int64_t i = 0; i < to; ++i) {
    const double center = (static_cast<double>(i) + 0.5) * scale;
    const int64_t begin = std::max<int64_t>(0, static_cast<int64_t>(center - support + 0.5));
    const int64_t end = std::min(from, static_cast<int64_t>(center + support + 0.5));
    weights.clear();
    double sum = 0;
    for (int64_t x = begin; x < end; ++x) {
      weights.push_back(Cubic((static_cast<double>(x) - center + 0.5) * (1.0 / stretch)));
      sum += weights.back();
    }
    Window& window = windows[static_cast<size_t>(i)];
    window.begin = begin;
    for (const double weight : weights) {
      const double fixed = (sum != 0 ? weight / sum : weight) * (1 << kFractionBits);
      window.weights.push_back(static_cast<int32_t>(fixed < 0 ? fixed - 0.5 : fixed + 0.5));
    }
  }
  return windows;
}

// One value of the result: `pixel` is the first of the window, `stride` leads to the next.
uint8_t Convolve(const Window& window, const uint8_t* pixel, int64_t stride) {
  int32_t sum = 1 << (kFractionBits - 1);
  for (const int32_t weight : window.weights) {
    sum += *pixel * weight;
    pixel += stride;
  }
  return static_cast<uint8_t>(std::clamp(sum >> kFractionBits, 0, 255));
}

Image ResizeWidth(const Image& image, int64_t width) {
  const std::vector<Window> windows = MakeWindows(image.width, width);
  Image result = {.width = width, .height = image.height};
  result.pixels.reserve(static_cast<size_t>(3 * width * image.height));
  for (int64_t y = 0; y < image.height; ++y) {
    const uint8_t* const row = image.pixels.data() + 3 * y * image.width;
    for (const Window& window : windows) {
      for (int channel = 0; channel < 3; ++channel) {
        result.pixels.push_back(Convolve(window, row + 3 * window.begin + channel, 3));
      }
    }
  }
  return result;
}

Image ResizeHeight(const Image& image, int64_t height) {
  const std::vector<Window> windows = MakeWindows(image.height, height);
  const int64_t stride = 3 * image.width;
  Image result = {.width = image.width, .height = height};
  result.pixels.reserve(static_cast<size_t>(stride * height));
  for (const Window& window : windows) {
    const uint8_t* const row = image.pixels.data() + window.begin * stride;
    for (int64_t x = 0; x < stride; ++x) {
      result.pixels.push_back(Convolve(window, row + x, stride));
    }
  }
  return result;
}

}  // namespace

absl::Status CheckImage(const Image& image) {
  const bool sides = image.width > 0 && image.height > 0 && image.width <= kMaxImageSide &&
                     image.height <= kMaxImageSide;
  if (!sides || 3 * image.width * image.height != std::ssize(image.pixels)) {
    return absl::InvalidArgumentError(absl::StrCat("a picture of ", image.width, "x", image.height,
                                                   " with ", image.pixels.size(), " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckDeclaredSize(int64_t width, int64_t height, int64_t max_pixels) {
  if (width <= kMaxImageSide && height <= kMaxImageSide && width * height <= max_pixels) {
    return absl::OkStatus();
  }
  return absl::ResourceExhaustedError(absl::StrCat("picture is too large: ", width, "x", height,
                                                   ", at most ", max_pixels, " pixels"));
}

absl::StatusOr<Image> ResizeBicubic(const Image& image, int64_t width, int64_t height) {
  FEDUMM_RETURN_IF_ERROR(CheckImage(image));
  if (width < 1 || height < 1 || width > kMaxImageSide || height > kMaxImageSide) {
    return absl::InvalidArgumentError(absl::StrCat("cannot resize to ", width, "x", height));
  }
  Image result = width == image.width ? image : ResizeWidth(image, width);
  if (height != image.height) result = ResizeHeight(result, height);
  return result;
}

absl::StatusOr<Image> ResizeAndCenterCrop(const Image& image, int64_t size) {
  FEDUMM_RETURN_IF_ERROR(CheckImage(image));
  if (size < 1 || size > kMaxImageSide) {
    return absl::InvalidArgumentError(absl::StrCat("cannot crop to ", size, "x", size));
  }
  const bool wide = image.width > image.height;
  const int64_t longer =
      size * std::max(image.width, image.height) / std::min(image.width, image.height);
  FEDUMM_ASSIGN_OR_RETURN(const Image resized,
                          ResizeBicubic(image, wide ? longer : size, wide ? size : longer));
  // nearbyint rounds halves to even, as Python does.
  const auto middle = [&](int64_t side) {
    return static_cast<int64_t>(std::nearbyint(static_cast<double>(side - size) / 2));
  };
  const int64_t left = middle(resized.width);
  const int64_t top = middle(resized.height);
  Image result = {.width = size, .height = size};
  result.pixels.reserve(static_cast<size_t>(3 * size * size));
  for (int64_t y = top; y < top + size; ++y) {
    const uint8_t* const row = resized.pixels.data() + 3 * (y * resized.width + left);
    result.pixels.insert(result.pixels.end(), row, row + 3 * size);
  }
  return result;
}

}  // namespace fedumm::model
