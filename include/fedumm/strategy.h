#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/aggregator.h"
#include "fedumm/grid.h"
#include "fedumm/record.h"

namespace fedumm {

// One round as a strategy sees it. Borrowed for the duration of one call.
struct Round {
  int64_t number = 0;  // from 1
  int64_t num_rounds = 0;
  uint64_t seed = 0;  // of the run
  const ArrayRecord& arrays;  // the global model at the start of the round
};

// A reply's metrics with the node it came from.
struct NodeMetrics {
  uint64_t node_id = 0;
  MetricRecord metrics;
};
// Combines the metrics of the replies. Its result must not depend on their order.
using MetricsAggregation =
    std::function<MetricRecord(const std::vector<NodeMetrics>&, const std::string& weighted_by_key)>;

// Flower 1.42's common options, with its names and defaults.
struct StrategyOptions {
  double fraction_train = 1.0;     // of the online nodes; 0 skips the phase
  double fraction_evaluate = 1.0;
  int64_t min_train_nodes = 2;
  int64_t min_evaluate_nodes = 2;
  int64_t min_available_nodes = 2;  // wait until so many are online
  std::string weighted_by_key = "num-examples";
  std::string arrayrecord_key = "arrays";
  std::string configrecord_key = "config";
  MetricsAggregation train_metrics_aggr_fn;     // empty: weighted mean of each number
  MetricsAggregation evaluate_metrics_aggr_fn;  // likewise
};

// What became of one node in one round.
struct NodeOutcome {
  uint64_t node_id = 0;
  bool accepted = false;
  std::string reason;    // why not
  MetricRecord metrics;  // as the node reported them
  Grid::Traffic traffic;  // of this round, both phases so far
};

struct RoundResult {
  int64_t number = 0;  // 0: before the first round
  MetricRecord train_metrics;       // aggregated over accepted replies
  MetricRecord evaluate_metrics;    // federated evaluation
  MetricRecord server_metrics;      // central evaluation
  std::vector<NodeOutcome> nodes;   // of the train phase, by node id
  absl::Duration duration;
};

struct Result {
  ArrayRecord arrays;
  std::vector<RoundResult> rounds;  // with round 0 first
};

struct StartOptions {
  int64_t num_rounds = 3;
  absl::Duration timeout = absl::Hours(1);  // of one phase of one round: who is silent until then is left out
  int64_t quorum = 1;                       // accepted train replies that a round needs; fewer leave the model as it was
  absl::Duration wait_for_nodes = absl::InfiniteDuration();  // DEADLINE_EXCEEDED after it
  uint64_t seed = 0;
  ConfigRecord train_config;
  ConfigRecord evaluate_config;
  // Central evaluation, before the first round (0) and after each.
  std::function<absl::StatusOr<MetricRecord>(int64_t round, const ArrayRecord& arrays)> evaluate_fn;
  std::function<void(const RoundResult&)> on_round;  // after each round, with its result
  // If set, the file that holds the state after the last whole round. A run that finds it goes on after that round, bit for bit as if it had
  // never stopped.
  std::string checkpoint_path;
};

// The server's learning algorithm: Start is the loop, a subclass overrides the one step it changes. Used from one thread at a time.
//
//   Select()         who takes part                 (default: the fraction of the online nodes)
//   ConfigureTrain() what they are told             (default: nothing more than train_config)
//   NewAggregator()  how replies combine            (default: the weighted mean)
//   Step()           how the model moves            (default: to the aggregate)
class Strategy {
 public:
  explicit Strategy(StrategyOptions options = {}) : options_(std::move(options)) {}
  virtual ~Strategy() = default;

  // Runs all rounds. A failed, silent or refused node costs its reply, never the round. Errors: those of the grid, of evaluate_fn and of the
  // checkpoint; INVALID_ARGUMENT for impossible options.
  absl::StatusOr<Result> Start(Grid& grid, ArrayRecord initial_arrays, StartOptions options);

  // `online` is ascending; the result is a subset of it. `fraction` and `min_nodes` are those of the phase.
  virtual std::vector<uint64_t> Select(const Round& round, const std::vector<uint64_t>& online,
                                       double fraction, int64_t min_nodes);
  virtual ConfigRecord ConfigureTrain(const Round& round, uint64_t node_id);
  virtual std::unique_ptr<Aggregator> NewAggregator(const Round& round);
  virtual absl::StatusOr<ArrayRecord> Step(const Round& round, ArrayRecord aggregate);
  // The strategy's own tensors (a server optimiser's moments), kept in the checkpoint.
  virtual ArrayRecord SaveState() const { return {}; }
  virtual absl::Status RestoreState(const ArrayRecord& state) { return absl::OkStatus(); }

  const StrategyOptions& options() const { return options_; }

 private:
  StrategyOptions options_;
};

}  // namespace fedumm
