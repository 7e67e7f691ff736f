// How the next token is chosen from a row of logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "fedumm/model/generation.h"

namespace fedumm::model {

// The probabilities from which the next token is drawn: transformers' processors in its order,
// repetition penalty, temperature, top-k, top-p, min-p. `so_far` are the row's tokens, prompt
// included. At least one probability is positive.
std::vector<float> NextTokenProbabilities(std::span<const float> logits,
                                          std::span<const int64_t> so_far,
                                          const GenerationSettings& settings);

// The token that `uniform`, in [0, 1), picks by the probabilities in the order of the tokens.
int64_t PickToken(std::span<const float> probabilities, double uniform);

// Repetition penalty alone: the token with the largest logit, the first of equal ones.
int64_t GreedyToken(std::span<const float> logits, std::span<const int64_t> so_far,
                    double repetition_penalty);

}  // namespace fedumm::model
