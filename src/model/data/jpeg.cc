#include <cstddef>
#include <cstdio>
// jpeglib.h needs the two above.
#include <jpeglib.h>

#include <csetjmp>
#include <cstdlib>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/image.h"
#include "model/data/exif.h"
#include "model/data/image_check.h"

namespace fedumm::model {
namespace {

constexpr std::string_view kExifHeader("Exif\0\0", 6);
constexpr int kExifMarker = JPEG_APP0 + 1;
constexpr unsigned kMaxMarkerBytes = 65'533;
constexpr int kMaxScans =
    500;  // a progressive file has about ten; each costs a pass over the picture

// libjpeg reports errors by a call that must not return. It jumps here, to the setjmp of the
// function that called libjpeg, which has no local variable with a destructor.
struct ErrorHandler {
  jpeg_error_mgr manager;
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

[[noreturn]] void OnError(j_common_ptr info) {
  auto* const handler = reinterpret_cast<ErrorHandler*>(info->err);  // manager is its first member
  info->err->format_message(info, handler->message);
  std::longjmp(handler->jump, 1);
}

void OnMessage(j_common_ptr) {}  // of damage that libjpeg repairs and Pillow accepts

[[noreturn]] void Fail(j_common_ptr info, const char* message) {
  auto* const handler = reinterpret_cast<ErrorHandler*>(info->err);
  std::snprintf(handler->message, sizeof(handler->message), "%s", message);
  std::longjmp(handler->jump, 1);
}

void SetUp(ErrorHandler& handler) {
  jpeg_std_error(&handler.manager);
  handler.manager.error_exit = &OnError;
  handler.manager.output_message = &OnMessage;
}

struct JpegReader {
  JpegReader() { SetUp(errors); }
  ~JpegReader() { jpeg_destroy_decompress(&info); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;

  jpeg_decompress_struct info{};
  ErrorHandler errors;
  jpeg_source_mgr source{};
  jpeg_progress_mgr progress{};
};

// The source holds the whole file, so a request for more means that the file is too short.
boolean OnEndOfFile(j_decompress_ptr info) {
  Fail(reinterpret_cast<j_common_ptr>(info), "the file is truncated");
}

void OnSkip(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  if (static_cast<size_t>(count) > info->src->bytes_in_buffer) OnEndOfFile(info);
  info->src->next_input_byte += count;
  info->src->bytes_in_buffer -= static_cast<size_t>(count);
}

void OnProgress(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) {
    Fail(info, "the picture has too many scans");
  }
}

// Reads up to the first pixel. False: see reader.errors.message.
bool ReadHeader(JpegReader& reader, std::string_view bytes) {
  if (setjmp(reader.errors.jump) != 0) return false;
  reader.info.err = &reader.errors.manager;
  jpeg_create_decompress(&reader.info);
  reader.source.next_input_byte = reinterpret_cast<const JOCTET*>(bytes.data());
  reader.source.bytes_in_buffer = bytes.size();
  reader.source.init_source = [](j_decompress_ptr) {};
  reader.source.fill_input_buffer = &OnEndOfFile;
  reader.source.skip_input_data = &OnSkip;
  reader.source.resync_to_restart = &jpeg_resync_to_restart;
  reader.source.term_source = [](j_decompress_ptr) {};
  reader.info.src = &reader.source;
  reader.progress.progress_monitor = &OnProgress;
  reader.info.progress = &reader.progress;
  jpeg_save_markers(&reader.info, kExifMarker, kMaxMarkerBytes);
  jpeg_read_header(&reader.info, TRUE);
  return true;
}

// Reads all rows of grey, RGB or CMYK to `pixels`. False: see reader.errors.message.
bool ReadPixels(JpegReader& reader, uint8_t* pixels) {
  if (setjmp(reader.errors.jump) != 0) return false;
  jpeg_start_decompress(&reader.info);
  const size_t row_bytes = size_t{reader.info.output_width} * reader.info.output_components;
  while (reader.info.output_scanline < reader.info.output_height) {
    JSAMPROW row = pixels + row_bytes * reader.info.output_scanline;
    jpeg_read_scanlines(&reader.info, &row, 1);
  }
  jpeg_finish_decompress(&reader.info);
  return true;
}

// Before the pixels are read: libjpeg frees the markers after them.
int OrientationOf(const JpegReader& reader) {
  for (const jpeg_marker_struct* marker = reader.info.marker_list; marker != nullptr;
       marker = marker->next) {
    std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (marker->marker != kExifMarker || !data.starts_with(kExifHeader)) continue;
    return ExifOrientation(data.substr(kExifHeader.size()));
  }
  return 1;
}

void GreyToRgb(Image& image) {
  std::vector<uint8_t> rgb;
  rgb.reserve(3 * image.pixels.size());
  for (const uint8_t grey : image.pixels) rgb.insert(rgb.end(), 3, grey);
  image.pixels = std::move(rgb);
}

// In Pillow's integers. The stored values are inverted: 255 is no ink.
void InvertedCmykToRgb(Image& image) {
  size_t out = 0;
  for (size_t i = 0; i < image.pixels.size(); i += 4) {
    const int white = image.pixels[i + 3];
    for (size_t channel = 0; channel < 3; ++channel) {
      const int product = (255 - image.pixels[i + channel]) * white + 128;
      const int ink = ((product >> 8) + product) >> 8;  // product / 255, rounded
      image.pixels[out++] = static_cast<uint8_t>(white - ink);
    }
  }
  image.pixels.resize(out);
}

struct JpegWriter {
  JpegWriter() { SetUp(errors); }
  ~JpegWriter() {
    jpeg_destroy_compress(&info);
    std::free(buffer);
  }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;

  jpeg_compress_struct info{};
  ErrorHandler errors;
  unsigned char* buffer = nullptr;  // libjpeg allocates it
  unsigned long size = 0;
};

// Encodes to writer.buffer. False: see writer.errors.message.
bool Write(JpegWriter& writer, const Image& image, int quality) {
  if (setjmp(writer.errors.jump) != 0) {
    writer.buffer = nullptr;  // libjpeg sets it at the end only, and may have freed the first one
    return false;
  }
  writer.info.err = &writer.errors.manager;
  jpeg_create_compress(&writer.info);
  jpeg_mem_dest(&writer.info, &writer.buffer, &writer.size);
  writer.info.image_width = static_cast<JDIMENSION>(image.width);
  writer.info.image_height = static_cast<JDIMENSION>(image.height);
  writer.info.input_components = 3;
  writer.info.in_color_space = JCS_RGB;
  jpeg_set_defaults(&writer.info);
  jpeg_set_quality(&writer.info, quality, TRUE);
  jpeg_start_compress(&writer.info, TRUE);
  while (writer.info.next_scanline < writer.info.image_height) {
    const size_t offset = 3 * size_t{writer.info.image_width} * writer.info.next_scanline;
    JSAMPROW row = const_cast<JSAMPROW>(image.pixels.data() + offset);
    jpeg_write_scanlines(&writer.info, &row, 1);
  }
  jpeg_finish_compress(&writer.info);
  return true;
}

}  // namespace

absl::StatusOr<Image> DecodeJpeg(std::string_view bytes, const ImageReadOptions& options) {
  if (!bytes.starts_with("\xff\xd8")) {
    return absl::InvalidArgumentError("not a JPEG: the start marker is missing");
  }
  const auto reader = std::make_unique<JpegReader>();
  const auto damaged = [&] {
    return absl::InvalidArgumentError(absl::StrCat("damaged JPEG: ", reader->errors.message));
  };
  if (!ReadHeader(*reader, bytes)) return damaged();
  Image image = {.width = reader->info.image_width, .height = reader->info.image_height};
  FEDUMM_RETURN_IF_ERROR(CheckDeclaredSize(image.width, image.height, options.max_pixels));
  const int components = reader->info.num_components;
  if (components != 1 && components != 3 && components != 4) {
    return absl::InvalidArgumentError(
        absl::StrCat("a JPEG of ", components, " components; 1, 3 and 4 are supported"));
  }
  reader->info.out_color_space = components == 1   ? JCS_GRAYSCALE
                                 : components == 3 ? JCS_RGB
                                                   : JCS_CMYK;
  const int orientation = options.apply_exif_orientation ? OrientationOf(*reader) : 1;
  image.pixels.resize(static_cast<size_t>(components * image.width * image.height));
  if (!ReadPixels(*reader, image.pixels.data())) return damaged();
  if (components == 1) GreyToRgb(image);
  if (components == 4) InvertedCmykToRgb(image);
  return ApplyOrientation(std::move(image), orientation);
}

absl::StatusOr<std::string> EncodeJpeg(const Image& image, int quality) {
  FEDUMM_RETURN_IF_ERROR(CheckImage(image));
  if (quality < 1 || quality > 100) {
    return absl::InvalidArgumentError(absl::StrCat("quality must be in 1..100: ", quality));
  }
  if (image.width > JPEG_MAX_DIMENSION || image.height > JPEG_MAX_DIMENSION) {
    return absl::InvalidArgumentError(absl::StrCat("a JPEG has at most ", JPEG_MAX_DIMENSION,
                                                   " pixels on a side: ", image.width, "x",
                                                   image.height));
  }
  const auto writer = std::make_unique<JpegWriter>();
  if (!Write(*writer, image, quality)) {
    return absl::InternalError(absl::StrCat("cannot encode a JPEG: ", writer->errors.message));
  }
  return std::string(reinterpret_cast<const char*>(writer->buffer), writer->size);
}

absl::Status WriteJpeg(const std::string& path, const Image& image, int quality) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string bytes, EncodeJpeg(image, quality));
  return WriteFileAtomically(path, bytes);
}

absl::StatusOr<Image> DecodeImage(std::string_view bytes, const ImageReadOptions& options) {
  if (bytes.starts_with("\x89PNG")) return DecodePng(bytes, options.max_pixels);
  if (bytes.starts_with("\xff\xd8")) return DecodeJpeg(bytes, options);
  return absl::InvalidArgumentError("neither a PNG nor a JPEG");
}

absl::StatusOr<Image> ReadImage(const std::string& path, const ImageReadOptions& options) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  absl::StatusOr<Image> image = DecodeImage(bytes, options);
  if (!image.ok()) {
    return absl::Status(image.status().code(), absl::StrCat(path, ": ", image.status().message()));
  }
  return image;
}

}  // namespace fedumm::model
