#include "model/demo/pretrain_examples.h"

#include <array>
#include <optional>
#include <string_view>
#include <utility>

namespace fedumm::model {
namespace {

// easy-VQA's sentences; "%" is the place of a word.
constexpr std::array<std::string_view, 4> kColorQuestions = {
    "is there a % shape?", "is there a % shape in the image?", "is a % shape present?",
    "does the image contain a % shape?"};
constexpr std::array<std::string_view, 4> kShapeQuestions = {
    "is there a %?", "is there a % in the image?", "is a % present?",
    "does the image contain a %?"};
constexpr std::array<std::string_view, 4> kWhatColorQuestions = {
    "what color is the shape?", "what is the color of the shape?", "what color is the %?",
    "what is the color of the %?"};
constexpr std::array<std::string_view, 4> kWhatShapeQuestions = {
    "what shape is in the image?", "what shape does the image contain?", "what shape is present?",
    "what is the % shape?"};

std::string With(std::string_view question, std::string_view word) {
  std::string text(question);
  if (const size_t at = text.find('%'); at != std::string::npos) text.replace(at, 1, word);
  return text;
}

}  // namespace

PretrainExamples::PretrainExamples(Random& random) : random_(random) {
  for (int i = 0; i < static_cast<int>(kColors.size()); ++i) {
    if (!IsNewColor(i)) old_colors_.push_back(i);
  }
  for (int i = 0; i < static_cast<int>(kShapes.size()); ++i) {
    if (!IsNewShape(i)) old_shapes_.push_back(i);
  }
}

TowerExample PretrainExamples::Tower() {
  Form form = Form::kTriangle;
  while (form == Form::kTriangle) form = static_cast<Form>(random_.Below(kNumForms));
  const Rgb color = AnyColor();
  return {RenderPicture(form, color, Placement::kAnywhere, random_), form, color};
}

ConceptExample PretrainExamples::Picture() {
  const Concept shown = {Pick(old_colors_), Pick(old_shapes_)};
  return {RenderPicture(static_cast<Form>(shown.shape), kPalette[shown.color], Placement::kAnywhere,
                        random_),
          shown};
}

QuestionExample PretrainExamples::YesNoQuestion(Concept shown) {
  const bool of_color = random_.Uniform() < 0.5;
  const bool yes = random_.Uniform() < 0.5;
  std::string_view named;
  if (of_color) {
    named = kColors[yes ? shown.color : PickOther(old_colors_, shown.color)];
  } else {
    named = kShapes[yes ? shown.shape : PickOther(old_shapes_, shown.shape)];
  }
  return {With(Pick(of_color ? kColorQuestions : kShapeQuestions), named), yes ? "yes" : "no"};
}

QuestionExample PretrainExamples::WhatQuestion(Concept shown) {
  const std::string_view color = kColors[shown.color], shape = kShapes[shown.shape];
  if (random_.Uniform() < 0.5) return {With(Pick(kWhatColorQuestions), shape), std::string(color)};
  return {With(Pick(kWhatShapeQuestions), color), std::string(shape)};
}

ConceptExample PretrainExamples::Drawing() {
  const Concept shown = {Pick(old_colors_), static_cast<int>(random_.Below(kShapes.size()))};
  return {CentredPicture(shown.shape, kPalette[shown.color]), shown};
}

std::vector<uint8_t> PretrainExamples::CodecPicture() {
  const int shape = static_cast<int>(random_.Below(kShapes.size()));
  return CentredPicture(shape, AnyColor());
}

Rgb PretrainExamples::AnyColor() {
  return random_.Uniform() < 0.5 ? kPalette[Pick(old_colors_)] : OtherColor(random_);
}

std::vector<uint8_t> PretrainExamples::CentredPicture(int shape, Rgb color) {
  while (true) {
    std::optional<std::vector<uint8_t>> picture =
        Recentre(RenderPicture(static_cast<Form>(shape), color, Placement::kCentred, random_));
    if (picture.has_value()) return *std::move(picture);
  }
}

int PretrainExamples::PickOther(const std::vector<int>& values, int not_this) {
  int value = not_this;
  while (value == not_this) value = Pick(values);
  return value;
}

}  // namespace fedumm::model
