// All results of a run in one value. run.json is this value in full;
// metrics.jsonl, the TensorBoard events, summary.json, the tables and the report are views of it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::programs {

// A task as columns and headings name it.
struct TaskData {
  std::string name;           // prefix of its metrics
  std::string title;          // "Answering"
  std::string metric;         // key of its figure in the server's metrics, a share from 0 to 1
  std::string metric_title;   // "right"
  std::string part_title;     // "new concepts": the figure on a part of the examples; empty: none
  std::string holding_title;  // what the clients' histograms count: "questions by answer"
  int64_t default_batch_size = 0;       // where the settings leave it to the task
  std::vector<std::string> kinds = {};  // of held-out examples, in the order of the tables' rows
};

// The share of right outputs: of all held-out examples, of a part of them, and of each kind
// (TaskData). NaN, and a kind that is not there: not measured.
struct Score {
  double all = 0;
  double part = 0;
  std::map<std::string, double> kinds = {};

  double OfKind(const std::string& kind) const;  // NaN: not measured
};

// One way of training a task: how good the result is, and what it was given for it.
struct Bar {
  Score score;
  int64_t examples = 0;  // that training looked at, over all clients; repeats count
  int64_t steps = 0;     // of the optimizer, over all clients
};

struct Verdict {
  Bar frozen;
  Bar federated;
  Bar centralized;
  std::vector<Bar> alone;  // each client trained on its own examples only
  Bar AloneMean() const;   // NaN without any
};

// One client, with its sums over all rounds.
struct ClientData {
  int64_t partition_id = 0;  // -1: not reported by the node
  uint64_t node_id = 0;
  // Task -> (class, number of examples), in a fixed order of the classes.
  std::map<std::string, std::vector<std::pair<std::string, int64_t>>> histograms;
  uint64_t bytes_down = 0;
  uint64_t bytes_up = 0;
  int64_t accepted = 0;     // replies
  int64_t rejected = 0;     // replies that were refused or did not come
  double num_examples = 0;  // as its last accepted reply said, its weight
};

// A figure of a task over the clients, each judged on held-out examples of its own; each client
// counts once.
struct OverClients {
  double mean = 0;
  double worst = 0;
  double best = 0;
  double spread = 0;  // standard deviation
};

struct NodeRound {
  uint64_t node_id = 0;
  bool accepted = false;
  std::string reason;  // why not
  uint64_t bytes_down = 0;
  uint64_t bytes_up = 0;
  double num_examples = 0;    // as its reply said, its weight
  int64_t partition_id = -1;  // as its reply said
};

struct RoundData {
  int64_t number = 0;  // 0: before the first
  double seconds = 0;
  bool updated = false;                      // the model
  double train_loss = 0;                     // NaN: none
  std::map<std::string, double> losses;      // by task
  std::map<std::string, double> accuracies;  // by task, on held-out examples
  // By task, on the clients' own; empty: the clients were not asked.
  std::map<std::string, OverClients> on_clients;
  std::map<std::string, OverClients> personalised;  // after a few steps of each client's own
  int64_t num_nodes = 0;                            // that were asked to train
  int64_t num_accepted = 0;
  uint64_t bytes_down = 0;  // over all nodes
  uint64_t bytes_up = 0;
  // At most kMaxNodesKept of them in a RunData, the rejected ones first.
  std::vector<NodeRound> nodes;
};
inline constexpr size_t kMaxNodesKept = 32;

// A held-out input with the outputs of the frozen and of the federated model.
struct SampleData {
  std::string task;
  std::string prompt;
  std::string png;    // the picture that the prompt is about; empty: none
  std::string truth;  // empty: none
  std::string before;
  std::string after;
  std::string png_before;  // what the model drew
  std::string png_after;
  bool right_before = false;
  bool right_after = false;
};

struct RunData {
  std::string name;
  std::string strategy;
  std::string command;  // that made it
  uint64_t seed = 0;
  double seconds = 0;                                         // of the whole run
  int64_t adapter_bytes = 0;                                  // one adapter, one direction
  int64_t full_model_bytes = 0;                               // the backbone's weights
  std::vector<std::pair<std::string, std::string>> settings;  // in the order of the table
  std::vector<TaskData> tasks;                                // in the order of the columns
  std::vector<std::string> notes;                             // sentences about the world
  std::vector<ClientData> clients;
  std::vector<RoundData> rounds;
  std::map<std::string, Verdict> verdicts;  // by task
  std::vector<SampleData> samples;
};

// Adds a round: its sums to the clients, and the round with some of its nodes to the rounds. It
// takes the place of the rounds from its number on. `data.clients` must be in the order of their
// node ids, in which this function keeps them.
void AddRound(RoundData round, RunData& data);

std::string ToJson(const RunData& data);
// INVALID_ARGUMENT for text that is no run.json.
absl::StatusOr<RunData> RunDataFromJson(const std::string& json);

// A line of metrics.jsonl, without its end: one round with all nodes. `time` is Unix time.
std::string RoundLine(const RoundData& round, const std::vector<TaskData>& tasks, double time);
// INVALID_ARGUMENT for text that is no such line.
absl::StatusOr<RoundData> RoundFromLine(const std::string& line,
                                        const std::vector<TaskData>& tasks);

// The last round in which the clients judged the adapter themselves; null: there is none.
const RoundData* LastJudgedByClients(const RunData& data);

// The kinds of the task of that name.
std::vector<std::string> KindsOf(const RunData& data, const std::string& task);

// summary.json: for each task frozen, local_mean, federated, centralized and what each was given,
// the same figures for each kind ("kinds"), and what the clients' own held-out examples say; bytes,
// clients, rounds, seconds, seed.
std::string SummaryJson(const RunData& data);

}  // namespace fedumm::programs
