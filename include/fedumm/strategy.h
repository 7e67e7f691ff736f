#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/aggregator.h"
#include "fedumm/grid.h"
#include "fedumm/record.h"

namespace fedumm {

// One phase of one round as a strategy sees it. Borrowed for the duration of one call.
struct Round {
  int64_t number = 0;  // from 1
  int64_t num_rounds = 0;
  uint64_t seed = 0;                              // of the run
  const ArrayRecord& arrays;                      // the global model at the start of the phase
  std::string_view phase = message_type::kTrain;  // or message_type::kEvaluate
};

// A reply's metrics with the node it came from.
struct NodeMetrics {
  uint64_t node_id = 0;
  MetricRecord metrics;
};
// Combines the metrics of the replies, which come by ascending node id.
using MetricsAggregation = std::function<MetricRecord(const std::vector<NodeMetrics>&,
                                                      const std::string& weighted_by_key)>;
// The default: for each key but `weighted_by_key`, the mean over the nodes that report it, weighted
// by that key; lists element by element over those of the first node's length. NaN and infinity are
// left out. Any order of `replies` gives the same bits.
MetricRecord WeightedMetricsMean(const std::vector<NodeMetrics>& replies,
                                 const std::string& weighted_by_key);

// Flower 1.42's common options, with its names and defaults.
struct StrategyOptions {
  double fraction_train = 1.0;  // of the online nodes; 0 skips the phase
  double fraction_evaluate = 1.0;
  int64_t min_train_nodes = 2;
  int64_t min_evaluate_nodes = 2;
  int64_t min_available_nodes = 2;  // wait until so many are online
  std::string weighted_by_key = "num-examples";
  std::string arrayrecord_key = "arrays";
  std::string configrecord_key = "config";
  MetricsAggregation train_metrics_aggr_fn;     // empty: WeightedMetricsMean
  MetricsAggregation evaluate_metrics_aggr_fn;  // likewise
};

// What became of one node in one round.
struct NodeOutcome {
  uint64_t node_id = 0;
  bool accepted = false;
  std::string reason;     // why not
  MetricRecord metrics;   // as the node reported them
  Grid::Traffic traffic;  // of this round, both phases
};

struct RoundResult {
  int64_t number = 0;          // 0: before the first round
  bool updated = false;        // false: fewer replies than the quorum, the model stayed as it was
  MetricRecord train_metrics;  // aggregated over accepted replies
  MetricRecord evaluate_metrics;   // federated evaluation
  MetricRecord server_metrics;     // central evaluation
  std::vector<NodeOutcome> nodes;  // of the train phase, by node id
  absl::Duration duration;
};

struct Result {
  ArrayRecord arrays;
  std::vector<RoundResult> rounds;  // with round 0 first
};

struct StartOptions {
  int64_t num_rounds = 3;
  // Of one phase of one round: who is silent until then is left out.
  absl::Duration timeout = absl::Hours(1);
  // Accepted train replies that a round needs; fewer leave the model as it was.
  int64_t quorum = 1;
  // DEADLINE_EXCEEDED if too few nodes are online for so long.
  absl::Duration wait_for_nodes = absl::InfiniteDuration();
  uint64_t seed = 0;
  ConfigRecord train_config;
  ConfigRecord evaluate_config;
  // Central evaluation, before the first round (0) and after each.
  std::function<absl::StatusOr<MetricRecord>(int64_t round, const ArrayRecord& arrays)> evaluate_fn;
  // After each round with its result; for round 0 after the evaluation before the first.
  std::function<void(const RoundResult&)> on_round;
  // If set, the file that holds the state after the last whole round. A run that finds it goes on
  // after that round, bit for bit as if it had never stopped. DATA_LOSS if it is damaged,
  // FAILED_PRECONDITION if it is that of a run with another seed or other arrays.
  std::string checkpoint_path;
  std::function<absl::Time()> clock = absl::Now;  // for RoundResult::duration only
};

// The server's learning algorithm: Start is the loop, a subclass overrides the one step it changes.
// Used from one thread at a time.
//
//   Select()         who takes part                 (default: the fraction of the online nodes)
//   ConfigureTrain() what they are told             (default: nothing more than train_config)
//   NewAggregator()  how replies combine            (default: the weighted mean)
//   Step()           how the model moves            (default: to the aggregate)
class Strategy {
 public:
  explicit Strategy(StrategyOptions options = {}) : options_(std::move(options)) {}
  virtual ~Strategy() = default;

  // Runs all rounds. A failed, silent or refused node costs its reply, never the round. Errors:
  // those of the grid, of Step, of evaluate_fn and of the checkpoint; INVALID_ARGUMENT for
  // impossible options.
  absl::StatusOr<Result> Start(Grid& grid, ArrayRecord initial_arrays, StartOptions options);

  // `online` is ascending; the result is a subset of it. `fraction` and `min_nodes` are those of
  // the phase. The default takes max(online * fraction, min_nodes), at random by the run's seed,
  // the round and the phase only.
  virtual std::vector<uint64_t> Select(const Round& round, const std::vector<uint64_t>& online,
                                       double fraction, int64_t min_nodes);
  // Added to train_config and `server-round`, which it may replace.
  virtual ConfigRecord ConfigureTrain(const Round& round, uint64_t node_id);
  virtual std::unique_ptr<Aggregator> NewAggregator(const Round& round);
  virtual absl::StatusOr<ArrayRecord> Step(const Round& round, ArrayRecord aggregate);
  // The strategy's own tensors (a server optimiser's moments), kept in the checkpoint.
  virtual ArrayRecord SaveState() const { return {}; }
  virtual absl::Status RestoreState(const ArrayRecord& state);

  const StrategyOptions& options() const { return options_; }

 private:
  StrategyOptions options_;
};

}  // namespace fedumm
