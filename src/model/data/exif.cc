#include "model/data/exif.h"

#include <optional>
#include <utility>

namespace fedumm::model {
namespace {

constexpr uint32_t kOrientationTag = 0x0112;
constexpr uint32_t kShortType = 3;
constexpr size_t kEntryBytes = 12;

// A number of `size` bytes at `offset`, or nothing if the block ends before.
std::optional<uint32_t> Number(std::string_view tiff, size_t offset, size_t size,
                               bool little_endian) {
  if (offset > tiff.size() || size > tiff.size() - offset) return std::nullopt;
  uint32_t number = 0;
  for (size_t i = 0; i < size; ++i) {
    const size_t at = offset + (little_endian ? size - 1 - i : i);
    number = (number << 8) | static_cast<uint8_t>(tiff[at]);
  }
  return number;
}

}  // namespace

int ExifOrientation(std::string_view tiff) {
  const bool little_endian = tiff.starts_with("II");
  if (!little_endian && !tiff.starts_with("MM")) return 1;
  const auto number = [&](size_t offset, size_t size) {
    return Number(tiff, offset, size, little_endian);
  };
  const std::optional<uint32_t> directory = number(4, 4);
  if (!directory.has_value()) return 1;
  const uint32_t entries = number(*directory, 2).value_or(0);
  for (uint32_t i = 0; i < entries; ++i) {
    const size_t entry = size_t{*directory} + 2 + i * kEntryBytes;
    const std::optional<uint32_t> tag = number(entry, 2);
    if (!tag.has_value()) return 1;
    if (*tag != kOrientationTag) continue;
    const uint32_t orientation = number(entry + 8, 2).value_or(1);
    const bool valid = number(entry + 2, 2) == kShortType && orientation >= 1 && orientation <= 8;
    return valid ? static_cast<int>(orientation) : 1;
  }
  return 1;
}

Image ApplyOrientation(Image image, int orientation) {
  if (orientation <= 1 || orientation > 8) return image;
  const bool swapped = orientation >= 5;  // rows of the file are columns of the picture
  const bool from_right =
      orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom =
      orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image turned = {.width = swapped ? image.height : image.width,
                  .height = swapped ? image.width : image.height};
  turned.pixels.reserve(image.pixels.size());
  for (int64_t y = 0; y < turned.height; ++y) {
    for (int64_t x = 0; x < turned.width; ++x) {
      int64_t column = swapped ? y : x;
      int64_t row = swapped ? x : y;
      if (from_right) column = image.width - 1 - column;
      if (from_bottom) row = image.height - 1 - row;
      const auto pixel = image.pixels.begin() + 3 * (row * image.width + column);
      turned.pixels.insert(turned.pixels.end(), pixel, pixel + 3);
    }
  }
  return turned;
}

}  // namespace fedumm::model
