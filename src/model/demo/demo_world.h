#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/demo.h"
#include "model/demo/vocabulary.h"
#include "model/tasks/pixel_codec.h"

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

// The set's image tokens; encoded at the first call, because a client never needs those of the test
// pictures, and a server never those of the training pictures.
absl::StatusOr<at::Tensor> TokensOf(const UnifiedModel& model, const QuestionSet& set);
// The first token of the greedy answer to each sequence's prompt; `pictures` are indices into
// image_tokens.
absl::StatusOr<std::vector<int64_t>> GreedyAnswers(const UnifiedModel& model,
                                                   std::span<const Sequence> sequences,
                                                   std::span<const int64_t> pictures,
                                                   const at::Tensor& image_tokens);

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
