// Pictures in easy-VQA's style, for pre-training: one shape in one colour on a pale background.
// LibTorch-free.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/random.h"

namespace fedumm::model {

// What the renderer can draw. The first three are kShapes, in its order; easy-VQA has no others.
enum class Form {
  kCircle,
  kRectangle,
  kTriangle,
  kDiamond,
  kRing,
  kCross,
  kHexagon,
  kHouse,
  kTrapezoid,
  kHalfDisc,
  kEll,
};
inline constexpr int kNumForms = 11;

// Whether (u, v) is inside the form that fills the unit square; v points down.
bool InsideForm(Form form, double u, double v);

using Rgb = std::array<uint8_t, 3>;

// A random RGB value that differs clearly from the background and from each of the new colours.
Rgb OtherColor(Random& random);

enum class Placement { kAnywhere, kCentred };  // anywhere: the border may clip the shape
// A picture of kPictureBytes. Size, place and background are drawn from `random`.
std::vector<uint8_t> RenderPicture(Form form, Rgb color, Placement placement, Random& random);

}  // namespace fedumm::model
