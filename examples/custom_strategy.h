// A strategy of one's own: FedAvg whose server steps with Nesterov's momentum.
#pragma once

#include <vector>

#include "fedumm/strategies.h"

class Nesterov final : public fedumm::FedAvg {
 public:
  using FedAvg::FedAvg;
  absl::StatusOr<fedumm::ArrayRecord> Step(const fedumm::Round& round,
                                           fedumm::ArrayRecord aggregate) override {
    fedumm::ArrayRecord next, momentum;
    for (const auto& [key, mean] : aggregate) {
      std::vector<double> x = round.arrays.Find(key)->ToDoubles(), goal = mean.ToDoubles();
      std::vector<double> m(x.size());
      if (const auto* before = momentum_.Find(key)) m = before->ToDoubles();
      for (size_t i = 0; i < x.size(); ++i) {
        const double step = goal[i] - x[i];
        m[i] = 0.5 * m[i] + step;
        x[i] += 0.5 * m[i] + step;
      }
      const std::vector<int64_t> shape(mean.shape().begin(), mean.shape().end());
      momentum.Set(key, fedumm::Array::FromDoubles(shape, m));
      next.Set(key, fedumm::Array::FromDoublesLike(mean, x));  // in the dtype of the model
    }
    momentum_ = momentum;
    return next;
  }
  fedumm::ArrayRecord SaveState() const override { return momentum_; }  // goes into the checkpoint
  absl::Status RestoreState(const fedumm::ArrayRecord& state) override {
    momentum_ = state;
    return absl::OkStatus();
  }

 private:
  fedumm::ArrayRecord momentum_;
};
