// Finds colour and shape of a picture with rules alone: no model is involved.
#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "fedumm/model/easy_vqa.h"

namespace fedumm::model {
namespace {

constexpr int kSize = static_cast<int>(kPictureSize);
// Linear interpolation between order statistics, 0 <= q <= 1. `values` is not empty.
double Quantile(std::vector<int> values, double q) {
  const double position = q * static_cast<double>(values.size() - 1);
  const size_t low = static_cast<size_t>(position);
  std::nth_element(values.begin(), values.begin() + low, values.end());
  const double below = values[low];
  if (low + 1 == values.size()) return below;
  const double above = *std::min_element(values.begin() + low + 1, values.end());
  return below + (position - static_cast<double>(low)) * (above - below);
}

std::array<double, 3> BackgroundOf(Picture picture) {
  std::array<double, 3> background;
  for (int channel = 0; channel < 3; ++channel) {
    std::vector<int> edge;
    for (int i = 0; i < kSize; ++i) {
      for (const int pixel : {i, (kSize - 1) * kSize + i, i * kSize, i * kSize + kSize - 1}) {
        edge.push_back(picture[pixel * 3 + channel]);
      }
    }
    background[channel] = Quantile(std::move(edge), 0.5);
  }
  return background;
}

std::vector<int> DistanceFrom(Picture picture, const std::array<double, 3>& color) {
  std::vector<int> distance(kSize * kSize);
  for (int i = 0; i < kSize * kSize; ++i) {
    double sum = 0;
    for (int channel = 0; channel < 3; ++channel) {
      sum += std::abs(picture[i * 3 + channel] - color[channel]);
    }
    distance[i] = static_cast<int>(sum);
  }
  return distance;
}

struct Box {
  int x0 = kSize, x1 = 0, y0 = kSize, y1 = 0;  // x1, y1: one past the end
  int count = 0;
};

Box BoxOf(const std::vector<int>& distance, double threshold) {
  Box box;
  for (int i = 0; i < kSize * kSize; ++i) {
    if (distance[i] <= threshold) continue;
    ++box.count;
    box.x0 = std::min(box.x0, i % kSize);
    box.x1 = std::max(box.x1, i % kSize + 1);
    box.y0 = std::min(box.y0, i / kSize);
    box.y1 = std::max(box.y1, i / kSize + 1);
  }
  return box;
}

int NearestColor(const std::array<double, 3>& color) {
  int best = 0;
  double best_distance = INFINITY;
  for (int i = 0; i < static_cast<int>(kPalette.size()); ++i) {
    double distance = 0;
    for (int channel = 0; channel < 3; ++channel) {
      distance += std::abs(color[channel] - kPalette[i][channel]);
    }
    if (distance < best_distance) {
      best = i;
      best_distance = distance;
    }
  }
  return best;
}

// Circle, rectangle and apex-up triangle that fill the unit square.
bool Inside(int shape, double u, double v) {
  if (shape == 0) return (u - 0.5) * (u - 0.5) + (v - 0.5) * (v - 0.5) <= 0.25;
  return shape == 1 || std::abs(u - 0.5) <= v / 2;
}

int BestShape(const std::vector<int>& distance, double threshold, const Box& box) {
  int best = -1;
  double best_overlap = 0.6;  // with less, no shape is reported
  for (int shape = 0; shape < static_cast<int>(kShapes.size()); ++shape) {
    int both = 0, either = 0;
    for (int y = box.y0; y < box.y1; ++y) {
      for (int x = box.x0; x < box.x1; ++x) {
        const bool in_mask = distance[y * kSize + x] > threshold;
        const bool in_shape = Inside(shape, (x - box.x0 + 0.5) / (box.x1 - box.x0),
                                     (y - box.y0 + 0.5) / (box.y1 - box.y0));
        both += in_mask && in_shape;
        either += in_mask || in_shape;
      }
    }
    const double overlap = static_cast<double>(both) / either;
    if (overlap > best_overlap) {
      best = shape;
      best_overlap = overlap;
    }
  }
  return best;
}

}  // namespace

Concept Detect(Picture picture) {
  const std::vector<int> distance = DistanceFrom(picture, BackgroundOf(picture));
  const double threshold = 0.5 * Quantile(distance, 0.995);
  const Box box = BoxOf(distance, threshold);
  if (*std::max_element(distance.begin(), distance.end()) < 60 || box.count < 20) return {};

  const double core = 0.85 * Quantile(distance, 0.99);  // excludes the blurred edge
  std::array<double, 3> color;
  for (int channel = 0; channel < 3; ++channel) {
    std::vector<int> values;
    for (int i = 0; i < kSize * kSize; ++i) {
      if (distance[i] > core) values.push_back(picture[i * 3 + channel]);
    }
    color[channel] = Quantile(std::move(values), 0.5);
  }
  return {NearestColor(color), BestShape(distance, threshold, box)};
}

std::optional<std::vector<uint8_t>> Recentre(Picture picture) {
  constexpr double kThreshold = 40;
  constexpr int kLeastPixels = 120;
  const std::array<double, 3> background = BackgroundOf(picture);
  const Box box = BoxOf(DistanceFrom(picture, background), kThreshold);
  if (box.count < kLeastPixels || box.x0 == 0 || box.y0 == 0 || box.x1 == kSize ||
      box.y1 == kSize) {
    return std::nullopt;
  }
  std::vector<uint8_t> moved(kPictureBytes);
  for (int64_t i = 0; i < kPictureBytes; ++i) moved[i] = static_cast<uint8_t>(background[i % 3]);
  const int width = box.x1 - box.x0;
  const int height = box.y1 - box.y0;
  for (int y = 0; y < height; ++y) {
    const int from = (box.y0 + y) * kSize + box.x0;
    const int to = (kSize / 2 - height / 2 + y) * kSize + kSize / 2 - width / 2;
    std::copy_n(picture.begin() + from * 3, width * 3, moved.begin() + to * 3);
  }
  return moved;
}

}  // namespace fedumm::model
