#include "programs/experiment.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "fedumm/model/partition.h"

namespace fedumm::programs {
namespace {

absl::StatusOr<model::PartitionScheme> SchemeOf(const std::string& name) {
  if (name == "dirichlet") return model::PartitionScheme::kDirichlet;
  if (name == "iid") return model::PartitionScheme::kIid;
  if (name == "nvflare") return model::PartitionScheme::kNvflareCompat;
  if (name == "flower") return model::PartitionScheme::kFlowerCompat;
  return absl::InvalidArgumentError(absl::StrCat("unknown partitioner '", name, "'"));
}

absl::Status CheckPartition(int64_t partition_id, int64_t num_partitions) {
  if (partition_id >= 0 && partition_id < num_partitions) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("partition-id must be from 0 to num-partitions - 1, here ", num_partitions - 1,
                   ": ", partition_id));
}

model::LoraConfig LoraConfigOf(const RunConfig& config) {
  model::LoraConfig lora{.r = config.Integer("lora.r"),
                         .lora_alpha = config.Number("lora.lora-alpha"),
                         .lora_dropout = config.Number("lora.lora-dropout"),
                         .use_rslora = config.Flag("lora.use-rslora")};
  // Names hold letters, digits, "_", "-" and "."; anything more is a regular expression, which PEFT
  // tells by its type.
  const std::string targets = config.Text("lora.target-modules");
  const bool is_list = std::all_of(targets.begin(), targets.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-' || c == '.' ||
           c == ',';
  });
  if (is_list && targets != "all-linear") {
    lora.target_modules.names = absl::StrSplit(targets, ',', absl::SkipEmpty());
  } else {
    lora.target_modules.pattern = targets;
  }
  return lora;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Experiment>> Experiment::Create(const RunConfig& config,
                                                               const model::EasyVqa& data) {
  FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<model::DemoWorld> world,
                          model::DemoWorld::Load(config.Text("model.checkpoint"), data));
  std::unique_ptr<Experiment> experiment(new Experiment(config, std::move(world)));
  FEDUMM_ASSIGN_OR_RETURN(
      experiment->adapter_,
      model::LoraAdapter::Attach(experiment->world_->model().Linears(), LoraConfigOf(config),
                                 static_cast<uint64_t>(config.Integer("seed"))));
  return experiment;
}

absl::Status Experiment::UseAdapter(const std::string& folder) {
  adapter_.reset();  // its place must be free
  FEDUMM_ASSIGN_OR_RETURN(adapter_, model::LoraAdapter::Load(world_->model().Linears(), folder));
  return absl::OkStatus();
}

std::vector<std::string> Experiment::LabelsOf(const std::string& task) const {
  if (task == "draw") return world_->draw_labels();
  if (config_.Text("data.label") != "question-type") return world_->vqa_labels();
  std::vector<std::string> types;
  const model::EasyVqaSplit& train = world_->data().train;
  for (const int64_t i : train.balanced) {
    types.push_back(
        absl::StrCat("type ", static_cast<int>(train.questions[static_cast<size_t>(i)].type)));
  }
  return types;
}

absl::StatusOr<std::vector<std::vector<int64_t>>> Experiment::Shares(const std::string& task,
                                                                     int64_t num_partitions) {
  FEDUMM_ASSIGN_OR_RETURN(const model::PartitionScheme scheme,
                          SchemeOf(config_.Text("data.partitioner")));
  return model::Partition({.scheme = scheme,
                           .num_clients = num_partitions,
                           .alpha = config_.Number("data.alpha"),
                           .seed = static_cast<uint64_t>(config_.Integer("seed")),
                           .min_size = config_.Integer("data.min-size"),
                           .max_redraws = 100},
                          LabelsOf(task));
}

absl::StatusOr<std::unique_ptr<model::Task>> Experiment::NewTask(const std::string& task,
                                                                 std::vector<int64_t> share,
                                                                 int64_t stride) {
  if (task == "vqa") return world_->NewVqaTask(std::move(share), stride);
  // A glance at the drawings between rounds, all of them for the verdict.
  return world_->NewDrawTask(
      std::move(share),
      {.per_prompt = stride > 1 ? 1 : config_.Integer("evaluate.drawings-per-prompt")},
      config_.Flag("data.balanced-batches"));
}

absl::StatusOr<std::vector<std::unique_ptr<model::Task>>> Experiment::TasksOf(
    int64_t partition_id, int64_t num_partitions) {
  FEDUMM_RETURN_IF_ERROR(CheckPartition(partition_id, num_partitions));
  std::vector<std::unique_ptr<model::Task>> tasks;
  for (const std::string& name : TaskNames(config_)) {
    FEDUMM_ASSIGN_OR_RETURN(std::vector<std::vector<int64_t>> shares, Shares(name, num_partitions));
    FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<model::Task> task,
                            NewTask(name, std::move(shares[static_cast<size_t>(partition_id)]), 1));
    tasks.push_back(std::move(task));
  }
  return tasks;
}

absl::StatusOr<ClientData> Experiment::Describe(int64_t partition_id, int64_t num_partitions) {
  FEDUMM_RETURN_IF_ERROR(CheckPartition(partition_id, num_partitions));
  ClientData client{.partition_id = partition_id};
  for (const std::string& name : TaskNames(config_)) {
    FEDUMM_ASSIGN_OR_RETURN(const auto shares, Shares(name, num_partitions));
    const std::vector<std::string> labels = LabelsOf(name);
    std::map<std::string, int64_t> counts;
    for (const std::string& label : labels) counts.emplace(label, 0);
    for (const int64_t i : shares[static_cast<size_t>(partition_id)]) {
      ++counts[labels[static_cast<size_t>(i)]];
    }
    client.histograms[name].assign(counts.begin(), counts.end());
  }
  return client;
}

absl::StatusOr<MetricRecord> Experiment::Evaluate(const ArrayRecord& arrays, int64_t stride) {
  FEDUMM_RETURN_IF_ERROR(adapter_->FromArrays(arrays));
  adapter_->StopTraining();
  MetricRecord metrics;
  for (const std::string& name : TaskNames(config_)) {
    FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<model::Task> task, NewTask(name, {}, stride));
    FEDUMM_ASSIGN_OR_RETURN(const MetricRecord measured, task->Evaluate());
    for (const auto& [key, value] : measured) metrics.Set(key, value);
  }
  return metrics;
}

int64_t Experiment::AdapterBytes() const {
  int64_t bytes = 0;
  for (const auto& [key, array] : adapter_->ToArrays()) {
    bytes += static_cast<int64_t>(array.bytes().size());
  }
  return bytes;
}

int64_t Experiment::FullModelBytes() {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : world_->model().Parameters()) {
    bytes += static_cast<int64_t>(tensor->nbytes());
  }
  return bytes;
}

Score ScoreOf(const MetricRecord& metrics, const std::string& task) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  return {NumberOr(metrics, task + "-accuracy", nan),
          NumberOr(metrics, task + "-accuracy-new", nan)};
}

std::vector<std::string> TaskNames(const RunConfig& config) {
  return absl::StrSplit(config.Text("train.tasks"), ',', absl::SkipEmpty());
}

}  // namespace fedumm::programs
