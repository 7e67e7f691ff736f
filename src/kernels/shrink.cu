// S = scale * dropout(x) Aᵀ / (1 - dropout) and the dropout mask, bound by reading x.
#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "fedumm/kernels.h"
#include "kernels/gemm.cuh"
#include "kernels/launch.cuh"
#include "kernels/philox.h"
#include "kernels/problem.h"

namespace fedumm::kernels {

struct ShrinkSegment {
  int first_tile;  // among all row tiles
  int first_row;   // of the batch
  int rows;
  uint64_t key;
  int16_t ranks[kMaxModules];
  float factors[kMaxModules];  // scale / (1 - dropout)
  ConstMatrix a[kMaxModules];
};
struct ShrinkArguments {
  int k, modules, segments, row_tiles;
  uint32_t threshold;
  ConstMatrix x;
  Matrix s;
  int s_column[kMaxModules];
  uint32_t* kept;  // null: no dropout
  ShrinkSegment segment[kLaunchSegments];
};

// A block owns 32 rows and kR columns of S. Its tiles hold 64 elements of k, a quarter of which
// each pair of warps multiplies; the four sums are added in the end. So the order of the sum
// depends on k alone.
template <typename T_, int kR_>
struct ShrinkTile {
  using T = T_;
  static constexpr int kBm = 32, kR = kR_, kBk = 64, kThreads = 256, kSlices = 4;
  static constexpr int kStages = sizeof(T) == 2 ? 6 : kR == 64 ? 3 : 4;
  static constexpr int kMinBlocks = sizeof(T) == 4 && kR == 64 ? 1 : 2;  // 128 registers spill
  static constexpr int kRowBytes = kBk * sizeof(T);
  static constexpr int kXBytes = kBm * kRowBytes, kStageBytes = (kBm + kR) * kRowBytes;
  // Masks of 8 tiles: while four are written, the four before leave as whole sectors.
  static constexpr int kMaskTiles = 8, kMaskPitch = kMaskTiles * kBk / 8 + 4;
  static constexpr int kMaskBytes = kBm * kMaskPitch;
  static constexpr int kSumPitch = (kR + 8) * 4;  // 4 rows hit all banks
  static constexpr int kSharedBytes = kStages * kStageBytes + kMaskBytes;
  static_assert(kSlices * kBm * kSumPitch <= kStages * kStageBytes, "sums replace tiles");
};

// 8 columns of S that belong to one module.
struct RankBlock {
  int module, first, ranks;  // `ranks` of the 8 exist
};
__device__ __forceinline__ RankBlock RankBlockOf(const ShrinkArguments& g,
                                                 const ShrinkSegment& segment, int block) {
  for (int m = 0; m < g.modules; ++m) {
    const int blocks = Tiles(segment.ranks[m], 8);
    if (block < blocks) return {m, block * 8, min(segment.ranks[m] - block * 8, 8)};
    block -= blocks;
  }
  return {0, 0, 0};
}

// A warp's 16 rows by kR columns of one slice.
template <typename Tile>
struct ShrinkTensorSum {
  using T = typename Tile::T;
  static constexpr int kNi = Tile::kR / 8;
  float sum[kNi][4] = {};

  __device__ __forceinline__ void Add(uint32_t x, uint32_t a, uint32_t mask, bool dropout) {
    const int lane = threadIdx.x % 32, rows = threadIdx.x / 32 % 2 * 16, slice = threadIdx.x / 64;
    uint32_t fx[4];
    ptx::LdmatrixX4(fx, x + ChunkOffset<Tile::kRowBytes>(rows + lane % 16, slice * 2 + lane / 16));
    if (dropout) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t bits = ptx::LoadShared<uint16_t>(
            mask + (rows + half * 8 + lane / 4) * Tile::kMaskPitch + slice * 2);
        const uint32_t first = bits >> lane % 4 * 2;
        fx[half] &= KeepMask(first, first >> 1);
        fx[half + 2] &= KeepMask(first >> 8, first >> 9);
      }
    }
#pragma unroll
    for (int j = 0; j < kNi; j += 2) {
      uint32_t fa[4];
      ptx::LdmatrixX4(fa, a + ChunkOffset<Tile::kRowBytes>(j * 8 + lane % 8 + lane / 16 * 8,
                                                           slice * 2 + lane / 8 % 2));
      ptx::Mma<T>(sum[j], fx, fa[0], fa[1]);
      ptx::Mma<T>(sum[j + 1], fx, fa[2], fa[3]);
    }
  }

  __device__ __forceinline__ void Store(uint32_t to) const {
    const int lane = threadIdx.x % 32, rows = threadIdx.x / 32 % 2 * 16, slice = threadIdx.x / 64;
#pragma unroll
    for (int j = 0; j < kNi; ++j) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = slice * Tile::kBm + rows + half * 8 + lane / 4;
        ptx::StoreShared(to + row * Tile::kSumPitch + (j * 8 + lane % 4 * 2) * 4,
                         make_float2(sum[j][half * 2], sum[j][half * 2 + 1]));
      }
    }
  }
};

// A thread's 4 rows by kR / 8 columns of one slice.
template <typename Tile>
struct ShrinkFloatSum {
  static constexpr int kNi = Tile::kR / 8;
  float sum[4][kNi] = {};

  __device__ __forceinline__ void Add(uint32_t x, uint32_t a, uint32_t mask, bool dropout) {
    const int tx = threadIdx.x % 8, ty = threadIdx.x / 8 % 8, slice = threadIdx.x / 64;
    uint32_t bits[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bits[i] = dropout
                    ? ptx::LoadShared<uint16_t>(mask + (ty + i * 8) * Tile::kMaskPitch + slice * 2)
                    : 0xffff;
    }
#pragma unroll 2  // more of it at a time spills
    for (int chunk = 0; chunk < 4; ++chunk) {
      float v[4][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const auto row = ptx::LoadShared<float4>(
            x + ChunkOffset<Tile::kRowBytes>(ty + i * 8, slice * 4 + chunk));
        const float e[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
        for (int n = 0; n < 4; ++n) v[i][n] = bits[i] >> (chunk * 4 + n) & 1 ? e[n] : 0;
      }
#pragma unroll
      for (int j = 0; j < kNi; ++j) {
        const auto row = ptx::LoadShared<float4>(
            a + ChunkOffset<Tile::kRowBytes>(tx + j * 8, slice * 4 + chunk));
        const float e[4] = {row.x, row.y, row.z, row.w};
#pragma unroll
        for (int n = 0; n < 4; ++n) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[i][j] = __fmaf_rn(v[i][n], e[n], sum[i][j]);
        }
      }
    }
  }

  __device__ __forceinline__ void Store(uint32_t to) const {
    const int tx = threadIdx.x % 8, ty = threadIdx.x / 8 % 8, slice = threadIdx.x / 64;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < kNi; ++j) {
        ptx::StoreShared(to + (slice * Tile::kBm + ty + i * 8) * Tile::kSumPitch + (tx + j * 8) * 4,
                         sum[i][j]);
      }
    }
  }
};

template <typename Tile>
using ShrinkSum =
    std::conditional_t<sizeof(typename Tile::T) == 4, ShrinkFloatSum<Tile>, ShrinkTensorSum<Tile>>;

// kVec: bytes of a copy, 16 or those of an element.
template <typename Tile, int kVec>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kMinBlocks)
    ShrinkKernel(const __grid_constant__ ShrinkArguments g) {
  using T = typename Tile::T;
  constexpr int kStages = Tile::kStages, kBk = Tile::kBk, kRowBytes = Tile::kRowBytes;
  constexpr int kElements = kVec / sizeof(T), kPerRow = kBk / kElements;
  constexpr int kStep = Tile::kThreads / kPerRow;  // rows between a thread's copies
  constexpr int kXCopies = Tile::kBm / kStep, kACopies = (Tile::kR + kStep - 1) / kStep;
  constexpr bool kWide = kVec == 16;  // pointers stay in registers
  const uint32_t shared = ptx::SharedBase(), masks = shared + kStages * Tile::kStageBytes;

  const ShrinkSegment& segment = g.segment[SegmentOf(g, static_cast<int>(blockIdx.x))];
  const int in_segment = (static_cast<int>(blockIdx.x) - segment.first_tile) * Tile::kBm;
  const int64_t first_row = int64_t{segment.first_row} + in_segment;
  const int rows = segment.rows - in_segment;
  const int first_block = static_cast<int>(blockIdx.y) * (Tile::kR / 8);
  const bool dropout = g.kept != nullptr;
  // Without columns the block still makes the mask; the further blocks of a row tile do not.
  const bool has_columns = RankBlockOf(g, segment, first_block).ranks > 0;
  if (!has_columns && (blockIdx.y > 0 || !dropout)) return;
  const int tiles = Tiles(g.k, kBk);

  const int copy_row = threadIdx.x / kPerRow, copy_column = threadIdx.x % kPerRow * kElements;
  const uint32_t copy_byte = copy_column * sizeof(T);
  const auto x_row = [&](int i) {
    const int row = min(copy_row + i * kStep, rows - 1);
    return static_cast<const T*>(g.x.data) + (first_row + row) * g.x.stride + copy_column;
  };
  const auto a_row = [&](int i) -> const T* {  // null: zeros
    const int row = copy_row + i * kStep;
    const RankBlock block = RankBlockOf(g, segment, first_block + row / 8);
    if (row % 8 >= block.ranks) return nullptr;
    const ConstMatrix& a = segment.a[block.module];
    return static_cast<const T*>(a.data) + (block.first + row % 8) * a.stride + copy_column;
  };
  const T* x_from[kWide ? kXCopies : 1];
  const T* a_from[kWide ? kACopies : 1];
  if constexpr (kWide) {
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) x_from[i] = x_row(i);
#pragma unroll
    for (int i = 0; i < kACopies; ++i) a_from[i] = a_row(i);
  }
  const auto load = [&](int t) {
    const uint32_t x = shared + t % kStages * Tile::kStageBytes, a = x + Tile::kXBytes;
    const int at = t * kBk;
    const int valid = min(max(g.k - at - copy_column, 0), kElements) * static_cast<int>(sizeof(T));
    const auto to = [&](int i) {
      return ChunkOffset<kRowBytes>(copy_row + i * kStep, copy_byte / 16) + copy_byte % 16;
    };
#pragma unroll
    for (int i = 0; i < kXCopies; ++i) {
      const T* from = kWide ? x_from[kWide ? i : 0] : x_row(i);
      Copy<kVec>(x + to(i), from + at, valid);
    }
#pragma unroll
    for (int i = 0; i < kACopies; ++i) {
      if (copy_row + i * kStep >= Tile::kR) break;
      const T* from = kWide ? a_from[kWide ? i : 0] : a_row(i);
      Copy<kVec>(a + to(i), from != nullptr ? from + at : g.x.data, from != nullptr ? valid : 0);
    }
  };

  // A lane makes the mask of 8 elements; two lanes store 16 bits.
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const auto make_mask = [&](int t) {
    const int row = warp % 2 * 16 + lane / 2, slice = warp / 2;
    const uint32_t mine = DropoutByte(g.threshold, segment.key, int64_t{in_segment} + row,
                                      int64_t{t} * (kBk / 8) + slice * 2 + lane % 2);
    const uint32_t other = __shfl_xor_sync(0xffffffff, mine, 1);
    if (lane % 2 == 0) {
      ptx::StoreShared(
          masks + row * Tile::kMaskPitch + t % Tile::kMaskTiles * (kBk / 8) + slice * 2,
          static_cast<uint16_t>(mine | other << 8));
    }
  };
  // Stores the masks of tiles 4 * group to 4 * group + 3.
  const int words = Tiles(g.k, 32);
  const auto store_masks = [&](int group) {
    const int row = threadIdx.x / 8, word = threadIdx.x % 8;
    if (blockIdx.y > 0 || row >= rows || group * 8 + word >= words) return;
    g.kept[(first_row + row) * words + group * 8 + word] =
        ptx::LoadShared<uint32_t>(masks + row * Tile::kMaskPitch + group % 2 * 32 + word * 4);
  };

  ShrinkSum<Tile> sum;
  for (int t = 0; t < kStages - 1; ++t) {
    if (has_columns && t < tiles) load(t);
    ptx::CpAsyncCommit();
  }
  if (dropout && tiles > 0) make_mask(0);
  for (int t = 0; t < tiles; ++t) {
    ptx::CpAsyncWait<kStages - 2>();
    __syncthreads();  // tile t and its mask are there for all; nobody reads tile t - 1 any more
    if (has_columns && t + kStages - 1 < tiles) load(t + kStages - 1);
    ptx::CpAsyncCommit();
    if (dropout) {
      if (t % 4 == 0 && t > 0) store_masks(t / 4 - 1);
      if (t + 1 < tiles) make_mask(t + 1);
    }
    if (!has_columns) continue;
    const uint32_t x = shared + t % kStages * Tile::kStageBytes;
    sum.Add(x, x + Tile::kXBytes, masks + t % Tile::kMaskTiles * (kBk / 8), dropout);
  }
  ptx::CpAsyncWait<0>();
  __syncthreads();  // the sums replace the tiles
  if (dropout && tiles > 0) store_masks((tiles - 1) / 4);
  if (!has_columns) return;
  sum.Store(shared);
  __syncthreads();

  constexpr int kBlocks = Tile::kR / 8;
  const int row = threadIdx.x / kBlocks, block = threadIdx.x % kBlocks;
  if (row >= min(rows, Tile::kBm)) return;
  const RankBlock to = RankBlockOf(g, segment, first_block + block);
  if (to.ranks == 0) return;
  float value[8];
#pragma unroll
  for (int e = 0; e < 8; e += 4) {
    float4 total = {};
#pragma unroll
    for (int slice = 0; slice < Tile::kSlices; ++slice) {
      const auto part = ptx::LoadShared<float4>(
          shared + (slice * Tile::kBm + row) * Tile::kSumPitch + (block * 8 + e) * 4);
      total.x += part.x, total.y += part.y, total.z += part.z, total.w += part.w;
    }
    const float factor = segment.factors[to.module];
    value[e] = total.x * factor, value[e + 1] = total.y * factor;
    value[e + 2] = total.z * factor, value[e + 3] = total.w * factor;
  }
  T* out =
      static_cast<T*>(g.s.data) + (first_row + row) * g.s.stride + g.s_column[to.module] + to.first;
  const bool wide = to.ranks == 8 && reinterpret_cast<uintptr_t>(out) % 16 == 0;
  if constexpr (sizeof(T) == 4) {
    if (wide) {
      reinterpret_cast<float4*>(out)[0] = make_float4(value[0], value[1], value[2], value[3]);
      reinterpret_cast<float4*>(out)[1] = make_float4(value[4], value[5], value[6], value[7]);
      return;
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (e < to.ranks) out[e] = value[e];
    }
  } else {
    uint32_t packed[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) packed[e] = ptx::Pack<T>(value[e * 2], value[e * 2 + 1]);
    if (wide) {
      *reinterpret_cast<uint4*>(out) = make_uint4(packed[0], packed[1], packed[2], packed[3]);
      return;
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      if (e < to.ranks) {
        reinterpret_cast<uint16_t*>(out)[e] = static_cast<uint16_t>(packed[e / 2] >> e % 2 * 16);
      }
    }
  }
}

// --- Host ----------------------------------------------------------------------------------------

namespace {

int64_t RankBlocks(const LoraProblem& problem, const LoraSegment& segment) {
  int64_t blocks = 0;
  for (size_t g = 0; g < problem.modules.size(); ++g) blocks += CeilDiv(segment.factors[g].rank, 8);
  return blocks;
}

struct ShrinkCall {
  const LoraProblem& problem;
  ConstMatrix x;
  Matrix s;
  uint32_t* kept;
  cudaStream_t stream;
};

template <typename Tile, int kVec>
absl::Status LaunchShrink(const ShrinkCall& call) {
  const LoraProblem& problem = call.problem;
  ShrinkArguments g = {};
  g.k = static_cast<int>(problem.k);
  g.modules = static_cast<int>(problem.modules.size());
  g.threshold = DropoutThreshold(problem.dropout);
  g.x = call.x;
  g.s = call.s;
  g.kept = problem.dropout > 0 ? call.kept : nullptr;
  for (int m = 0; m < g.modules; ++m) g.s_column[m] = static_cast<int>(LoraSColumn(problem, m));
  int64_t first_row = 0;
  for (size_t next = 0; next < problem.segments.size();) {
    g.segments = 0;
    g.row_tiles = 0;
    int64_t blocks = 1;
    for (; next < problem.segments.size() && g.segments < kLaunchSegments; ++next) {
      const LoraSegment& segment = problem.segments[next];
      if (segment.rows == 0) continue;
      ShrinkSegment& to = g.segment[g.segments++];
      to.first_tile = g.row_tiles;
      to.first_row = static_cast<int>(first_row);
      to.rows = static_cast<int>(segment.rows);
      to.key = segment.dropout_key;
      for (int m = 0; m < g.modules; ++m) {
        const LoraFactors& factors = segment.factors[m];
        to.ranks[m] = static_cast<int16_t>(factors.rank);
        to.factors[m] = static_cast<float>(double{factors.scale} / (1 - problem.dropout));
        to.a[m] = factors.a;
      }
      first_row += segment.rows;
      g.row_tiles += static_cast<int>(CeilDiv(segment.rows, Tile::kBm));
      blocks = std::max(blocks, CeilDiv(RankBlocks(problem, segment) * 8, Tile::kR));
    }
    if (g.row_tiles == 0) continue;
    const dim3 grid(static_cast<unsigned>(g.row_tiles), static_cast<unsigned>(blocks));
    if (absl::Status status = CudaStatus(Launch(ShrinkKernel<Tile, kVec>, grid, Tile::kThreads,
                                                Tile::kSharedBytes, call.stream, g),
                                         "LoraShrinkCuda");
        !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

// More than 64 columns take several blocks a row tile, which find x in L2.
template <typename T>
absl::Status ShrinkOf(const ShrinkCall& call) {
  const LoraProblem& problem = call.problem;
  int64_t columns = 0;
  bool wide = AreRowsWide(call.x, LoraRows(problem), problem.k, sizeof(T));
  for (const LoraSegment& segment : problem.segments) {
    columns = std::max(columns, RankBlocks(problem, segment) * 8);
    for (size_t g = 0; g < problem.modules.size(); ++g) {
      const LoraFactors& factors = segment.factors[g];
      wide = wide && AreRowsWide(factors.a, factors.rank, problem.k, sizeof(T));
    }
  }
  if (!wide) return LaunchShrink<ShrinkTile<T, 64>, sizeof(T)>(call);
  if (columns <= 16) return LaunchShrink<ShrinkTile<T, 16>, 16>(call);
  if (columns <= 32) return LaunchShrink<ShrinkTile<T, 32>, 16>(call);
  return LaunchShrink<ShrinkTile<T, 64>, 16>(call);
}

}  // namespace

absl::Status LoraShrinkCuda(const LoraProblem& problem, ConstMatrix x, Matrix s, uint32_t* kept,
                            CUstream_st* stream) {
  if (absl::Status status = CheckLoraProblem(problem); !status.ok()) return status;
  const int64_t rows = LoraRows(problem);
  if (absl::Status status = CheckMatrix("x", x, rows, problem.k, problem.dtype); !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckMatrix("S", s, rows, LoraSColumns(problem), problem.dtype);
      !status.ok()) {
    return status;
  }
  if (absl::Status status = CheckKept(problem, kept); !status.ok()) return status;
  const ShrinkCall call = {problem, x, s, kept, stream};
  return WithElementType(problem.dtype, "LoraShrinkCuda",
                         [&](auto element) { return ShrinkOf<decltype(element)>(call); });
}

}  // namespace fedumm::kernels
