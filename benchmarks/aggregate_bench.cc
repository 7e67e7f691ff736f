// The weighted mean of the replies of one round, checks and result included. Arguments: millions of
// f32 parameters, replies. aggregate_vs_numpy.py runs this beside NumPy.
#include <benchmark/benchmark.h>

#include <cstdlib>

#include "base/random.h"
#include "fedumm/aggregator.h"

namespace fedumm {
namespace {

void WeightedMean(benchmark::State& state) {
  const int64_t num_parameters = state.range(0) * 1'000'000;
  const int64_t num_replies = state.range(1);
  std::vector<ArrayRecord> replies;
  for (int64_t i = 0; i < num_replies; ++i) {
    Random random(1, {static_cast<uint64_t>(i)});
    std::vector<float> values(num_parameters);
    // As spread as normal numbers are, and cheaper.
    for (float& value : values) {
      value =
          static_cast<float>((random.Uniform() + random.Uniform() + random.Uniform() - 1.5) / 50);
    }
    replies.push_back({{"w", Array::FromFloats({num_parameters}, values)}});
  }
  for (auto _ : state) {
    const std::unique_ptr<Aggregator> mean = NewWeightedMean(replies[0]);
    for (int64_t i = 0; i < num_replies; ++i) {
      const Contribution contribution = {static_cast<uint64_t>(i), replies[i],
                                         10.0 + static_cast<double>(i)};
      if (!mean->Add(contribution).ok()) std::abort();
    }
    benchmark::DoNotOptimize(std::move(*mean).TakeResult());
  }
  state.SetItemsProcessed(state.iterations() * num_parameters * num_replies);
}
BENCHMARK(WeightedMean)->Args({10, 8})->Args({1, 8})->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fedumm
