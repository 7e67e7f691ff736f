// One batch through the demo's model: shared by pre-training and by the tasks. These throw
// c10::Error as the backbone's methods do.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/random.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/easy_vqa.h"
#include "model/demo/vocabulary.h"

namespace fedumm::model {

// uint8 [n, 64, 64, 3] over `pixels`, which must outlive it.
at::Tensor PicturesOver(std::span<const uint8_t> pixels);
// The tower's tokens of `pictures` (uint8 [n, 64, 64, 3]): [n, kImageTokens, hidden].
absl::StatusOr<at::Tensor> EncodePictures(const UnifiedModel& model, const at::Tensor& pictures);

// The decoder's logits where it says the answers: one row for each answer token, in order.
// `targets` are those tokens. image_tokens is [B, kImageTokens, hidden].
struct AnswerLogits {
  at::Tensor logits;
  at::Tensor targets;
};
absl::StatusOr<AnswerLogits> Answers(const UnifiedModel& model,
                                     std::span<const Sequence* const> sequences,
                                     const at::Tensor& image_tokens);
// Mean cross entropy of the answer tokens.
absl::StatusOr<at::Tensor> AnswerLoss(const UnifiedModel& model,
                                      std::span<const Sequence* const> sequences,
                                      const at::Tensor& image_tokens);

// Standard normal values from `random`.
at::Tensor Normal(Random& random, at::IntArrayRef shape);
// How a batch's times of noise are drawn: each by itself, as BLIP-3o does, or one from each of B
// equal parts of [0, 1), which has the same mean and less variance.
enum class TimeSampling { kIndependent, kStratified };
// The flow matching loss of drawing `latents` [B, C, 8, 8] on the prompts for `wanted`; each prompt
// goes through the decoder once.
at::Tensor DrawLoss(const UnifiedModel& model, const Vocabulary& vocabulary,
                    std::span<const Concept> wanted, const at::Tensor& latents,
                    double prompt_dropout, TimeSampling sampling, Random& random);
// The decoder's answer to the latent queries after each prompt: [n, n_query, hidden].
at::Tensor PromptHidden(const UnifiedModel& model, const Vocabulary& vocabulary,
                        std::span<const Concept> wanted);

at::Tensor IndexTensor(std::span<const int64_t> indices);

}  // namespace fedumm::model
