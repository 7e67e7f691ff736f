#include "fedumm/model/lora_bank.h"

#include <ATen/ops/linear.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "model/lora/lora_linear.h"

namespace fedumm::model {

// One linear's adapters, one a client.
class LoraBank::Hook final : public LinearHook {
 public:
  Hook(const LoraBank& bank, std::vector<std::shared_ptr<LoraLinear>> adapters)
      : bank_(bank), adapters_(std::move(adapters)) {}

  at::Tensor Forward(const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias) const override {
    const LoraLinear::Member member = MemberOf(weight, bias);
    const std::vector<at::Tensor> outputs =
        LoraLinear::RunTogether(x, {&member, 1}, SegmentRows(x));
    TORCH_CHECK(!outputs.empty(), "adapters of a bank differ in dropout or training");
    return outputs[0];
  }

  std::vector<at::Tensor> ForwardGroup(const at::Tensor& x,
                                       absl::Span<const Linear* const> linears) const override {
    std::vector<LoraLinear::Member> members;
    for (const Linear* linear : linears) {
      const auto* const hook = dynamic_cast<const Hook*>(linear->hook.get());
      if (hook != nullptr) {
        members.push_back(hook->MemberOf(linear->weight, linear->bias));
      } else if (linear->hook == nullptr) {
        members.push_back({linear->weight, linear->bias,
                           std::vector<const LoraLinear*>(bank_.rows_.size(), nullptr)});
      } else {
        return {};
      }
    }
    return LoraLinear::RunTogether(x, members, SegmentRows(x));
  }

  // Of the clients in the batch, which draw together.
  int64_t draws() const override {
    int64_t draws = 0;
    for (const Rows& rows : bank_.rows_) draws += AdapterOf(rows).draws();
    return draws;
  }
  void SetDraws(int64_t draws) const override {
    const int64_t more = (draws - this->draws()) / static_cast<int64_t>(bank_.rows_.size());
    for (const Rows& rows : bank_.rows_) {
      const LoraLinear& adapter = AdapterOf(rows);
      adapter.SetDraws(adapter.draws() + more);
    }
  }

 private:
  const LoraLinear& AdapterOf(const Rows& rows) const {
    return *adapters_[static_cast<size_t>(rows.adapter)];
  }
  LoraLinear::Member MemberOf(const at::Tensor& weight, const at::Tensor& bias) const {
    LoraLinear::Member member{weight, bias, {}};
    for (const Rows& rows : bank_.rows_) member.adapters.push_back(&AdapterOf(rows));
    return member;
  }
  std::vector<int64_t> SegmentRows(const at::Tensor& x) const {
    int64_t batch = 0;
    for (const Rows& rows : bank_.rows_) batch += rows.rows;
    const int64_t all = x.numel() / x.size(-1);
    TORCH_CHECK(batch > 0, "LoraBank::SetRows was not called");
    TORCH_CHECK(all % batch == 0, "an input of ", all, " rows for a batch of ", batch);
    std::vector<int64_t> segments;
    for (const Rows& rows : bank_.rows_) segments.push_back(rows.rows * (all / batch));
    return segments;
  }

  const LoraBank& bank_;
  const std::vector<std::shared_ptr<LoraLinear>> adapters_;
};

absl::StatusOr<std::unique_ptr<LoraBank>> LoraBank::Attach(std::vector<LoraAdapter*> adapters) {
  if (adapters.empty()) return absl::InvalidArgumentError("a bank of no adapters");
  const std::vector<LoraAdapter::Module>& modules = adapters[0]->modules_;
  for (size_t i = 0; i < adapters.size(); ++i) {
    const LoraAdapter& adapter = *adapters[i];
    if (adapter.attached_) {
      return absl::FailedPreconditionError(absl::StrCat("adapter ", i, " is not detached"));
    }
    for (size_t m = 0; m < std::max(modules.size(), adapter.modules_.size()); ++m) {
      if (m < modules.size() && m < adapter.modules_.size() &&
          modules[m].linear == adapter.modules_[m].linear) {
        continue;
      }
      return absl::InvalidArgumentError(
          absl::StrCat("adapter ", i, " has other modules than adapter 0: ",
                       m < adapter.modules_.size() ? adapter.modules_[m].path : modules[m].path));
    }
  }
  for (const LoraAdapter::Module& module : modules) {
    if (module.linear->hook != nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat(module.path, " has an adapter that is not of the bank"));
    }
  }
  std::unique_ptr<LoraBank> bank(new LoraBank(std::move(adapters)));
  for (size_t m = 0; m < modules.size(); ++m) {
    std::vector<std::shared_ptr<LoraLinear>> of_clients;
    for (const LoraAdapter* adapter : bank->adapters_) {
      of_clients.push_back(adapter->modules_[m].lora);
    }
    modules[m].linear->hook = std::make_shared<Hook>(*bank, std::move(of_clients));
  }
  return bank;
}

LoraBank::~LoraBank() {
  for (const LoraAdapter::Module& module : adapters_[0]->modules_) module.linear->hook = nullptr;
}

absl::Status LoraBank::SetRows(std::vector<Rows> rows) {
  std::set<int64_t> seen;
  for (const Rows& some : rows) {
    if (some.adapter < 0 || some.adapter >= static_cast<int64_t>(adapters_.size())) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter ", some.adapter, " of a bank of ", adapters_.size()));
    }
    if (!seen.insert(some.adapter).second) {
      return absl::InvalidArgumentError(absl::StrCat("adapter ", some.adapter, " occurs twice"));
    }
    if (some.rows < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter ", some.adapter, " has ", some.rows, " rows"));
    }
  }
  if (rows.empty()) return absl::InvalidArgumentError("a batch of no rows");
  rows_ = std::move(rows);
  return absl::OkStatus();
}

}  // namespace fedumm::model
