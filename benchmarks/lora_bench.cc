// The CPU reference of the LoRA products. Arguments: rows, inputs, outputs, rank.
#include <benchmark/benchmark.h>

#include <vector>

#include "fedumm/kernels.h"

namespace fedumm::kernels {
namespace {

void ForwardAndBackward(benchmark::State& state) {
  const int64_t m = state.range(0), k = state.range(1), n = state.range(2), r = state.range(3);
  const std::vector<float> x(m * k, 0.5f), a(r * k, 0.25f), b(n * r, 0.125f), dy(m * n, 1.0f);
  std::vector<float> s(m * r), y(m * n), ds(m * r), db(n * r), da(r * k), dx(m * k);
  for (auto _ : state) {
    LoraShrinkCpu(m, k, r, 2, x.data(), a.data(), s.data());
    LoraExpandAddCpu(m, n, r, s.data(), b.data(), y.data());
    LoraGradSCpu(m, n, r, 2, dy.data(), b.data(), ds.data());
    LoraGradBCpu(m, n, r, dy.data(), s.data(), db.data());
    LoraGradACpu(m, k, r, ds.data(), x.data(), da.data());
    LoraGradXAddCpu(m, k, r, ds.data(), a.data(), dx.data());
    benchmark::ClobberMemory();
  }
  const double flops = 6.0 * static_cast<double>(m * r * (k + n));
  state.counters["GFLOP/s"] =
      benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(ForwardAndBackward)
    ->Args({512, 2048, 2048, 16})
    ->Args({512, 2048, 2048, 64})
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace fedumm::kernels
