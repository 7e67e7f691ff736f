#include "model/scenes/scene_renderer.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace fedumm::model {
namespace {

constexpr int kSide = static_cast<int>(kPictureSize);
constexpr int kSamples = 4;  // on a side of each pixel: smooth edges

// The share of the pixel that the form covers.
double CoverageOf(const PlacedForm& placed, int px, int py) {
  int inside = 0;
  for (int i = 0; i < kSamples * kSamples; ++i) {
    const int column = i % kSamples;
    const int row = i / kSamples;
    const double x = px + (column + 0.5) / kSamples;
    const double y = py + (row + 0.5) / kSamples;
    const double u = (x - placed.x) / placed.side + 0.5;
    const double v = (y - placed.y) / placed.side + 0.5;
    inside += u >= 0 && u <= 1 && v >= 0 && v <= 1 && InsideForm(placed.form, u, v);
  }
  return static_cast<double>(inside) / (kSamples * kSamples);
}

double Between(double least, double most, Random& random) {
  return least + (most - least) * random.Uniform();
}

struct Point {
  double x, y;
};

// The middles of the objects' parts of the picture.
std::vector<Point> MiddlesOf(const Scene& scene) {
  constexpr double kHalf = kSide / 2.0, kNear = kSide / 4.0, kFar = kSide * 3 / 4.0;
  const bool two_kinds = scene.objects.size() == 2 && scene.objects[0] != scene.objects[1];
  if (two_kinds) {
    switch (scene.layout) {
      case SceneLayout::kLeft:
        return {{kNear, kHalf}, {kFar, kHalf}};
      case SceneLayout::kRight:
        return {{kFar, kHalf}, {kNear, kHalf}};
      case SceneLayout::kAbove:
        return {{kHalf, kNear}, {kHalf, kFar}};
      case SceneLayout::kBelow:
        return {{kHalf, kFar}, {kHalf, kNear}};
    }
  }
  switch (scene.objects.size()) {
    case 1:
      return {{kHalf, kHalf}};
    case 2:
      return {{kNear, kHalf}, {kFar, kHalf}};
    case 3:
      return {{kNear, kNear}, {kFar, kNear}, {kHalf, kFar}};
    default:
      return {{kNear, kNear}, {kFar, kNear}, {kNear, kFar}, {kFar, kFar}};
  }
}

}  // namespace

std::vector<uint8_t> RenderForms(std::span<const PlacedForm> forms, uint8_t background) {
  std::vector<uint8_t> picture(kPictureBytes, background);
  for (const PlacedForm& placed : forms) {
    const auto least = [&](double middle) {
      return std::max(0, static_cast<int>(std::floor(middle - placed.side / 2)));
    };
    const auto most = [&](double middle) {
      return std::min(kSide - 1, static_cast<int>(std::floor(middle + placed.side / 2)));
    };
    for (int y = least(placed.y); y <= most(placed.y); ++y) {
      for (int x = least(placed.x); x <= most(placed.x); ++x) {
        const double share = CoverageOf(placed, x, y);
        for (size_t channel = 0; channel < 3; ++channel) {
          uint8_t& value = picture[static_cast<size_t>(y * kSide + x) * 3 + channel];
          value = static_cast<uint8_t>(
              std::lround((1 - share) * value + share * placed.color[channel]));
        }
      }
    }
  }
  return picture;
}

Form FormOfSceneShape(int shape) {
  constexpr std::array<Form, kSceneShapes.size()> kForms = {Form::kCircle, Form::kRectangle,
                                                            Form::kTriangle, Form::kCross};
  return kForms[static_cast<size_t>(shape)];
}

std::vector<PlacedForm> PlaceScene(const Scene& scene, Random& random) {
  constexpr double kMostShift = 2, kLeastSide = 18, kMostSide = 24;
  const std::vector<Point> middles = MiddlesOf(scene);
  std::vector<PlacedForm> placed;
  for (size_t i = 0; i < scene.objects.size(); ++i) {
    const SceneObject object = scene.objects[i];
    placed.push_back({.form = FormOfSceneShape(object.shape),
                      .color = kScenePalette[static_cast<size_t>(object.color)],
                      .x = middles[i].x + Between(-kMostShift, kMostShift, random),
                      .y = middles[i].y + Between(-kMostShift, kMostShift, random),
                      .side = Between(kLeastSide, kMostSide, random)});
  }
  return placed;
}

uint8_t PaleBackground(Random& random) {
  return static_cast<uint8_t>(std::lround(Between(240, 250, random)));
}

std::vector<uint8_t> RenderScene(const Scene& scene, Random& random) {
  const uint8_t background = PaleBackground(random);
  return RenderForms(PlaceScene(scene, random), background);
}

}  // namespace fedumm::model
