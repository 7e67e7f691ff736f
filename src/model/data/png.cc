#include <png.h>

#include <csetjmp>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/image.h"
#include "model/data/image_check.h"

namespace fedumm::model {
namespace {

constexpr size_t kSignatureBytes = 8;
constexpr size_t kMaxMessageBytes = 128;

// libpng reports errors by longjmp. Each function that calls it therefore has no local variable
// with a destructor: what must be freed belongs to a PngReader, which lives outside.
struct PngReader {
  explicit PngReader(std::string_view file) : bytes(file) {}
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;

  std::string_view bytes;  // that are not read yet
  png_structp png = nullptr;
  png_infop info = nullptr;
  char message[kMaxMessageBytes] = "out of memory";
};

[[noreturn]] void OnError(png_structp png, png_const_charp message) {
  auto* const reader = static_cast<PngReader*>(png_get_error_ptr(png));
  std::strncpy(reader->message, message, kMaxMessageBytes - 1);
  png_longjmp(png, 1);
}

void OnWarning(png_structp, png_const_charp) {}

void OnRead(png_structp png, png_bytep out, size_t size) {
  auto* const reader = static_cast<PngReader*>(png_get_io_ptr(png));
  if (size > reader->bytes.size()) png_error(png, "the file is truncated");
  std::memcpy(out, reader->bytes.data(), size);
  reader->bytes.remove_prefix(size);
}

// Reads up to the first pixel. False: see reader.message.
bool ReadHeader(PngReader& reader) {
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, &OnError, &OnWarning);
  if (reader.png == nullptr) return false;
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  reader.info = png_create_info_struct(reader.png);
  if (reader.info == nullptr) return false;
  png_set_read_fn(reader.png, &reader, &OnRead);
  png_set_benign_errors(reader.png, 1);
  png_set_user_limits(reader.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);  // CheckDeclaredSize is ours
  png_set_chunk_cache_max(reader.png, 1);  // none of the texts, which may inflate to gigabytes
  png_read_info(reader.png, reader.info);
  return true;
}

// How the rows come out: one byte a sample, except grey of 16 bits.
void SetTransformations(const PngReader& reader) {
  const int depth = png_get_bit_depth(reader.png, reader.info);
  const int color = png_get_color_type(reader.png, reader.info);
  if (color == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(reader.png);
  if (color == PNG_COLOR_TYPE_PALETTE) png_set_packing(reader.png);
  if (color != PNG_COLOR_TYPE_GRAY && depth == 16) png_set_strip_16(reader.png);
  if ((color & PNG_COLOR_MASK_ALPHA) != 0) png_set_strip_alpha(reader.png);
}

// Sets the transformations and returns the bytes of a row; 0: see reader.message.
size_t StartPixels(PngReader& reader) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return 0;
  SetTransformations(reader);
  png_set_interlace_handling(reader.png);
  png_read_update_info(reader.png, reader.info);
  return png_get_rowbytes(reader.png, reader.info);
}

// Reads all rows to `rows`. False: see reader.message.
bool ReadPixels(PngReader& reader, png_bytepp rows) {
  if (setjmp(png_jmpbuf(reader.png)) != 0) return false;
  png_read_image(reader.png, rows);
  return true;
}

uint8_t ClipToByte(const uint8_t* big_endian) {
  return big_endian[0] == 0 ? big_endian[1] : uint8_t{255};
}

void AppendPixel(std::vector<uint8_t>& pixels, uint8_t red, uint8_t green, uint8_t blue) {
  pixels.push_back(red);
  pixels.push_back(green);
  pixels.push_back(blue);
}

// What Pillow makes of palette indices and grey values: an index beyond the palette is black.
std::vector<uint8_t> ToRgb(const PngReader& reader, const std::vector<uint8_t>& samples) {
  std::vector<uint8_t> pixels;
  if (png_get_color_type(reader.png, reader.info) == PNG_COLOR_TYPE_PALETTE) {
    png_colorp palette = nullptr;
    int colors = 0;
    png_get_PLTE(reader.png, reader.info, &palette, &colors);
    pixels.reserve(3 * samples.size());
    for (const uint8_t index : samples) {
      const png_color color = index < colors ? palette[index] : png_color{};
      AppendPixel(pixels, color.red, color.green, color.blue);
    }
    return pixels;
  }
  const size_t size = png_get_bit_depth(reader.png, reader.info) / 8;
  pixels.reserve(3 * samples.size() / size);
  for (size_t i = 0; i < samples.size(); i += size) {
    const uint8_t grey = size == 2 ? ClipToByte(&samples[i]) : samples[i];
    AppendPixel(pixels, grey, grey, grey);
  }
  return pixels;
}

}  // namespace

absl::StatusOr<Image> DecodePng(std::string_view bytes, int64_t max_pixels) {
  if (bytes.size() < kSignatureBytes ||
      png_sig_cmp(reinterpret_cast<png_const_bytep>(bytes.data()), 0, kSignatureBytes) != 0) {
    return absl::InvalidArgumentError("not a PNG: the signature is missing");
  }
  PngReader reader(bytes);
  const auto damaged = [&] {
    return absl::InvalidArgumentError(absl::StrCat("damaged PNG: ", reader.message));
  };
  if (!ReadHeader(reader)) return damaged();
  Image image = {.width = png_get_image_width(reader.png, reader.info),
                 .height = png_get_image_height(reader.png, reader.info)};
  FEDUMM_RETURN_IF_ERROR(CheckDeclaredSize(image.width, image.height, max_pixels));
  const size_t row_bytes = StartPixels(reader);
  if (row_bytes == 0) return damaged();
  image.pixels.resize(row_bytes * static_cast<size_t>(image.height));
  std::vector<png_bytep> rows;
  rows.reserve(static_cast<size_t>(image.height));
  for (int64_t y = 0; y < image.height; ++y) {
    rows.push_back(image.pixels.data() + row_bytes * static_cast<size_t>(y));
  }
  if (!ReadPixels(reader, rows.data())) return damaged();
  if (png_get_channels(reader.png, reader.info) == 1) image.pixels = ToRgb(reader, image.pixels);
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
