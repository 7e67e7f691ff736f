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
#include "fedumm/model/task.h"
#include "model/demo/vocabulary.h"
#include "model/tasks/batch.h"
#include "model/tasks/flow_draws.h"

namespace fedumm::model {

// uint8 [n, 64, 64, 3] over `pixels`, which must outlive it.
at::Tensor PicturesOver(std::span<const uint8_t> pixels);
// The tower's tokens of `pictures` (uint8 [n, 64, 64, 3]): [n, kImageTokens, hidden].
absl::StatusOr<at::Tensor> EncodePictures(const UnifiedModel& model, const at::Tensor& pictures);

// The host's part of a batch of questions: "input_ids" [B, W], "rows" and "targets" [n], where an
// answer token is predicted and which one it is.
Batch AnswerBatch(std::span<const Sequence* const> sequences);
// The decoder's logits for the answers of an AnswerBatch: [n, vocabulary]. image_tokens is
// [B, kImageTokens, hidden].
absl::StatusOr<at::Tensor> AnswerLogits(const UnifiedModel& model, const Batch& batch,
                                        const at::Tensor& image_tokens);
// Mean cross entropy of the answer tokens.
absl::StatusOr<at::Tensor> AnswerLoss(const UnifiedModel& model, const Batch& batch,
                                      const at::Tensor& image_tokens);

// Standard normal values from `random`.
at::Tensor Normal(Random& random, at::IntArrayRef shape);
// The host's part of a batch of drawings `latents` [B, C, 8, 8], with all that is random about it:
// "prompts" [P, L], each once, "prompt_of" [B], "latents", "noise", "time" [B] and "keep" [B], 0
// where the prompt is dropped.
Batch DrawBatch(const Vocabulary& vocabulary, std::span<const Concept> wanted, at::Tensor latents,
                double prompt_dropout, TimeSampling sampling, Random& random);
// The flow matching loss of a DrawBatch.
at::Tensor DrawLoss(const UnifiedModel& model, const Batch& batch);
// The decoder's answer to the latent queries after each prompt: [n, n_query, hidden].
at::Tensor PromptHidden(const UnifiedModel& model, const Vocabulary& vocabulary,
                        std::span<const Concept> wanted);

}  // namespace fedumm::model
