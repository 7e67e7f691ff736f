// Everything that a report of a run shows, and its one JSON file (run.json), so that a report can
// be made again later.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::programs {

// Share of right answers, or of right drawings; all, and the part on concepts that the frozen model
// was never taught. NaN: not measured.
struct Score {
  double all = 0;
  double new_concepts = 0;
};

// What a training was given: optimizer steps (of all clients together), and the examples in them,
// repeats counted. 0: unknown.
struct Given {
  int64_t steps = 0;
  int64_t examples = 0;
};

// One task ("vqa", "draw") under each way of training.
struct Verdict {
  Score frozen;
  Score federated;
  Score centralized;
  std::vector<Score> alone;  // each client trained on its own examples only
  Given federated_given;
  Given centralized_given;
  Given alone_given;  // each client
  Score AloneMean() const;
};

struct ClientData {
  int64_t partition_id = 0;
  uint64_t node_id = 0;
  // Task -> (class, number of examples), in a fixed order of the classes.
  std::map<std::string, std::vector<std::pair<std::string, int64_t>>> histograms;
};

struct NodeRound {
  uint64_t node_id = 0;
  bool accepted = false;
  std::string reason;  // why not
  uint64_t bytes_down = 0;
  uint64_t bytes_up = 0;
  double num_examples = 0;  // as its reply said, its weight
};

struct RoundData {
  int64_t number = 0;  // 0: before the first
  double seconds = 0;
  double train_loss = 0;
  std::map<std::string, double> losses;      // by task
  std::map<std::string, double> accuracies;  // by task, on held-out examples
  std::vector<NodeRound> nodes;
};

struct QuestionSample {
  std::string png;  // the image
  std::string question;
  std::string truth;
  std::string before;  // the frozen model's answer
  std::string after;   // the federated model's
};

struct DrawingSample {
  std::string prompt;
  std::string png_before;
  std::string png_after;
  bool right_before = false;
  bool right_after = false;
};

struct RunData {
  std::string name;
  std::string strategy;
  std::string command;  // that made it
  std::string frozen;   // what the frozen model has seen, a sentence
  uint64_t seed = 0;
  double seconds = 0;                                         // of the whole run
  int64_t adapter_bytes = 0;                                  // one adapter, one direction
  int64_t full_model_bytes = 0;                               // the backbone's weights
  std::vector<std::pair<std::string, std::string>> settings;  // in the order of the configuration
  std::vector<ClientData> clients;
  std::vector<RoundData> rounds;
  std::map<std::string, Verdict> verdicts;
  std::vector<QuestionSample> questions;
  std::vector<DrawingSample> drawings;
};

std::string ToJson(const RunData& data);
// INVALID_ARGUMENT for text that is no run.json.
absl::StatusOr<RunData> RunDataFromJson(const std::string& json);

// summary.json: vqa and draw (frozen, local_mean, federated, centralized), bytes, clients, rounds,
// seconds, seed.
std::string SummaryJson(const RunData& data);

}  // namespace fedumm::programs
