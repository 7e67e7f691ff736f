// Pictures from the disk to the model's input, on several threads.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/image.h"

namespace fedumm::model {

// Calls work(i) for each i in [0, n) on at most `threads` threads (the calling one included). The
// error of the lowest i is returned, whichever came first.
absl::Status ForEachIndex(size_t n, int threads, const std::function<absl::Status(size_t)>& work);

// Reads, resizes and cuts the pictures; the result has the order of `paths`. At most `threads` of
// them are in memory at their full size. `jpeg_again` writes each as a JPEG of quality 75 and reads
// that, as lmms-eval's adapters do. Errors name the picture.
absl::StatusOr<std::vector<ImagePatches>> LoadPatches(std::span<const std::string> paths,
                                                      const ImageProcessorOptions& processor,
                                                      const ImageReadOptions& reading, int threads,
                                                      bool jpeg_again = false);

// The same, each resized to width x height, as Images.
absl::StatusOr<std::vector<Image>> LoadResized(std::span<const std::string> paths, int64_t width,
                                               int64_t height, const ImageReadOptions& reading,
                                               int threads);

}  // namespace fedumm::model
