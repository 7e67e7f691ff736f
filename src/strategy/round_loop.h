#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/strategy.h"
#include "strategy/round_log.h"

namespace fedumm {

// One call of Strategy::Start. Borrows strategy and grid. Not thread-safe.
class RoundLoop {
 public:
  RoundLoop(Strategy& strategy, Grid& grid, StartOptions options);

  absl::StatusOr<Result> Run(ArrayRecord initial_arrays);
  // See Strategy::Gather.
  absl::StatusOr<Gathered> Gather(std::string_view phase, std::vector<uint64_t> nodes,
                                  const InstructNode& instruct, const OnNodeReply& on_reply,
                                  const GatherOptions& options);

 private:
  // What distinguishes the two phases of a round.
  struct Phase {
    std::string_view type;
    double fraction;
    int64_t min_nodes;
    const ConfigRecord& config;
  };

  absl::Status CheckOptions() const;
  // Takes over the checkpoint, if there is one.
  absl::Status Resume();
  absl::Status PlayRoundZero();
  absl::Status PlayRound(int64_t number);
  absl::Status Train(RoundResult& result);
  absl::Status Evaluate(RoundResult& result);
  absl::Status EvaluateCentrally(RoundResult& result);
  // The round is over: saves, reports and keeps its result.
  absl::Status Finish(RoundResult result);
  absl::Status Save(const RoundResult& result);
  void Keep(RoundResult result);
  // FAILED_PRECONDITION if training never changed the model.
  absl::Status CheckLearnt() const;
  // " (node 7: …)" with the reason of the first reply that the last round did not use, or "".
  std::string LastReason() const;

  // Waits for nodes and selects some.
  absl::StatusOr<std::vector<uint64_t>> SelectNodes(const Phase& phase, const Round& round);
  // The nodes that are online once there are `needed` of them.
  absl::StatusOr<std::vector<uint64_t>> WaitForNodes(int64_t needed);
  // One exchange of the round's phase.
  absl::StatusOr<Gathered> Ask(const Round& round, const OnNodeReply& on_reply);
  Round RoundOf(const Phase& phase, int64_t number) const;

  Strategy& strategy_;
  Grid& grid_;
  const StartOptions options_;
  Result result_;
  std::optional<RoundLog> log_;
  int64_t current_round_ = 0;
  int64_t last_round_ = -1;  // that was played whole
  int64_t num_updated_ = 0;
  int64_t num_accepted_ = 0;
  bool gathering_ = false;
};

}  // namespace fedumm
