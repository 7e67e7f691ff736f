#pragma once

#include "absl/status/status.h"
#include "fedumm/model/image.h"

namespace fedumm::model {

inline constexpr int64_t kMaxImageSide = int64_t{1} << 20;

// INVALID_ARGUMENT unless both sides are positive, at most kMaxImageSide, and match the pixels.
absl::Status CheckImage(const Image& image);

// RESOURCE_EXHAUSTED if a file declares more than `max_pixels`, or a side above kMaxImageSide.
absl::Status CheckDeclaredSize(int64_t width, int64_t height, int64_t max_pixels);

}  // namespace fedumm::model
