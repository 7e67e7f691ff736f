#include "model/tasks/flow_draws.h"

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <utility>

namespace fedumm::model {

void AddTimesAndKeeps(int64_t n, double prompt_dropout, TimeSampling sampling, Random& random,
                      Batch& batch) {
  at::Tensor time = at::empty({n}, at::kFloat), keep = at::empty({n}, at::kFloat);
  for (int64_t i = 0; i < n; ++i) {
    double u = random.Uniform();
    if (sampling == TimeSampling::kStratified) {
      u = (static_cast<double>(i) + u) / static_cast<double>(n);
    }
    // Rounding to fp32 must not reach 1.
    time.mutable_data_ptr<float>()[i] = std::min(static_cast<float>(u), 0x1.fffffep-1f);
    keep.mutable_data_ptr<float>()[i] = random.Uniform() < prompt_dropout ? 0 : 1;
  }
  batch["time"] = std::move(time);
  batch["keep"] = std::move(keep);
}

}  // namespace fedumm::model
