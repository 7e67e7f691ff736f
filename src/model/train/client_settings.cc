#include "model/train/client_settings.h"

#include <algorithm>
#include <array>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/model/client.h"

namespace fedumm::model {
namespace {

constexpr double kMaxCount = 1e9;
constexpr size_t kMaxNotices = 100;  // of one run: a server must not fill the log
constexpr char kPrefix[] = "train.";
constexpr char kBatchSize[] = "-batch-size";
constexpr char kLossWeight[] = "-loss-weight";
// The rounds of a run in the run config of Flower's templates; the schedule reads it.
constexpr char kFlowersNumRounds[] = "num-server-rounds";
constexpr char kFlowersLearningRate[] = "lr";  // in the message config of Flower's templates
// Keys of a message that are no settings of a run. MessageClippingMod obeys the last one.
constexpr std::array<const char*, 4> kMessageKeys = {"server-round", "num-rounds", "proximal-mu",
                                                     "clipping_norm"};

Setting Count(std::string key, int64_t default_value, double min, std::string help) {
  return {.key = std::move(key),
          .default_value = default_value,
          .help = std::move(help),
          .min = min,
          .max = kMaxCount};
}

Setting Number(std::string key, double default_value, std::string help) {
  return {.key = std::move(key), .default_value = default_value, .help = std::move(help), .min = 0};
}

// The table is the same in each call.
const std::vector<Setting>& Table() {
  static const auto& table = *new std::vector<Setting>(TrainSettings());
  return table;
}

std::string WithoutPrefix(std::string_view key) {
  return std::string(absl::StripPrefix(Text(key), kPrefix));
}

// The value of a setting, given with or without "train.", or nullptr. `config` may be null.
const ConfigValue* FindIn(const ConfigRecord* config, std::string_view setting) {
  if (config == nullptr) return nullptr;
  const std::string name = WithoutPrefix(setting);
  const ConfigValue* value = config->Find(name);
  if (value == nullptr) value = config->Find(absl::StrCat(kPrefix, name));
  if (value == nullptr && name == "learning-rate") value = config->Find(kFlowersLearningRate);
  return value;
}

// CheckSetting, but any 64 bits are a seed.
absl::StatusOr<ConfigValue> Check(const Setting& setting, const ConfigValue& value) {
  const auto* natural = std::get_if<uint64_t>(&value);
  if (setting.key == "seed" && natural != nullptr) {
    return ConfigValue(static_cast<int64_t>(*natural));
  }
  return CheckSetting(setting, value);
}

bool IsTaskKey(absl::string_view key) {
  return absl::EndsWith(key, kBatchSize) || absl::EndsWith(key, kLossWeight);
}

// All settings that a message may have for a node with `tasks`, without "train.".
std::vector<Setting> MessageTable(std::span<const std::unique_ptr<Task>> tasks) {
  std::vector<Setting> table = Table();
  for (const std::unique_ptr<Task>& task : tasks) {
    for (Setting& setting : TaskSettings(task->name(), task->defaults())) {
      table.push_back(std::move(setting));
    }
  }
  for (Setting& setting : table) setting.key = WithoutPrefix(setting.key);
  for (const char* key : kMessageKeys) table.push_back({.key = key});
  table.push_back({.key = kFlowersLearningRate});
  return table;
}

}  // namespace

std::vector<Setting> TrainSettings() {
  return {
      {.key = "seed",
       .default_value = int64_t{0},
       .help = "of all that is random: equal seeds give equal bits"},
      {.key = "train.tasks",
       .default_value = "",
       .help = "names of the tasks to train, separated by commas; empty: all that a client has"},
      Count("train.local-steps", 10, 1, "optimizer steps of a client in one round"),
      Count("train.batch-size", 0, 0, "examples of a batch; 0: what each task takes by default"),
      Count("train.gradient-accumulation-steps", 1, 1, "batches whose mean gradient makes a step"),
      Number("train.learning-rate", 5e-3, "of AdamW, after the warm-up"),
      Number("train.final-learning-rate", 0, "where the cosine schedule ends"),
      Count("train.warmup-steps", 0, 0, "steps of the linear warm-up, over all rounds"),
      {.key = "train.schedule",
       .default_value = "cosine",
       .help = "of the learning rate over all rounds",
       .choices = {"cosine", "constant"}},
      Number("train.weight-decay", 0, "of AdamW, decoupled"),
      Number("train.max-grad-norm", 1, "clips the gradient of a step to this norm; 0: never"),
      {.key = "train.gradient-checkpointing",
       .default_value = false,
       .help = "keeps each decoder layer's input alone and computes it again in the backward pass: "
               "less memory, more time, the same bits"},
      {.key = "train.keep-optimizer",
       .default_value = true,
       .help = "AdamW's moments stay with each client from round to round"},
  };
}

std::vector<Setting> TaskSettings(const std::string& task, const TaskDefaults& defaults) {
  return {Count(absl::StrCat(kPrefix, task, kBatchSize), 0, 0,
                absl::StrCat("examples of a batch of task ", task, "; 0: train.batch-size, or ",
                             defaults.batch_size, " where that is 0")),
          Number(absl::StrCat(kPrefix, task, kLossWeight), defaults.loss_weight,
                 absl::StrCat("weight of the loss of task ", task, " in the sum over the tasks"))};
}

absl::StatusOr<RunSettings> RunSettings::Create(uint64_t run_id, const ConfigRecord& run_config) {
  ConfigRecord given;
  for (const Setting& setting : Table()) {
    const ConfigValue* value = FindIn(&run_config, setting.key);
    if (value == nullptr) continue;
    FEDUMM_ASSIGN_OR_RETURN(ConfigValue checked, Check(setting, *value));
    given.Set(setting.key, std::move(checked));
  }
  FEDUMM_ASSIGN_OR_RETURN(CompletedSettings completed, CompleteSettings(Table(), given));
  if (!completed.filled_in.empty()) {
    std::vector<std::string> texts;
    for (const std::string& key : completed.filled_in) {
      texts.push_back(absl::StrCat(key, " = ", SettingText(*completed.values.Find(key))));
    }
    Log()->info("run {}: its config lacks training settings, which take their defaults: {}", run_id,
                absl::StrJoin(texts, ", "));
  }
  return RunSettings(run_id, run_config, std::move(completed.values));
}

absl::StatusOr<ConfigValue> RunSettings::Get(const ConfigRecord* message,
                                             std::string_view key) const {
  const ConfigValue* value = FindIn(message, key);
  if (value == nullptr) return *completed_.Find(key);
  return Check(*FindSetting(Table(), key), *value);
}

absl::StatusOr<double> RunSettings::GetNumber(const ConfigRecord* message,
                                              std::string_view key) const {
  FEDUMM_ASSIGN_OR_RETURN(const ConfigValue value, Get(message, key));
  return std::get<double>(value);
}

absl::StatusOr<int64_t> RunSettings::GetCount(const ConfigRecord* message,
                                              std::string_view key) const {
  FEDUMM_ASSIGN_OR_RETURN(const ConfigValue value, Get(message, key));
  return std::get<int64_t>(value);
}

absl::StatusOr<int64_t> RunSettings::NumRounds(const ConfigRecord* message) const {
  const ConfigValue* value = FindIn(message, "num-rounds");
  if (value == nullptr) value = FindIn(&run_config_, "num-rounds");
  for (const char* key : {"federation.rounds", kFlowersNumRounds}) {
    if (value == nullptr) value = run_config_.Find(key);
  }
  if (value == nullptr) return 0;
  FEDUMM_ASSIGN_OR_RETURN(const ConfigValue rounds,
                          CheckSetting(Count("num-rounds", 1, 1, ""), *value));
  return std::get<int64_t>(rounds);
}

absl::StatusOr<LearningRate> RunSettings::ParseLearningRate(const ConfigRecord* message,
                                                            int64_t steps_per_round) {
  LearningRate rate;
  FEDUMM_ASSIGN_OR_RETURN(rate.value, GetNumber(message, "train.learning-rate"));
  FEDUMM_ASSIGN_OR_RETURN(rate.final_value, GetNumber(message, "train.final-learning-rate"));
  FEDUMM_ASSIGN_OR_RETURN(rate.warmup_steps, GetCount(message, "train.warmup-steps"));
  FEDUMM_ASSIGN_OR_RETURN(const ConfigValue schedule, Get(message, "train.schedule"));
  if (std::get<std::string>(schedule) != "cosine") return rate;
  FEDUMM_ASSIGN_OR_RETURN(const int64_t rounds, NumRounds(message));
  rate.cosine = rounds > 0;
  rate.total_steps = rounds * steps_per_round;
  if (rate.cosine) return rate;
  const bool asked_for =
      FindIn(message, "schedule") != nullptr || FindIn(&run_config_, "schedule") != nullptr;
  if (asked_for) {
    return absl::InvalidArgumentError(
        "schedule cosine needs the number of rounds: set num-rounds in the train config or "
        "num-server-rounds in the run config, or set schedule to constant");
  }
  if (FirstTime("num-rounds")) {
    Log()->warn(
        "run {}: the learning rate stays constant, because the number of rounds is unknown; for "
        "the default cosine schedule set num-rounds in the train config or num-server-rounds in "
        "the run config",
        run_id_);
  }
  return rate;
}

absl::StatusOr<TrainOptions> RunSettings::ParseTrainOptions(const ConfigRecord* message,
                                                            int64_t round) {
  TrainOptions options;
  FEDUMM_ASSIGN_OR_RETURN(options.steps, GetCount(message, "train.local-steps"));
  FEDUMM_ASSIGN_OR_RETURN(options.accumulation_steps,
                          GetCount(message, "train.gradient-accumulation-steps"));
  FEDUMM_ASSIGN_OR_RETURN(options.weight_decay, GetNumber(message, "train.weight-decay"));
  FEDUMM_ASSIGN_OR_RETURN(options.max_grad_norm, GetNumber(message, "train.max-grad-norm"));
  FEDUMM_ASSIGN_OR_RETURN(options.learning_rate, ParseLearningRate(message, options.steps));
  options.first_step = (round - 1) * options.steps;
  return options;
}

absl::StatusOr<ClientSettings::ActiveTask> RunSettings::ParseTask(const ConfigRecord* message,
                                                                  Task& task) {
  const std::vector<Setting> table = TaskSettings(task.name(), task.defaults());
  ClientSettings::ActiveTask active{&task, 0, task.defaults().loss_weight};
  std::vector<std::string> filled_in;

  Setting batch_size = table[0];
  const ConfigValue* value = FindIn(message, batch_size.key);
  if (value == nullptr) value = FindIn(message, "batch-size");
  if (value != nullptr) {
    batch_size.min = 1;
  } else {
    value = FindIn(&run_config_, batch_size.key);
  }
  if (value != nullptr) {
    FEDUMM_ASSIGN_OR_RETURN(const ConfigValue checked, CheckSetting(batch_size, *value));
    active.batch_size = std::get<int64_t>(checked);
  }
  if (active.batch_size == 0) {
    active.batch_size = std::get<int64_t>(*completed_.Find("train.batch-size"));
  }
  if (active.batch_size == 0) {
    active.batch_size = task.defaults().batch_size;
    filled_in.push_back(absl::StrCat(batch_size.key, " = ", active.batch_size));
  }

  value = FindIn(message, table[1].key);
  if (value == nullptr) value = FindIn(&run_config_, table[1].key);
  if (value != nullptr) {
    FEDUMM_ASSIGN_OR_RETURN(const ConfigValue checked, CheckSetting(table[1], *value));
    active.loss_weight = std::get<double>(checked);
  } else {
    filled_in.push_back(absl::StrCat(table[1].key, " = ", active.loss_weight));
  }
  if (!filled_in.empty() && FirstTime(absl::StrCat("defaults of ", task.name()))) {
    Log()->info("run {}: its config lacks settings of task {}, which take the task's defaults: {}",
                run_id_, Printable(task.name()), absl::StrJoin(filled_in, ", "));
  }
  return active;
}

absl::StatusOr<ClientSettings> RunSettings::Parse(const ConfigRecord* message,
                                                  std::span<const std::unique_ptr<Task>> tasks) {
  NameUnknownKeys(message, tasks);
  ClientSettings settings;
  if (const ConfigValue* value = FindIn(message, "server-round"); value != nullptr) {
    FEDUMM_ASSIGN_OR_RETURN(const ConfigValue round,
                            CheckSetting(Count("server-round", 1, 1, ""), *value));
    settings.round = std::get<int64_t>(round);
  }
  if (const ConfigValue* value = FindIn(message, "proximal-mu"); value != nullptr) {
    FEDUMM_ASSIGN_OR_RETURN(const ConfigValue mu,
                            CheckSetting(Number("proximal-mu", 0, ""), *value));
    settings.proximal_mu = std::get<double>(mu);
  }
  FEDUMM_ASSIGN_OR_RETURN(const int64_t seed, GetCount(message, "seed"));
  settings.seed = static_cast<uint64_t>(seed);
  FEDUMM_ASSIGN_OR_RETURN(settings.train, ParseTrainOptions(message, settings.round));
  FEDUMM_ASSIGN_OR_RETURN(const ConfigValue keep, Get(message, "train.keep-optimizer"));
  settings.keep_optimizer = std::get<bool>(keep);
  FEDUMM_ASSIGN_OR_RETURN(const ConfigValue checkpointing,
                          Get(message, "train.gradient-checkpointing"));
  settings.gradient_checkpointing = std::get<bool>(checkpointing);
  FEDUMM_ASSIGN_OR_RETURN(const ConfigValue names, Get(message, "train.tasks"));
  const std::vector<std::string> chosen =
      absl::StrSplit(std::get<std::string>(names), ',', absl::SkipWhitespace());
  for (const std::unique_ptr<Task>& task : tasks) {
    FEDUMM_ASSIGN_OR_RETURN(const ClientSettings::ActiveTask active, ParseTask(message, *task));
    const bool is_chosen =
        chosen.empty() || std::find_if(chosen.begin(), chosen.end(), [&](const std::string& name) {
                            return absl::StripAsciiWhitespace(name) == task->name();
                          }) != chosen.end();
    if (is_chosen && task->num_examples() > 0) settings.tasks.push_back(active);
  }
  return settings;
}

void RunSettings::NameUnknownKeys(const ConfigRecord* message,
                                  std::span<const std::unique_ptr<Task>> tasks) {
  const std::vector<Setting> table = MessageTable(tasks);
  std::vector<Setting> prefixed = table;
  for (Setting& setting : prefixed) setting.key = absl::StrCat(kPrefix, setting.key);
  const auto check = [&](const std::string& key, const char* where, bool only_if_near) {
    const std::string name = WithoutPrefix(key);
    if (FindSetting(table, name) != nullptr || IsTaskKey(name)) return;
    const std::string hint = DidYouMean(name == key ? table : prefixed, key);
    if (only_if_near && hint.empty()) return;
    if (!FirstTime(absl::StrCat(where, key))) return;
    Log()->warn("run {}: {} has the key '{}', which is no training setting and has no effect{}",
                run_id_, where, Printable(key), hint);
  };
  if (FirstTime("run config")) {
    for (const auto& [key, value] : run_config_) {
      // Keys without a section may be the app's own.
      const bool is_ours = absl::StartsWith(key, kPrefix);
      if (key == kFlowersNumRounds) continue;
      if (is_ours || !absl::StrContains(key, '.')) check(key, "the run config", !is_ours);
    }
  }
  if (message == nullptr) return;
  for (const auto& [key, value] : *message) check(key, "a message's train config", false);
}

bool RunSettings::FirstTime(std::string notice) {
  return noticed_.size() < kMaxNotices && noticed_.insert(std::move(notice)).second;
}

}  // namespace fedumm::model
