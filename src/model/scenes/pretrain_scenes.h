// Pre-training of the small model of configs/scenes.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "model/demo/pretrain_stage.h"

namespace fedumm::model {

// What the shipped backbone (configs/scenes) has seen, for reports.
inline constexpr std::string_view kFrozenSceneModelHasSeen =
    "The frozen model was pre-trained on rendered scenes only: its vision tower saw other forms "
    "and many colours, but no triangle and nothing close to yellow or purple; its decoder read and "
    "its drawing branch drew scenes of all six kinds, with circles, squares and crosses in red, "
    "green, blue and black.";

// Trains a model of `folder`'s config.json and tokenizer.json from scratch by its pretrain.toml, as
// Pretrain does for easy-VQA, and writes model.safetensors there. Here the tower learns to tell
// which form and colour has its middle in each token's part of the picture; a "caption" of the
// recipe is the answer to "what is in the image?".
absl::Status PretrainScenes(const std::string& folder, const PretrainProgressFn& progress);

}  // namespace fedumm::model
