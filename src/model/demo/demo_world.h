#pragma once

#include <optional>

#include "fedumm/model/demo.h"
#include "model/demo/pixel_codec.h"
#include "model/demo/vocabulary.h"

namespace fedumm::model {

// A training or test set of questions, ready for the decoder.
struct QuestionSet {
  const EasyVqaSplit& split;
  std::vector<Sequence> sequences;
  std::vector<int64_t> pictures;  // of each sequence: an index into image_tokens
  std::vector<bool> is_new;
  // [pictures, kImageTokens, hidden], once they were needed. One thread at a time, as the world.
  mutable at::Tensor image_tokens;
};

// What of a picture set can be drawn: the known, whole and large enough shapes, moved to the
// middle.
struct DrawingSet {
  std::vector<Concept> concepts;
  at::Tensor pictures;  // uint8 [n, 64, 64, 3]
};
DrawingSet DrawingsOf(const EasyVqaSplit& split);

struct DemoState {
  const EasyVqa& data;
  std::unique_ptr<UnifiedModel> model;
  std::optional<Vocabulary> vocabulary;
  std::optional<PixelCodec> codec;
  QuestionSet train;  // the balanced questions
  QuestionSet test;
  std::vector<Concept> drawn;  // the training drawings
  at::Tensor latents;          // of them, [n, channels, 8, 8]
  std::vector<std::string> vqa_labels;
  std::vector<std::string> draw_labels;
};

}  // namespace fedumm::model
