#include "fedumm/strategy.h"

#include <algorithm>

#include "absl/cleanup/cleanup.h"
#include "base/random.h"
#include "strategy/round_loop.h"

namespace fedumm {

absl::StatusOr<Result> Strategy::Start(Grid& grid, ArrayRecord initial_arrays,
                                       StartOptions options) {
  if (loop_ != nullptr) return absl::FailedPreconditionError("the strategy is running already");
  RoundLoop loop(*this, grid, std::move(options));
  loop_ = &loop;
  const absl::Cleanup finish = [this] { loop_ = nullptr; };
  return loop.Run(std::move(initial_arrays));
}

absl::StatusOr<Gathered> Strategy::Gather(std::string_view phase, std::vector<uint64_t> nodes,
                                          const InstructNode& instruct, const OnNodeReply& on_reply,
                                          const GatherOptions& options) {
  if (loop_ == nullptr) return absl::FailedPreconditionError("Gather is for use during Start");
  return loop_->Gather(phase, std::move(nodes), instruct, on_reply, options);
}

std::vector<uint64_t> Strategy::Select(const Round& round, const std::vector<uint64_t>& online,
                                       double fraction, int64_t min_nodes) {
  const int64_t num_online = static_cast<int64_t>(online.size());
  const int64_t wanted = std::max(static_cast<int64_t>(num_online * fraction), min_nodes);
  const bool evaluating = round.phase == message_type::kEvaluate;
  Random random(round.seed, {static_cast<uint64_t>(round.number), evaluating ? 1u : 0u});
  std::vector<uint64_t> selected = online;
  random.Shuffle(selected);
  selected.resize(std::min(wanted, num_online));
  std::sort(selected.begin(), selected.end());
  return selected;
}

RecordDict Strategy::Instruct(const Round& round, uint64_t) { return round.content; }

std::unique_ptr<Aggregator> Strategy::NewAggregator(const Round& round) {
  return NewWeightedMean(round.arrays);
}

absl::StatusOr<ArrayRecord> Strategy::Step(const Round&, ArrayRecord aggregate) {
  return aggregate;
}

absl::Status Strategy::RestoreState(const ArrayRecord& state) {
  if (state.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError("the checkpoint holds state of another strategy");
}

}  // namespace fedumm
