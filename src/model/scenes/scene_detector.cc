#include "model/scenes/scene_detector.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <string>

#include "model/demo/renderer.h"
#include "model/scenes/scene.h"
#include "model/scenes/scene_renderer.h"

namespace fedumm::model {
namespace {

constexpr int kDetectedSide = static_cast<int>(kPictureSize);
constexpr int kLeastDistance = 90;  // from the background, in L1: yellow is 240 away
constexpr size_t kLeastPixels = 40;
constexpr double kLeastOverlap = 0.6;
constexpr float kScoreOffset = 0.2f;

using Pixels = std::vector<int>;  // indices, ascending

int Median(std::vector<int> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

int ChannelOf(Picture picture, int pixel, int channel) {
  return picture[static_cast<size_t>(pixel) * 3 + static_cast<size_t>(channel)];
}

// Of each pixel from the median of the picture's border, in L1.
std::vector<int> DistancesFromBackground(Picture picture) {
  std::array<int, 3> background;
  for (int channel = 0; channel < 3; ++channel) {
    std::vector<int> edge;
    for (int i = 0; i < kDetectedSide; ++i) {
      for (const int pixel : {i, (kDetectedSide - 1) * kDetectedSide + i, i * kDetectedSide,
                              i * kDetectedSide + kDetectedSide - 1}) {
        edge.push_back(ChannelOf(picture, pixel, channel));
      }
    }
    background[static_cast<size_t>(channel)] = Median(std::move(edge));
  }
  std::vector<int> distances;
  for (int pixel = 0; pixel < kDetectedSide * kDetectedSide; ++pixel) {
    int sum = 0;
    for (int channel = 0; channel < 3; ++channel) {
      sum +=
          std::abs(ChannelOf(picture, pixel, channel) - background[static_cast<size_t>(channel)]);
    }
    distances.push_back(sum);
  }
  return distances;
}

// The pixels that are connected with `start` by sides; `free` says which are left, and is updated.
Pixels TakeConnected(int start, std::vector<bool>& free) {
  Pixels pixels = {start};
  free[static_cast<size_t>(start)] = false;
  for (size_t next = 0; next < pixels.size(); ++next) {
    const int pixel = pixels[next], x = pixel % kDetectedSide, y = pixel / kDetectedSide;
    const std::array<std::array<int, 2>, 4> sides = {
        {{x - 1, y}, {x + 1, y}, {x, y - 1}, {x, y + 1}}};
    for (const auto& side : sides) {
      if (side[0] < 0 || side[0] >= kDetectedSide || side[1] < 0 || side[1] >= kDetectedSide)
        continue;
      const int neighbour = side[1] * kDetectedSide + side[0];
      if (!free[static_cast<size_t>(neighbour)]) continue;
      free[static_cast<size_t>(neighbour)] = false;
      pixels.push_back(neighbour);
    }
  }
  std::sort(pixels.begin(), pixels.end());
  return pixels;
}

struct Box {
  int x0 = kDetectedSide, y0 = kDetectedSide, x1 = 0, y1 = 0;  // x1, y1: one past the end
};

Box BoxOf(const Pixels& pixels) {
  Box box;
  for (const int pixel : pixels) {
    box.x0 = std::min(box.x0, pixel % kDetectedSide);
    box.x1 = std::max(box.x1, pixel % kDetectedSide + 1);
    box.y0 = std::min(box.y0, pixel / kDetectedSide);
    box.y1 = std::max(box.y1, pixel / kDetectedSide + 1);
  }
  return box;
}

// Intersection over union with the ideal shape that fills the box.
double OverlapOf(const Pixels& pixels, const Box& box, Form form) {
  int both = 0, either = 0;
  for (int y = box.y0; y < box.y1; ++y) {
    for (int x = box.x0; x < box.x1; ++x) {
      const bool in_mask = std::binary_search(pixels.begin(), pixels.end(), y * kDetectedSide + x);
      const bool in_shape = InsideForm(form, (x - box.x0 + 0.5) / (box.x1 - box.x0),
                                       (y - box.y0 + 0.5) / (box.y1 - box.y0));
      both += in_mask && in_shape;
      either += in_mask || in_shape;
    }
  }
  return either == 0 ? 0 : static_cast<double>(both) / either;
}

// Of the median of `pixels`.
std::string NearestColor(Picture picture, const Pixels& pixels) {
  std::array<int, 3> color;
  for (int channel = 0; channel < 3; ++channel) {
    std::vector<int> values;
    for (const int pixel : pixels) values.push_back(ChannelOf(picture, pixel, channel));
    color[static_cast<size_t>(channel)] = Median(std::move(values));
  }
  const auto distance = [&](size_t i) {
    int sum = 0;
    for (size_t channel = 0; channel < 3; ++channel) {
      sum += std::abs(color[channel] - kScenePalette[i][channel]);
    }
    return sum;
  };
  size_t best = 0;
  for (size_t i = 1; i < kScenePalette.size(); ++i) {
    if (distance(i) < distance(best)) best = i;
  }
  return std::string(kSceneColors[best]);
}

// The pixels at or above `least`.
Pixels AtLeast(const Pixels& pixels, const std::vector<int>& distances, double least) {
  Pixels kept;
  for (const int pixel : pixels) {
    if (distances[static_cast<size_t>(pixel)] >= least) kept.push_back(pixel);
  }
  return kept;
}

}  // namespace

std::vector<Detection> DetectShapes(Picture picture) {
  const std::vector<int> distances = DistancesFromBackground(picture);
  std::vector<bool> free;
  for (const int distance : distances) free.push_back(distance > kLeastDistance);
  std::vector<Detection> detections;
  for (int start = 0; start < kDetectedSide * kDetectedSide; ++start) {
    if (!free[static_cast<size_t>(start)]) continue;
    const Pixels spot = TakeConnected(start, free);
    std::vector<int> values;
    for (const int pixel : spot) values.push_back(distances[static_cast<size_t>(pixel)]);
    const double typical = Median(std::move(values));
    const Pixels shape = AtLeast(spot, distances, 0.5 * typical);  // without the blurred edge
    if (shape.size() < kLeastPixels) continue;
    const Box box = BoxOf(shape);
    double best = kLeastOverlap;
    Detection detection;
    for (size_t i = 0; i < kSceneShapes.size(); ++i) {
      const double overlap = OverlapOf(shape, box, FormOfSceneShape(static_cast<int>(i)));
      if (overlap <= best) continue;
      best = overlap;
      detection.class_name = std::string(kSceneShapes[i]);
    }
    if (detection.class_name.empty()) continue;
    detection.box = {static_cast<float>(box.x0), static_cast<float>(box.y0),
                     static_cast<float>(box.x1), static_cast<float>(box.y1)};
    detection.score = std::min(1.0f, static_cast<float>(best) + kScoreOffset);
    detection.color = NearestColor(picture, AtLeast(shape, distances, 0.85 * typical));
    detections.push_back(std::move(detection));
  }
  return detections;
}

}  // namespace fedumm::model
