// What a run of the programs is about: a model, each client's data and tasks, and how the result is
// judged. `fedumm`, `fedumm-superlink` and `fedumm-supernode` know worlds only; the settings name
// the kind.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/linear.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/task.h"
#include "fedumm/record.h"
#include "fedumm/settings.h"

namespace fedumm::model {

// One task of a world, as tables and reports show it.
struct TaskInfo {
  std::string name;           // as Task::name: "vqa"
  std::string title;          // "Answering"
  std::string metric;         // of World::Evaluate, a share from 0 to 1: "vqa-accuracy"
  std::string metric_title;   // "right"
  std::string part_metric;    // the same on a part of the held-out examples; empty: none
  std::string part_title;     // "new concepts"
  std::string count_metric;   // of World::Evaluate: how many held-out examples were judged
  std::string holding_title;  // what World::Describe counts: "questions by answer"
  TaskDefaults defaults;      // as Task::defaults
  // The same by kinds of held-out examples: a kind's name and its metric, ("counting",
  // "draw-counting"). A metric may be missing where no example of the kind was judged.
  std::vector<std::pair<std::string, std::string>> breakdown = {};
};

struct WorldInfo {
  std::vector<TaskInfo> tasks;  // in the order of the report's columns
  // Whole sentences for the report: what the frozen model has seen, how batches are drawn, how the
  // figures are measured.
  std::vector<std::string> notes;
};

// What one client holds for one task.
struct Holding {
  std::string task;
  // (class, number of examples), in an order that is the same for all clients.
  std::vector<std::pair<std::string, int64_t>> counts;
};

// One held-out input with the model's output. What a world does not have is empty.
struct Sample {
  std::string task;
  std::string prompt;      // "what color is the shape?"
  std::string png;         // the picture that the prompt is about
  std::string truth;       // the right answer
  std::string answer;      // the model's
  std::string answer_png;  // the picture that the model drew
  bool right = false;
};

struct GenerateRequest {
  std::string prompt;
  uint64_t seed = 0;  // of the noise
  int64_t steps = 30;
  double guidance = 3.0;
};

// A frozen model with the data around it. Adapters attach to Linears(); what the model answers,
// draws and is judged by is then theirs. Used from one thread at a time; several worlds can live in
// one process and run side by side.
class World {
 public:
  virtual ~World() = default;

  virtual WorldInfo Info() const = 0;
  // The linears that an adapter can attach to. They live as long as the world.
  virtual std::vector<NamedLinear> Linears() = 0;
  virtual int64_t ModelBytes() const = 0;  // of the frozen weights
  // The backbone of those linears, for the plan of a training step's memory; null: no plan is made.
  virtual UnifiedModel* Model() { return nullptr; }

  // The tasks of client `partition_id` of `num_partitions`, in Info()'s order. Equal settings deal
  // equal shares in every process; (0, 1) holds all examples. The world outlives them.
  // INVALID_ARGUMENT for a partition that does not exist.
  virtual absl::StatusOr<std::vector<std::unique_ptr<Task>>> ClientTasks(
      int64_t partition_id, int64_t num_partitions) = 0;
  // What that client holds, one entry per task.
  virtual absl::StatusOr<std::vector<Holding>> Describe(int64_t partition_id,
                                                        int64_t num_partitions) = 0;

  // Figures on every `stride`th held-out example under the adapters as they are now.
  virtual absl::StatusOr<MetricRecord> Evaluate(int64_t stride) = 0;
  // A few held-out inputs with the model's outputs under the adapters as they are now; every call
  // gives the same inputs in the same order. Empty: the world has none to show.
  virtual absl::StatusOr<std::vector<Sample>> Samples() = 0;
  // Draws a picture, as PNG. The default is UNIMPLEMENTED.
  virtual absl::StatusOr<std::string> Generate(const GenerateRequest& options);

  // A world of the same settings with a model of its own, which may share the data with this one.
  virtual absl::StatusOr<std::unique_ptr<World>> Clone() = 0;
};

// The names that `world.kind` takes; the first is the default.
std::vector<std::string> WorldKinds();
// The keys of a world of that kind: `world.kind`, those of model and data, and those of its tasks
// ("train.<task>-batch-size"). INVALID_ARGUMENT, naming the kinds there are, for an unknown one.
absl::StatusOr<std::vector<Setting>> WorldSettings(std::string_view kind);
// Whether a key names a file or folder of the machine that reads it: its last part is "checkpoint",
// "folder" or "file", or ends in "-folder" or "-file" (model.checkpoint, data.folder). Such
// settings are neither sent to another machine nor accepted from one.
bool IsLocalSetting(std::string_view key);

// Loads the world that `settings` describe: complete, as by CompleteSettings with the kind's table.
absl::StatusOr<std::unique_ptr<World>> NewWorld(const ConfigRecord& settings);

struct PretrainStep {
  std::string_view stage;
  int64_t step = 0;  // of `steps`
  int64_t steps = 0;
  double loss = 0;  // a running mean
};
// Trains the frozen model of `model.checkpoint` from scratch by the recipe in that folder and
// writes its weights there. UNIMPLEMENTED for a kind whose model is not made here.
absl::Status PretrainWorld(const ConfigRecord& settings,
                           const std::function<void(const PretrainStep&)>& progress);

// The keys under [lora].
std::vector<Setting> LoraSettings();
// A fresh adapter on the world's model by the settings under [lora], complete, and "seed".
absl::StatusOr<std::unique_ptr<LoraAdapter>> NewAdapter(World& world, const ConfigRecord& settings);

}  // namespace fedumm::model
