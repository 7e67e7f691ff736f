#include "model/demo/renderer.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "fedumm/model/easy_vqa.h"

namespace fedumm::model {
namespace {

constexpr int kSize = static_cast<int>(kPictureSize);
constexpr int kCanvas = 2 * kSize;  // drawn at twice the size, then scaled down: smooth edges
constexpr int kLeastSide = kCanvas / 8;
constexpr int kMostSide = kCanvas / 2;
constexpr int kLeastLight = 230;  // of a background's channels

// In L1 distance. The nearest pair of an old and a new colour (gray, teal) is 128 apart.
constexpr int kLeastFromNew = 110;
constexpr int kLeastFromBackground = 150;

int Distance(Rgb a, Rgb b) {
  int sum = 0;
  for (size_t i = 0; i < 3; ++i) sum += std::abs(a[i] - b[i]);
  return sum;
}

int Between(int least, int most, Random& random) {
  const uint64_t count = static_cast<uint64_t>(most) - static_cast<uint64_t>(least) + 1;
  return least + static_cast<int>(random.Below(count));
}

struct Box {
  int x, y, width, height;  // on the canvas; may reach over its border
};

Box PlaceOf(Form form, Placement placement, Random& random) {
  const int width = Between(kLeastSide, kMostSide, random);
  int height = width;
  if (form == Form::kTriangle) {  // equilateral
    height = static_cast<int>(std::lround(width * std::sqrt(3) / 2));
  } else if (form != Form::kCircle && form != Form::kRing) {
    height = Between(kLeastSide, kMostSide, random);
  }
  constexpr int kMargin = kCanvas / 6;  // between the border and the shape's middle
  int x = kCanvas / 2, y = kCanvas / 2;
  if (placement == Placement::kAnywhere) {
    x = Between(kMargin, kCanvas - kMargin, random);
    y = Between(kMargin, kCanvas - kMargin, random);
  }
  return {x - width / 2, y - height / 2, width, height};
}

// The share of each pixel that the form covers: a triangle filter over the canvas, as easy-VQA's
// pictures were scaled with.
std::vector<double> CoverageOf(Form form, const Box& box) {
  constexpr std::array<double, 4> kFilter = {0.125, 0.375, 0.375, 0.125};
  std::vector<double> coverage(kSize * kSize, 0);
  for (int y = std::max(0, box.y); y < std::min(kCanvas, box.y + box.height); ++y) {
    for (int x = std::max(0, box.x); x < std::min(kCanvas, box.x + box.width); ++x) {
      if (!InsideForm(form, (x - box.x + 0.5) / box.width, (y - box.y + 0.5) / box.height))
        continue;
      // Pixel p weighs the canvas from 2p - 1 to 2p + 2.
      for (int py = (y - 1) / 2; py <= (y + 1) / 2; ++py) {
        for (int px = (x - 1) / 2; px <= (x + 1) / 2; ++px) {
          if (py >= kSize || px >= kSize) continue;
          const int row = y - 2 * py + 1;
          const int column = x - 2 * px + 1;
          if (row < 0 || row >= 4 || column < 0 || column >= 4) continue;
          coverage[py * kSize + px] += kFilter[row] * kFilter[column];
        }
      }
    }
  }
  return coverage;
}

}  // namespace

bool InsideForm(Form form, double u, double v) {
  const double x = std::abs(u - 0.5), y = std::abs(v - 0.5);
  const double radius = std::sqrt(x * x + y * y);
  switch (form) {
    case Form::kCircle:
      return radius <= 0.5;
    case Form::kRectangle:
      return true;
    case Form::kTriangle:
      return x <= v / 2;
    case Form::kDiamond:
      return x + y <= 0.5;
    case Form::kRing:
      return radius <= 0.5 && radius >= 0.3;
    case Form::kCross:
      return x <= 0.16 || y <= 0.16;
    case Form::kHexagon:
      return x + y / 2 <= 0.5;
    case Form::kHouse:
      return v >= 0.5 || x <= v;
    case Form::kTrapezoid:
      return x <= 0.25 + v / 4;
    case Form::kHalfDisc:
      return 4 * x * x + (1 - v) * (1 - v) <= 1;
    case Form::kEll:
      return u <= 0.35 || v >= 0.65;
  }
  return false;
}

Rgb OtherColor(Random& random) {
  const Rgb background = {(kLeastLight + 255) / 2, (kLeastLight + 255) / 2,
                          (kLeastLight + 255) / 2};
  while (true) {
    Rgb color;
    for (uint8_t& channel : color) channel = static_cast<uint8_t>(random.Below(256));
    bool apart = Distance(color, background) >= kLeastFromBackground;
    for (int i = 0; i < static_cast<int>(kPalette.size()); ++i) {
      if (IsNewColor(i) && Distance(color, kPalette[i]) < kLeastFromNew) apart = false;
    }
    if (apart) return color;
  }
}

std::vector<uint8_t> RenderPicture(Form form, Rgb color, Placement placement, Random& random) {
  Rgb background;
  for (uint8_t& channel : background) {
    channel = static_cast<uint8_t>(Between(kLeastLight, 255, random));
  }
  const std::vector<double> coverage = CoverageOf(form, PlaceOf(form, placement, random));
  std::vector<uint8_t> picture(kPictureBytes);
  for (int64_t i = 0; i < kPictureBytes; ++i) {
    const double share = coverage[i / 3];
    picture[i] =
        static_cast<uint8_t>(std::lround((1 - share) * background[i % 3] + share * color[i % 3]));
  }
  return picture;
}

}  // namespace fedumm::model
