// One batch of scenes through a small model: shared by pre-training and by the tasks. These throw
// c10::Error as the backbone's methods do.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/random.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/task.h"
#include "model/demo/steps.h"
#include "model/demo/vocabulary.h"
#include "model/tasks/prompt_format.h"

namespace fedumm::model {

// The tokenizer of `folder` with the plain form of prompts.
absl::StatusOr<PromptFormat> LoadSceneFormat(const std::string& folder,
                                             const BackboneConfig& config);
// A question with the answer to train on.
absl::StatusOr<Sequence> SceneSequence(const PromptFormat& format, const std::string& question,
                                       const std::string& answer);

// The host's part of a batch of drawings `latents` [B, C, 8, 8] of `prompts`, with all that is
// random about it: "latents", "noise", "time" [B] and "keep" [B], 0 where the prompt is dropped.
Batch SceneDrawBatch(std::span<const std::vector<int64_t>* const> prompts, at::Tensor latents,
                     int64_t n_query, double prompt_dropout, Random& random);
// The flow matching loss of a SceneDrawBatch.
at::Tensor SceneDrawLoss(const UnifiedModel& model, const Batch& batch);

}  // namespace fedumm::model
