// What an adapter costs on the CPU: a linear forward and backward, frozen alone, with the adapter
// by LibTorch's own operations, and by fedumm's loops, without and with dropout. Interleaved; the
// least of many repetitions; one thread unless THREADS is given.
#include <ATen/Parallel.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "model/lora/low_rank_products.h"

namespace {

using namespace fedumm::model;

struct Case {
  const char* name;
  int64_t m, k;
  std::vector<int64_t> n;  // of the linears that read one x
  int64_t r;
  at::ScalarType dtype;
};

double Milliseconds(const std::function<void()>& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

void Run(const Case& c) {
  AdapterGroup group;
  group.segments = {{.rows = c.m, .dropout_key = 1}};
  std::vector<at::Tensor> dy;
  for (const int64_t n : c.n) {
    Factors factors{
        .a = at::randn({c.r, c.k}), .b = at::randn({n, c.r}), .scale = 2, .column = group.ranks};
    factors.a.mutable_grad() = at::zeros_like(factors.a);
    factors.b.mutable_grad() = at::zeros_like(factors.b);
    group.ranks += c.r;
    group.linears.push_back(
        {.weight = at::randn({n, c.k}).to(c.dtype), .bias = {}, .factors = {factors}});
    dy.push_back(at::randn({c.m, n}).to(c.dtype));
  }
  const at::Tensor x = at::randn({c.m, c.k}).to(c.dtype);
  const auto frozen = [&] {
    for (const AdaptedLinear& linear : group.linears) at::mm(x, linear.weight.t());
    FrozenGradX(group, dy);
  };
  const auto adapted = [&](const LowRankProducts& products, double dropout) {
    group.dropout = dropout;
    at::Tensor mask;
    const at::Tensor s = products.Shrink(group, x, &mask);
    products.Outputs(group, x, s);
    const at::Tensor ds = products.GradSB(group, dy, s);
    products.AddGradA(group, x, mask, ds);
    products.GradX(group, dy, ds, mask);
  };
  const std::array<std::function<void()>, 4> ways = {
      frozen, [&] { adapted(ComposedProducts(), 0); }, [&] { adapted(CpuProducts(), 0); },
      [&] { adapted(CpuProducts(), 0.1); }};
  std::array<double, 4> best;
  best.fill(1e9);
  double spent = 0;
  for (int turn = 0; turn < 5 || (spent < 3000 && turn < 400); ++turn) {
    for (size_t i = 0; i < ways.size(); ++i) {
      const double took = Milliseconds(ways[i]);
      best[i] = std::min(best[i], took);
      spent += took;
    }
  }
  std::printf("| %s | %.3f ms | %.2f | %.2f | %.2f |\n", c.name, best[0], best[1] / best[0],
              best[2] / best[0], best[3] / best[0]);
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  at::set_num_threads(argc > 1 ? std::max(1, std::atoi(argv[1])) : 1);
  const c10::InferenceMode inference;
  std::printf(
      "| m x k -> n, rank | frozen | LibTorch's operations | fedumm's loops | with dropout "
      "|\n|---|---|---|---|---|\n");
  for (const Case& c :
       {Case{"512 x 128 -> 128, 64, 64 (q, k, v), 16, fp32",
             512,
             128,
             {128, 64, 64},
             16,
             at::kFloat},
        Case{"512 x 128 -> 352, 352 (gate, up), 16, fp32", 512, 128, {352, 352}, 16, at::kFloat},
        Case{"512 x 352 -> 128, 16, fp32", 512, 352, {128}, 16, at::kFloat},
        Case{"1024 x 1024 -> 1024, 256, 256 (q, k, v), 16, fp32",
             1024,
             1024,
             {1024, 256, 256},
             16,
             at::kFloat},
        Case{"1024 x 1024 -> 2816, 2816 (gate, up), 16, fp32",
             1024,
             1024,
             {2816, 2816},
             16,
             at::kFloat},
        Case{"1024 x 2816 -> 1024, 16, fp32", 1024, 2816, {1024}, 16, at::kFloat},
        Case{"512 x 2048 -> 2048, 16, fp32", 512, 2048, {2048}, 16, at::kFloat},
        Case{"512 x 2048 -> 2048, 16, bf16", 512, 2048, {2048}, 16, at::kBFloat16}}) {
    Run(c);
  }
  return 0;
}
