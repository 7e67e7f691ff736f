// What pre-training shows the model: rendered pictures and sentences about them. LibTorch-free.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/random.h"
#include "fedumm/model/easy_vqa.h"
#include "model/demo/renderer.h"

namespace fedumm::model {

struct TowerExample {
  std::vector<uint8_t> picture;
  Form form;
  Rgb color;
};

struct ConceptExample {
  std::vector<uint8_t> picture;
  Concept shown;
};

struct QuestionExample {
  std::string question;
  std::string answer;
};

// Endless random examples. New concepts (IsNewColor, IsNewShape) are in none of them, with one
// exception: Drawing shows triangles, in old colours. Not thread-safe.
class PretrainExamples {
 public:
  // `random` must outlive it.
  explicit PretrainExamples(Random& random);

  // Any form but the triangle, anywhere, in an old colour or in another one that is not close to a
  // new one.
  TowerExample Tower();
  // A circle or a rectangle in an old colour, anywhere.
  ConceptExample Picture();
  // About `shown`, an old concept. Half of the yes-or-no questions ask for the colour, half are
  // answered by yes.
  QuestionExample YesNoQuestion(Concept shown);
  QuestionExample WhatQuestion(Concept shown);
  // One of the three shapes in an old colour, in the middle and large enough for Recentre.
  ConceptExample Drawing();
  // As Drawing, but in a colour of Tower.
  std::vector<uint8_t> CodecPicture();

 private:
  Rgb AnyColor();
  std::vector<uint8_t> CentredPicture(int shape, Rgb color);
  template <typename List>
  const auto& Pick(const List& values) {
    return values[random_.Below(values.size())];
  }
  int PickOther(const std::vector<int>& values, int not_this);

  Random& random_;
  std::vector<int> old_colors_;
  std::vector<int> old_shapes_;
};

}  // namespace fedumm::model
