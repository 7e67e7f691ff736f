#include "fedumm/strategy.h"

#include <algorithm>

#include "base/random.h"
#include "strategy/round_loop.h"

namespace fedumm {

absl::StatusOr<Result> Strategy::Start(Grid& grid, ArrayRecord initial_arrays,
                                       StartOptions options) {
  return RoundLoop(*this, grid, std::move(options)).Run(std::move(initial_arrays));
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

ConfigRecord Strategy::ConfigureTrain(const Round&, uint64_t) { return {}; }

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
