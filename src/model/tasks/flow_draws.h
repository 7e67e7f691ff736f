// What is random about a batch of drawings beside its noise.
#pragma once

#include <cstdint>

#include "base/random.h"
#include "model/tasks/batch.h"

namespace fedumm::model {

// How a batch's times of noise are drawn: each by itself, as BLIP-3o does, or one from each of n
// equal parts of [0, 1), which has the same mean and less variance.
enum class TimeSampling { kIndependent, kStratified };

// Adds "time" [n] in [0, 1) and "keep" [n], 0 where the prompt is dropped (with the probability
// `prompt_dropout`), as FlowLoss takes them: fp32 in host memory.
void AddTimesAndKeeps(int64_t n, double prompt_dropout, TimeSampling sampling, Random& random,
                      Batch& batch);

}  // namespace fedumm::model
