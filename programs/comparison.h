// What each way of training is given, so that they can be compared.
#pragma once

#include <cstdint>
#include <string>

#include "programs/report/run_data.h"
#include "programs/run_config.h"

namespace fedumm::programs {

// How often the server used a client's reply: each stands for local-steps batches.
int64_t RepliesUsed(const RunData& run);

// The settings of a training on all examples in one place that sees as many examples as a
// federation did in `replies` replies: batches are larger by centralized.batch-factor and steps
// fewer by the same factor (rounded up to a whole round); the learning rate is its own.
RunConfig CentralizedConfig(RunConfig config, int64_t replies);

// What `replies` replies of clients, or as many rounds of one training, see of `task`.
Given GivenOf(const RunConfig& config, const std::string& task, int64_t replies);

}  // namespace fedumm::programs
