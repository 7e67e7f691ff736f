// The built-in strategies.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/settings.h"
#include "fedumm/strategy.h"

namespace fedumm {

// Federated averaging (McMahan et al., arXiv 1602.05629): the weighted mean of the replies is the
// next model. Over LoRA adapters: FedIT.
class FedAvg : public Strategy {
 public:
  using Strategy::Strategy;
};

// FedAvg whose clients add a proximal term mu/2 * |w - w_global|^2 to their loss (Li et al., arXiv
// 1812.06127). The server sends mu as Flower's `proximal-mu`; the clients do the rest. 0 is FedAvg.
class FedProx : public FedAvg {
 public:
  explicit FedProx(StrategyOptions options = {}, double proximal_mu = 0)
      : FedAvg(std::move(options)), proximal_mu_(proximal_mu) {}

  RecordDict Instruct(const Round& round, uint64_t node_id) override;

 private:
  double proximal_mu_;
};

// FedAvg whose server takes a step of SGD with momentum towards the mean (Hsu et al., arXiv
// 1909.06335), Flower's FedAvgM: v = momentum * v + (w - mean), w = w - learning_rate * v.
// Tensors that are not floats move to the mean. The moments are kept in double.
class FedAvgMomentum : public FedAvg {
 public:
  explicit FedAvgMomentum(StrategyOptions options = {}, double server_learning_rate = 1,
                          double server_momentum = 0)
      : FedAvg(std::move(options)),
        learning_rate_(server_learning_rate),
        momentum_(server_momentum) {}

  absl::StatusOr<ArrayRecord> Step(const Round& round, ArrayRecord aggregate) override;
  ArrayRecord SaveState() const override { return velocity_; }
  // INVALID_ARGUMENT unless the tensors are float64.
  absl::Status RestoreState(const ArrayRecord& state) override;

 private:
  double learning_rate_;
  double momentum_;
  ArrayRecord velocity_;
};

// The names that NewStrategy knows.
std::vector<std::string> StrategyNames();
// The settings of all of them, "strategy.proximal-mu".
std::vector<Setting> StrategySettings();
// The strategy of that name. Of `settings` the keys that begin with "strategy." are read, others
// are left alone; a missing one takes its default. NOT_FOUND for an unknown name. INVALID_ARGUMENT,
// naming the key, for an unknown key, a value that CheckSetting refuses, or a value other than the
// default that this strategy would not use.
absl::StatusOr<std::unique_ptr<Strategy>> NewStrategy(std::string_view name,
                                                      StrategyOptions options,
                                                      const ConfigRecord& settings = {});

}  // namespace fedumm
