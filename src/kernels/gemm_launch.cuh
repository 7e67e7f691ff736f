// The host side of gemm.cuh: which kernel, which tiles, the arguments of each launch.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "fedumm/kernels.h"
#include "kernels/gemm.cuh"
#include "kernels/gemm_sm90.cuh"
#include "kernels/launch.cuh"
#include "kernels/problem.h"

namespace fedumm::kernels {

struct GemmCall {
  const char* function;  // for errors
  const LoraProblem& problem;
  absl::Span<const ConstMatrix> p;  // x, or dY of each module
  ConstMatrix s;
  absl::Span<const Matrix> out;  // y of each module, or dX
  const uint32_t* kept;
  cudaStream_t stream;
};

template <bool kGradient>
bool AreMainOperandsWide(const GemmCall& call) {
  const LoraProblem& problem = call.problem;
  const int64_t rows = LoraRows(problem), bytes = BytesOf(problem.dtype);
  for (size_t g = 0; g < problem.modules.size(); ++g) {
    const LoraModule& module = problem.modules[g];
    if (!AreRowsWide(call.p[kGradient ? g : 0], rows, kGradient ? module.n : problem.k, bytes) ||
        !AreRowsWide(module.w, module.n, problem.k, bytes)) {
      return false;
    }
  }
  return true;
}

template <bool kGradient>
bool AreLowRankOperandsWide(const GemmCall& call) {
  const LoraProblem& problem = call.problem;
  const int64_t bytes = BytesOf(problem.dtype);
  for (const LoraSegment& segment : problem.segments) {
    for (size_t g = 0; g < problem.modules.size(); ++g) {
      const LoraFactors& factors = segment.factors[g];
      const bool wide = kGradient
                            ? AreRowsWide(factors.a, factors.rank, problem.k, bytes)
                            : AreRowsWide(factors.b, problem.modules[g].n, factors.rank, bytes);
      if (!wide || !AreRowsWide(call.s, segment.rows, factors.rank, bytes)) return false;
    }
  }
  return true;
}

// Tiles of all results.
template <bool kGradient>
int64_t TileCount(const LoraProblem& problem, int64_t height, int64_t width) {
  int64_t rows = 0, columns = 0;
  for (const LoraSegment& segment : problem.segments) rows += CeilDiv(segment.rows, height);
  for (const LoraModule& module : problem.modules) columns += CeilDiv(module.n, width);
  return rows * (kGradient ? CeilDiv(problem.k, width) : columns);
}

// Large tiles do more with what they load; small ones fill the device sooner and waste less on
// short segments.
template <bool kGradient, typename Large, typename Small>
bool PreferLarge(const LoraProblem& problem, const Device& device) {
  const int64_t large = TileCount<kGradient>(problem, Large::kBm, Large::kBn);
  const int64_t small = TileCount<kGradient>(problem, Small::kBm, Small::kBn);
  const double padded = static_cast<double>(large) * Large::kBm * Large::kBn;
  return large >= device.multiprocessors &&
         padded <= 1.5 * static_cast<double>(small) * Small::kBm * Small::kBn;
}

// Fills the arguments of a launch with segments from *next on and advances it. Row tiles are 0 if
// there was nothing left.
template <bool kGradient>
void FillArguments(const GemmCall& call, int height, int width, size_t* next, int64_t* first_row,
                   GemmArguments* g) {
  const LoraProblem& problem = call.problem;
  g->k = static_cast<int>(problem.k);
  g->modules = static_cast<int>(problem.modules.size());
  g->s = call.s;
  g->kept = call.kept;
  g->column_tiles = 0;
  for (int i = 0; i < g->modules; ++i) {
    const LoraModule& module = problem.modules[i];
    g->module[i] = {call.p[kGradient ? i : 0],
                    module.w,
                    module.bias,
                    static_cast<int>(module.n),
                    static_cast<int>(LoraSColumn(problem, i)),
                    g->column_tiles,
                    kGradient ? Matrix{} : call.out[i]};
    if (!kGradient) g->column_tiles += static_cast<int>(CeilDiv(module.n, width));
  }
  if (kGradient) {
    g->dx = call.out[0];
    g->column_tiles = static_cast<int>(CeilDiv(problem.k, width));
  }
  g->segments = 0;
  g->row_tiles = 0;
  for (; *next < problem.segments.size() && g->segments < kLaunchSegments; ++*next) {
    const LoraSegment& segment = problem.segments[*next];
    if (segment.rows == 0) continue;
    GemmSegment& to = g->segment[g->segments++];
    to.first_tile = g->row_tiles;
    to.first_row = static_cast<int>(*first_row);
    to.rows = static_cast<int>(segment.rows);
    for (int i = 0; i < g->modules; ++i) {
      const LoraFactors& factors = segment.factors[i];
      to.ranks[i] = static_cast<int16_t>(factors.rank);
      to.factors[i] = kGradient ? factors.a : factors.b;
    }
    g->row_tiles += static_cast<int>(CeilDiv(segment.rows, height));
    *first_row += segment.rows;
  }
}

// Launches `launch(arguments, blocks)` for all segments.
template <bool kGradient, typename Function>
absl::Status ForEachLaunch(const GemmCall& call, int height, int width, const Function& launch) {
  size_t next = 0;
  int64_t first_row = 0;
  GemmArguments arguments = {};
  for (;;) {
    FillArguments<kGradient>(call, height, width, &next, &first_row, &arguments);
    const int64_t blocks = int64_t{arguments.row_tiles} * arguments.column_tiles;
    if (blocks == 0) return absl::OkStatus();
    if (blocks > std::numeric_limits<int32_t>::max()) {
      return absl::InvalidArgumentError(
          absl::StrCat(call.function, ": ", blocks, " tiles are more than a launch can have"));
    }
    if (absl::Status status =
            CudaStatus(launch(arguments, static_cast<unsigned>(blocks)), call.function);
        !status.ok()) {
      return status;
    }
  }
}

template <typename Tile, bool kGradient, int kVec>
absl::Status LaunchGemm(const GemmCall& call) {
  return ForEachLaunch<kGradient>(
      call, Tile::kBm, Tile::kBn, [&](const GemmArguments& arguments, unsigned blocks) {
        return Launch(GemmKernel<Tile, kGradient, kVec>, dim3(blocks), Tile::kThreads,
                      Tile::kSharedBytes, call.stream, arguments);
      });
}

#if !defined(FEDUMM_WITHOUT_SM90A)
template <typename Tile, bool kGradient>
absl::Status LaunchGemmSm90(const GemmCall& call, const Sm90Maps& maps) {
  return ForEachLaunch<kGradient>(
      call, Tile::kBm, Tile::kBn, [&](const GemmArguments& arguments, unsigned blocks) {
        return Launch(GemmSm90Kernel<Tile, kGradient>, dim3(blocks), Tile::kThreads,
                      Tile::kSharedBytes, call.stream, maps, arguments);
      });
}
#endif

template <typename T, bool kGradient>
absl::Status GemmOf(const GemmCall& call) {
  constexpr bool kFloat = std::is_same_v<T, float>;
  using Large = std::conditional_t<kFloat, GemmTile<T, 128, 128, 4, 2, 4, 1>,
                                   GemmTile<T, 128, 256, 2, 4, 4, 1>>;
  using Small =
      std::conditional_t<kFloat, GemmTile<T, 64, 64, 2, 1, 4, 4>, GemmTile<T, 64, 64, 2, 2, 4, 6>>;
  Device device;
  if (absl::Status status = CudaStatus(CurrentDevice(&device), call.function); !status.ok()) {
    return status;
  }
  if (!AreMainOperandsWide<kGradient>(call)) return LaunchGemm<Small, kGradient, sizeof(T)>(call);
#if !defined(FEDUMM_WITHOUT_SM90A)
  if constexpr (!kFloat) {
    Sm90Maps maps;
    if (device.major == 9 && EncodeMaps<T, kGradient>(call.problem, call.p, &maps)) {
      using Wide = Sm90Tile<T, 256, 4>;
      using Narrow = Sm90Tile<T, 128, 4>;
      return PreferLarge<kGradient, Wide, Narrow>(call.problem, device)
                 ? LaunchGemmSm90<Wide, kGradient>(call, maps)
                 : LaunchGemmSm90<Narrow, kGradient>(call, maps);
    }
  }
#endif
  if (!AreLowRankOperandsWide<kGradient>(call))
    return LaunchGemm<Small, kGradient, sizeof(T)>(call);
  return PreferLarge<kGradient, Large, Small>(call.problem, device)
             ? LaunchGemm<Large, kGradient, 16>(call)
             : LaunchGemm<Small, kGradient, 16>(call);
}

template <bool kGradient>
absl::Status Gemm(const GemmCall& call) {
  return WithElementType(call.problem.dtype, call.function,
                         [&](auto element) { return GemmOf<decltype(element), kGradient>(call); });
}

}  // namespace fedumm::kernels
