#include "fedumm/strategies.h"

#include <algorithm>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "record/form.h"

namespace fedumm {
namespace {

constexpr char kFedAvg[] = "fedavg";
constexpr char kFedProx[] = "fedprox";
constexpr char kFedAvgM[] = "fedavgm";

constexpr char kProximalMu[] = "strategy.proximal-mu";
constexpr char kServerLearningRate[] = "strategy.server-learning-rate";
constexpr char kServerMomentum[] = "strategy.server-momentum";

// Which strategy uses a setting.
std::string_view UserOf(std::string_view key) { return key == kProximalMu ? kFedProx : kFedAvgM; }

// The part of `settings` that is about strategies.
ConfigRecord OwnSettings(const ConfigRecord& settings) {
  ConfigRecord own;
  for (const auto& [key, value] : settings) {
    if (absl::StartsWith(key, "strategy.")) own.Set(key, value);
  }
  return own;
}

absl::Status CheckUsed(std::string_view name, const std::vector<Setting>& table,
                       const ConfigRecord& values) {
  for (const Setting& setting : table) {
    const ConfigValue& value = *values.Find(setting.key);
    if (UserOf(setting.key) == name || value == setting.default_value) continue;
    return absl::InvalidArgumentError(absl::StrCat("'", setting.key, "' is a setting of ",
                                                   Text(UserOf(setting.key)), ", ", Text(name),
                                                   " does not use it: ", SettingText(value)));
  }
  return absl::OkStatus();
}

}  // namespace

RecordDict FedProx::Instruct(const Round& round, uint64_t) {
  RecordDict content = round.content;
  if (round.phase != message_type::kTrain) return content;
  const ConfigRecord* shared = content.FindConfig(options().configrecord_key);
  ConfigRecord config = shared == nullptr ? ConfigRecord() : *shared;
  config.Set("proximal-mu", proximal_mu_);
  content.Set(options().configrecord_key, std::move(config));
  return content;
}

absl::StatusOr<ArrayRecord> FedAvgMomentum::Step(const Round& round, ArrayRecord aggregate) {
  if (momentum_ == 0 && learning_rate_ == 1) return aggregate;
  ArrayRecord next;
  for (const auto& [key, mean] : aggregate) {
    if (!IsFloat(mean.dtype())) {
      next.Set(key, mean);
      continue;
    }
    const Array* current = round.arrays.Find(key);
    if (current == nullptr || !SameShape(*current, mean)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the aggregate's tensor ", Quoted(key),
                       current == nullptr ? " is not in the model" : " has another shape"));
    }
    std::vector<double> x = current->ToDoubles();
    const std::vector<double> target = mean.ToDoubles();
    const Array* before = velocity_.Find(key);
    std::vector<double> velocity =
        before == nullptr ? std::vector<double>(x.size()) : before->ToDoubles();
    if (velocity.size() != x.size()) {
      return absl::FailedPreconditionError(
          absl::StrCat("the moments of tensor ", Quoted(key), " have another shape"));
    }
    for (size_t i = 0; i < x.size(); ++i) {
      velocity[i] = momentum_ * velocity[i] + (x[i] - target[i]);
      x[i] -= learning_rate_ * velocity[i];
    }
    velocity_.Set(key, Array::FromDoubles({mean.shape().begin(), mean.shape().end()}, velocity));
    next.Set(key, Array::FromDoublesLike(mean, x));
  }
  return next;
}

absl::Status FedAvgMomentum::RestoreState(const ArrayRecord& state) {
  for (const auto& [key, array] : state) {
    if (array.dtype() != DType::kFloat64) {
      return absl::InvalidArgumentError(
          absl::StrCat("the moments of tensor ", Quoted(key), " are not float64"));
    }
  }
  velocity_ = state;
  return absl::OkStatus();
}

std::vector<std::string> StrategyNames() { return {kFedAvg, kFedProx, kFedAvgM}; }

std::vector<Setting> StrategySettings() {
  return {{.key = kProximalMu,
           .default_value = 0.0,
           .help = "fedprox: weight of the proximal term in the clients' loss; 0 is fedavg",
           .min = 0},
          {.key = kServerLearningRate,
           .default_value = 1.0,
           .help = "fedavgm: step of the server towards the clients' mean",
           .min = 0,
           .above_min = true},
          {.key = kServerMomentum,
           .default_value = 0.0,
           .help = "fedavgm: momentum of the server's steps",
           .min = 0,
           .max = 1}};
}

absl::StatusOr<std::unique_ptr<Strategy>> NewStrategy(std::string_view name,
                                                      StrategyOptions options,
                                                      const ConfigRecord& settings) {
  const std::vector<std::string> names = StrategyNames();
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    return absl::NotFoundError(absl::StrCat("unknown strategy: ", Quoted(name), ", known are ",
                                            absl::StrJoin(names, ", ")));
  }
  const std::vector<Setting> table = StrategySettings();
  FEDUMM_ASSIGN_OR_RETURN(const CompletedSettings completed,
                          CompleteSettings(table, OwnSettings(settings)));
  if (!completed.not_in_table.empty()) {
    const std::string& key = completed.not_in_table[0];
    return absl::InvalidArgumentError(
        absl::StrCat("unknown setting: ", Quoted(key), DidYouMean(table, key)));
  }
  FEDUMM_RETURN_IF_ERROR(CheckUsed(name, table, completed.values));
  const auto number = [&](const char* key) { return NumberOr(completed.values, key, 0); };
  if (name == kFedProx) {
    return std::make_unique<FedProx>(std::move(options), number(kProximalMu));
  }
  if (name == kFedAvgM) {
    return std::make_unique<FedAvgMomentum>(std::move(options), number(kServerLearningRate),
                                            number(kServerMomentum));
  }
  return std::make_unique<FedAvg>(std::move(options));
}

}  // namespace fedumm
