// What each way of training is given, so that they can be compared.
#pragma once

#include <cstdint>

#include "programs/report/run_data.h"
#include "programs/run_config.h"

namespace fedumm::programs {

// How often the server used a client's reply: each stands for train.local-steps steps.
int64_t RepliesUsed(const RunData& run);

// The settings of a training on all examples in one place that looks at as many examples as the
// federation did: batches are larger by centralized.batch-factor and steps fewer by the same factor
// (rounded up to a whole round); the learning rate is its own.
RunConfig CentralizedConfig(RunConfig config, const RunData& run);

// Sets the examples and steps of a bar: what `replies` replies of clients, or as many rounds of one
// training, look at.
void SetGiven(const RunConfig& config, const TaskData& task, int64_t replies, Bar& bar);

}  // namespace fedumm::programs
