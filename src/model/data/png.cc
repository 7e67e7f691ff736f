#include <png.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/image.h"
#include "model/data/image_check.h"

namespace fedumm::model {

absl::StatusOr<Image> DecodePng(std::string_view bytes, int64_t max_pixels) {
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  if (png_image_begin_read_from_memory(&png, bytes.data(), bytes.size()) == 0) {
    return absl::InvalidArgumentError(absl::StrCat("not a PNG: ", png.message));
  }
  const int64_t width = png.width;
  const int64_t height = png.height;
  if (width > kMaxImageSide || height > kMaxImageSide || width * height > max_pixels) {
    png_image_free(&png);
    return absl::ResourceExhaustedError(absl::StrCat("picture is too large: ", width, "x", height));
  }
  png.format = PNG_FORMAT_RGBA;  // RGB would blend transparent pixels with a background
  std::vector<uint8_t> rgba(static_cast<size_t>(4 * width * height));
  if (png_image_finish_read(&png, nullptr, rgba.data(), 0, nullptr) == 0) {
    return absl::InvalidArgumentError(absl::StrCat("broken PNG: ", png.message));
  }
  Image image = {.width = width, .height = height};
  image.pixels.reserve(static_cast<size_t>(3 * width * height));
  for (size_t i = 0; i < rgba.size(); i += 4) {
    image.pixels.insert(image.pixels.end(), {rgba[i], rgba[i + 1], rgba[i + 2]});
  }
  return image;
}

absl::StatusOr<Image> ReadPng(const std::string& path, int64_t max_pixels) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  absl::StatusOr<Image> image = DecodePng(bytes, max_pixels);
  if (!image.ok()) {
    return absl::Status(image.status().code(), absl::StrCat(path, ": ", image.status().message()));
  }
  return image;
}

absl::StatusOr<std::string> EncodePng(const Image& image) {
  FEDUMM_RETURN_IF_ERROR(CheckImage(image));
  png_image png{};
  png.version = PNG_IMAGE_VERSION;
  png.width = static_cast<png_uint_32>(image.width);
  png.height = static_cast<png_uint_32>(image.height);
  png.format = PNG_FORMAT_RGB;
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(png), '\0');
  png_alloc_size_t size = bytes.size();
  if (png_image_write_to_memory(&png, bytes.data(), &size, 0, image.pixels.data(), 0, nullptr) ==
      0) {
    return absl::InternalError(absl::StrCat("cannot encode a PNG: ", png.message));
  }
  bytes.resize(size);
  return bytes;
}

absl::Status WritePng(const std::string& path, const Image& image) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string bytes, EncodePng(image));
  return WriteFileAtomically(path, bytes);
}

}  // namespace fedumm::model
