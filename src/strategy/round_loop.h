#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/strategy.h"

namespace fedumm {

// One call of Strategy::Start. Borrows strategy and grid. Not thread-safe.
class RoundLoop {
 public:
  RoundLoop(Strategy& strategy, Grid& grid, StartOptions options);

  absl::StatusOr<Result> Run(ArrayRecord initial_arrays);

 private:
  // What distinguishes the two phases of a round.
  struct Phase {
    std::string_view type;
    double fraction;
    int64_t min_nodes;
    const ConfigRecord& config;
  };
  using OnReply = std::function<absl::Status(uint64_t node_id, const Message& reply)>;

  absl::Status CheckOptions() const;
  // Takes over the checkpoint, if there is one.
  absl::Status Resume();
  absl::Status Save() const;
  absl::Status PlayRound(int64_t number);
  absl::Status Train(RoundResult& result);
  absl::Status Evaluate(RoundResult& result);
  absl::Status EvaluateCentrally(RoundResult& result);

  // Waits for nodes, selects, sends, and gives each node's first reply to `on_reply`, whose error
  // becomes the node's reason. One outcome for each selected node, by node id; none if the phase is
  // switched off.
  absl::StatusOr<std::vector<NodeOutcome>> Ask(const Phase& phase, int64_t number,
                                               const OnReply& on_reply);
  absl::StatusOr<std::vector<uint64_t>> SelectNodes(const Phase& phase, const Round& round);
  Message Instruction(const Phase& phase, const Round& round, uint64_t node_id);
  Round RoundOf(int64_t number, std::string_view phase) const;

  Strategy& strategy_;
  Grid& grid_;
  const StartOptions options_;
  Result result_;
};

}  // namespace fedumm
