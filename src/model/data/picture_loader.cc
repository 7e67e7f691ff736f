#include "model/data/picture_loader.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace fedumm::model {
namespace {

absl::Status InFile(const absl::Status& status, const std::string& path) {
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

absl::StatusOr<Image> JpegAgain(const Image& image) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string jpeg, EncodeJpeg(image));
  return DecodeJpeg(jpeg);
}

}  // namespace

absl::Status ForEachIndex(size_t n, int threads, const std::function<absl::Status(size_t)>& work) {
  std::vector<absl::Status> results(n);
  std::atomic<size_t> next = 0;
  const auto run = [&] {
    for (size_t i = next++; i < n; i = next++) {
      try {
        results[i] = work(i);
      } catch (const std::bad_alloc&) {
        results[i] = absl::ResourceExhaustedError("out of memory");
      }
    }
  };
  {
    std::vector<std::jthread> others;  // joined at the end of this block
    const size_t wanted = std::min(n, static_cast<size_t>(std::max(threads, 1)));
    for (size_t i = 1; i < wanted; ++i) others.emplace_back(run);
    run();
  }
  for (const absl::Status& result : results) FEDUMM_RETURN_IF_ERROR(result);
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ImagePatches>> LoadPatches(std::span<const std::string> paths,
                                                      const ImageProcessorOptions& processor,
                                                      const ImageReadOptions& reading, int threads,
                                                      bool jpeg_again) {
  std::vector<ImagePatches> patches(paths.size());
  FEDUMM_RETURN_IF_ERROR(ForEachIndex(paths.size(), threads, [&](size_t i) -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(Image image, ReadImage(paths[i], reading));
    if (jpeg_again) {
      absl::StatusOr<Image> again = JpegAgain(image);
      if (!again.ok()) return InFile(again.status(), paths[i]);
      image = *std::move(again);
    }
    absl::StatusOr<ImagePatches> processed = ProcessImage(image, processor);
    if (!processed.ok()) return InFile(processed.status(), paths[i]);
    patches[i] = *std::move(processed);
    return absl::OkStatus();
  }));
  return patches;
}

absl::StatusOr<std::vector<Image>> LoadResized(std::span<const std::string> paths, int64_t width,
                                               int64_t height, const ImageReadOptions& reading,
                                               int threads) {
  std::vector<Image> images(paths.size());
  FEDUMM_RETURN_IF_ERROR(ForEachIndex(paths.size(), threads, [&](size_t i) -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(const Image image, ReadImage(paths[i], reading));
    absl::StatusOr<Image> resized = ResizeBicubic(image, width, height);
    if (!resized.ok()) return InFile(resized.status(), paths[i]);
    images[i] = *std::move(resized);
    return absl::OkStatus();
  }));
  return images;
}

}  // namespace fedumm::model
