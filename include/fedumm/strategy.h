#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/aggregator.h"
#include "fedumm/grid.h"
#include "fedumm/record.h"

namespace fedumm {

class RoundLoop;

// One phase of one round as a strategy sees it. Borrowed for the duration of one call.
struct Round {
  int64_t number = 0;  // from 1
  int64_t num_rounds = 0;
  uint64_t seed = 0;                              // of the run
  const ArrayRecord& arrays;                      // the global model at the start of the phase
  std::string_view phase = message_type::kTrain;  // or message_type::kEvaluate
  // What every node is sent unless Instruct changes it: `arrays`, and the phase's configuration
  // with `server-round`.
  RecordDict content;
  // In Instruct the nodes that are asked, in Step those whose replies were accepted; ascending.
  // Empty before that.
  std::vector<uint64_t> nodes;
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
// The same with how the nodes differ: for each metric that is a number and a key K, also "K-mean"
// (each node counts once), "K-min", "K-max" and "K-std" (of the nodes, not of a sample of them),
// over the nodes that report it. For evaluate_metrics_aggr_fn.
MetricRecord MetricsOverNodes(const std::vector<NodeMetrics>& replies,
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
  // Round 0, then the most recent ones: at most StartOptions::keep_rounds of them.
  std::vector<RoundResult> rounds;
};

struct StartOptions {
  int64_t num_rounds = 3;
  // Of one exchange with the nodes: replies that come later are left out.
  absl::Duration timeout = absl::Hours(1);
  // Accepted train replies that a round needs; fewer leave the model as it was.
  int64_t quorum = 1;
  // Rounds between evaluations by the nodes (fraction_evaluate); the last round always has one. 0:
  // only the last.
  int64_t evaluate_every = 1;
  // DEADLINE_EXCEEDED if too few nodes are online for so long.
  absl::Duration wait_for_nodes = absl::InfiniteDuration();
  // While too few nodes are online: when the wait begins, whenever the number changes (noticed
  // within a second), and every 10 s.
  std::function<void(int64_t online, int64_t needed)> on_wait;
  uint64_t seed = 0;
  ConfigRecord train_config;
  ConfigRecord evaluate_config;
  // Central evaluation, before the first round (0) and after each.
  std::function<absl::StatusOr<MetricRecord>(int64_t round, const ArrayRecord& arrays)> evaluate_fn;
  // After each round with its result; for round 0 after the evaluation before the first.
  std::function<void(const RoundResult&)> on_round;
  // Most recent rounds in Result::rounds, beside round 0. `on_round` sees them all.
  int64_t keep_rounds = 100;
  // If set, the file that holds the model and the strategy's state after the last whole round; the
  // rounds' results are appended to `<path>.rounds` beside it. A run that finds them goes on after
  // that round, bit for bit as if it had never stopped. DATA_LOSS if one of them is damaged or the
  // second is missing, FAILED_PRECONDITION if they are those of a run with another seed or other
  // arrays. A run that finds no file at the path starts from round 0 and
  // replaces `<path>.rounds`.
  std::string checkpoint_path;
  std::function<absl::Time()> clock = absl::Now;  // for RoundResult::duration only
};

// Reads the rounds of a checkpoint, the first one being round 0. Errors as for
// StartOptions::checkpoint_path; NOT_FOUND if there is no checkpoint.
absl::Status ReadCheckpointRounds(const std::string& checkpoint_path,
                                  const std::function<void(const RoundResult&)>& on_round);

// What one node is sent in an exchange.
using InstructNode = std::function<RecordDict(uint64_t node_id)>;
// Takes one reply. Its error refuses the reply and becomes the node's reason.
using OnNodeReply = std::function<absl::Status(uint64_t node_id, const Message& reply)>;

struct GatherOptions {
  std::optional<int64_t> quorum;           // empty: StartOptions::quorum
  std::optional<absl::Duration> deadline;  // from now; empty: StartOptions::timeout
};

struct Gathered {
  std::vector<NodeOutcome> nodes;  // one for each node that was asked, ascending; without metrics
  int64_t num_accepted = 0;
  bool has_quorum = false;  // at least `quorum` replies were accepted
};

// The server's learning algorithm: Start is the loop, a subclass overrides the one step it changes.
// Used from one thread at a time.
//
//   Select()         which nodes take part          (default: the fraction of the online nodes)
//   Instruct()       what one of them is sent       (default: round.content)
//   NewAggregator()  how replies combine            (default: the weighted mean)
//   Step()           how the model moves            (default: to the aggregate)
class Strategy {
 public:
  explicit Strategy(StrategyOptions options = {}) : options_(std::move(options)) {}
  virtual ~Strategy() = default;
  Strategy(const Strategy&) = delete;
  Strategy& operator=(const Strategy&) = delete;

  // Runs all rounds. A node that fails, does not answer in time or is refused costs its reply,
  // never the round. The names, shapes and dtypes of `initial_arrays` are those of the model in
  // every round and of the result. Errors: those of the grid, of Step, of evaluate_fn and of the
  // checkpoint; INVALID_ARGUMENT for impossible options or a model from Step that has not this
  // form; FAILED_PRECONDITION if training is on and no round changed the model, or if Start is
  // running.
  absl::StatusOr<Result> Start(Grid& grid, ArrayRecord initial_arrays, StartOptions options);

  // `online` is ascending; the result is a subset of it. `fraction` and `min_nodes` are those of
  // the phase. The default takes max(online * fraction, min_nodes), at random by the run's seed,
  // the round and the phase only.
  virtual std::vector<uint64_t> Select(const Round& round, const std::vector<uint64_t>& online,
                                       double fraction, int64_t min_nodes);
  // What one node is sent, in either phase (round.phase). Change a copy of `round.content`: what
  // nodes share is sent from one stored copy, however many nodes there are.
  virtual RecordDict Instruct(const Round& round, uint64_t node_id);
  virtual std::unique_ptr<Aggregator> NewAggregator(const Round& round);
  // The next model, with the names and shapes of round.arrays. A float tensor in another float type
  // is rounded to the model's; see Array::FromDoublesLike. Anything else that has not the model's
  // form, or is not finite, ends the run with an error that names the tensor.
  virtual absl::StatusOr<ArrayRecord> Step(const Round& round, ArrayRecord aggregate);
  // The strategy's own tensors (a server optimiser's moments), kept in the checkpoint.
  virtual ArrayRecord SaveState() const { return {}; }
  virtual absl::Status RestoreState(const ArrayRecord& state);

  const StrategyOptions& options() const { return options_; }

 protected:
  // One exchange with nodes: sends each of `nodes` a message of type `phase` ("train", "evaluate",
  // "query", or an action of one, "train.probe") with the content that `instruct` gives for it, and
  // hands each node's first reply to `on_reply`, error replies too, until all are there or the
  // deadline is over. Replies come in any order; compute what does not depend on it. Both phases of
  // a round are such exchanges, and Select, NewAggregator and Step may ask for more.
  //
  // Called on the thread of Start, while Start runs; `instruct` and `on_reply` run on it too,
  // before Gather returns. FAILED_PRECONDITION, and nothing is sent, outside of Start or from
  // within `instruct`, Instruct or `on_reply`. Otherwise only the errors of the grid, which Step
  // should return: CANCELLED when the server stops. Too few replies are no error; see
  // Gathered::has_quorum.
  absl::StatusOr<Gathered> Gather(std::string_view phase, std::vector<uint64_t> nodes,
                                  const InstructNode& instruct, const OnNodeReply& on_reply,
                                  const GatherOptions& options = {});

 private:
  StrategyOptions options_;
  RoundLoop* loop_ = nullptr;  // while Start runs
};

}  // namespace fedumm
