// Prompts of different lengths to draw from, as one part of a batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "fedumm/model/backbone.h"
#include "model/tasks/batch.h"

namespace fedumm::model {

// Adds the prompts of a batch's examples, padded on the right and followed by `n_query` latent
// queries. Equal prompts become one row.
void AddPromptRows(std::span<const std::vector<int64_t>* const> prompts, int64_t n_query,
                   Batch& batch);
// The decoder's answer to the latent queries after each example's prompt, [n, n_query, hidden].
at::Tensor HiddenOfPromptRows(const UnifiedModel& model, const Batch& on_device);

}  // namespace fedumm::model
