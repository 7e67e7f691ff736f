// An easy-VQA of one picture for each colour and shape, made in memory.
#pragma once

#include <array>
#include <cmath>
#include <string>
#include <vector>

#include "fedumm/model/easy_vqa.h"

namespace fedumm::model {

// A pale picture with one shape whose bounding box is [x, x + size) x [y, y + size).
inline std::vector<uint8_t> DrawShape(std::array<uint8_t, 3> color, int shape, int x, int y,
                                      int size) {
  std::vector<uint8_t> picture(kPictureBytes, 240);
  for (int row = 0; row < size; ++row) {
    for (int column = 0; column < size; ++column) {
      const double u = (column + 0.5) / size - 0.5;
      const double v = (row + 0.5) / size;
      const bool inside = shape == 1 || (shape == 0 && u * u + (v - 0.5) * (v - 0.5) <= 0.25) ||
                          (shape == 2 && std::abs(u) <= v / 2);
      const int64_t pixel = (y + row) * kPictureSize + x + column;
      if (inside) std::copy(color.begin(), color.end(), picture.begin() + pixel * 3);
    }
  }
  return picture;
}

inline EasyVqaSplit SmallSplit(int offset) {
  EasyVqaSplit split;
  for (int color = 0; color < 8; ++color) {
    for (int shape = 0; shape < 3; ++shape) {
      const int64_t i = split.num_pictures();
      const std::vector<uint8_t> picture =
          DrawShape(kPalette[color], shape, 8 + offset, 12 + offset, 28);
      split.pixels.insert(split.pixels.end(), picture.begin(), picture.end());
      split.concepts.push_back({color, shape});
      const bool is_new = IsNewColor(color) || IsNewShape(shape);
      const std::string named(kColors[color]);
      split.questions.push_back(
          {"what color is the shape?", named, i, QuestionType::kWhatColor, is_new});
      split.questions.push_back({"what shape is in the image?", std::string(kShapes[shape]), i,
                                 QuestionType::kWhatShape, is_new});
      split.questions.push_back(
          {"is there a " + named + " shape?", "yes", i, QuestionType::kColor, is_new});
      split.questions.push_back({"is there a " + std::string(kShapes[(shape + 1) % 3]) + "?", "no",
                                 i, QuestionType::kShape, is_new || IsNewShape((shape + 1) % 3)});
    }
  }
  for (size_t i = 0; i < split.questions.size(); ++i) split.balanced.push_back(i);
  return split;
}

inline EasyVqa SmallEasyVqa() { return {SmallSplit(0), SmallSplit(5)}; }

}  // namespace fedumm::model
