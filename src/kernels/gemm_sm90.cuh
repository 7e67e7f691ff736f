// The matmuls of gemm.cuh for compute capability 9.0: TMA with the 128-byte swizzle, mbarriers and
// wgmma. Warp 0 loads the large product's tiles; warps 1 to 3 copy the low-rank operands, which
// differ from segment to segment and may have any stride; two warp groups multiply.
#pragma once

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "absl/types/span.h"
#include "fedumm/kernels.h"
#include "kernels/gemm.cuh"
#include "kernels/ptx.cuh"

namespace fedumm::kernels {

template <typename T_, int kBn_, int kStages_>
struct Sm90Tile {
  using T = T_;
  static constexpr int kBm = 128, kBn = kBn_, kBk = 64, kStages = kStages_, kThreads = 384;
  static constexpr int kPBytes = kBm * kBk * 2, kStageBytes = kPBytes + kBn * kBk * 2;
  // Of a thread of the copying and of the multiplying groups; 168 on average.
  static constexpr int kCopyRegisters = kBn == 256 ? 56 : 88;
  static constexpr int kSumRegisters = kBn == 256 ? 224 : 208;
  static_assert(kCopyRegisters + 2 * kSumRegisters == 3 * 168, "");
  static constexpr int kOutPitch = kBn * 2 + 16;
  static constexpr int kSharedBytes = kStages * kStageBytes + kStages * 16;
  static_assert(kBm * kOutPitch <= kStages * kStageBytes && kSharedBytes <= 227 * 1024, "");
};

// The large product's operands. Boxes are 64 elements wide, with 128 rows (64 rows of W in the
// gradient, whose rows are the depth).
struct Sm90Maps {
  CUtensorMap p[kMaxModules], w[kMaxModules];
};
constexpr int kBoxRows = 128, kBoxColumns = 64;
// Distance of 64 columns of W or A from the next 64 in a tile of the gradient.
constexpr int kColumnBlockBytes = 64 * 128;

constexpr int kCopyThreads = 96;

// 8 elements of which `valid` exist, the rest zero.
template <typename T>
__device__ __forceinline__ uint4 LoadChunk(const T* from, int valid, bool wide) {
  if (wide && valid >= 8) return *reinterpret_cast<const uint4*>(from);
  uint32_t words[4] = {0, 0, 0, 0};
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if (e < valid) {
      words[e / 2] |= uint32_t{reinterpret_cast<const uint16_t*>(from)[e]} << e % 2 * 16;
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}

template <typename T>
__device__ __forceinline__ bool IsWide(ConstMatrix matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.stride * sizeof(T) % 16 == 0;
}

// 16 * steps elements of the depth from `depth` on of kRows rows, as TMA would have written them.
// Beyond `left` of the depth they are zero, rows beyond the last repeat it. kCopyThreads threads.
template <typename T, int kRows>
__device__ __forceinline__ void CopyRows(uint32_t tile, ConstMatrix matrix, int64_t first_row,
                                         int rows, int depth, int left, int steps, int thread) {
  const bool wide = IsWide<T>(matrix);
  const T* const from = static_cast<const T*>(matrix.data) + first_row * matrix.stride + depth;
#pragma unroll 2
  for (int i = thread; i < kRows * 2 * steps; i += kCopyThreads) {
    // 8 threads in a row store to every second row, two chunks each: all banks once.
    const int chunk = i / 16 % steps * 2 + i % 2;
    const int row = i / 16 / steps * 8 + i / 2 % 4 * 2 + i / 8 % 2;
    const uint4 value =
        LoadChunk(from + min(row, rows - 1) * matrix.stride + chunk * 8, left - chunk * 8, wide);
    ptx::StoreShared(tile + ChunkOffset<128>(row, chunk), value);
  }
}

// 16 * steps rows of the depth from `depth` on, kColumns columns each; zero beyond `left` of the
// depth and beyond the columns.
template <typename T, int kColumns>
__device__ __forceinline__ void CopyColumns(uint32_t tile, ConstMatrix matrix, int first_column,
                                            int columns, int depth, int left, int steps,
                                            int thread) {
  const bool wide = IsWide<T>(matrix);
  const T* const from = static_cast<const T*>(matrix.data) + depth * matrix.stride + first_column;
#pragma unroll 2
  for (int i = thread; i < kColumns / 8 * 16 * steps; i += kCopyThreads) {
    const int chunk = i % (kColumns / 8), row = i / (kColumns / 8);
    const uint4 value = LoadChunk(from + row * matrix.stride + chunk * 8,
                                  row < left ? columns - chunk * 8 : 0, wide);
    ptx::StoreShared(tile + chunk / 8 * kColumnBlockBytes + ChunkOffset<128>(row, chunk % 8),
                     value);
  }
}

template <typename Tile, bool kGradient>
__global__ void __launch_bounds__(Tile::kThreads, 1)
    GemmSm90Kernel(const __grid_constant__ Sm90Maps maps, const __grid_constant__ GemmArguments g) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using T = typename Tile::T;
  constexpr int kStages = Tile::kStages, kBk = Tile::kBk;
  const uint32_t shared = ptx::SharedBase();
  const uint32_t full = shared + kStages * Tile::kStageBytes, empty = full + kStages * 8;
  const BlockTile block = BlockTileOf<Tile, kGradient>(g);
  const GemmSegment& segment = block.segment;
  const int64_t row = block.row;
  const int rows = block.rows, module = block.module, column = block.column,
            columns = block.columns;
  const Parts<T, kGradient> parts{g, segment, module};
  // Only a mask needs the low-rank sum apart; otherwise its copies hide behind the large product.
  const bool low_rank_first = kGradient && g.kept != nullptr;

  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      ptx::MBarInit(full + i * 8, 1);
      ptx::MBarInit(empty + i * 8, 2);
    }
    ptx::FenceMBarInit();
  }
  __syncthreads();
  const int group = threadIdx.x / 128;
  if (group == 0) {
    ptx::RegistersDown<Tile::kCopyRegisters>();
    int t = 0;
    for (int pass = 0; pass < 2; ++pass) {
      const bool low_rank = (pass == 0) == low_rank_first;
      for (int part = 0; part < parts.Count(); ++part) {
        if (parts.IsLowRank(part) != low_rank) continue;
        const int depth = parts.Depth(part), m = parts.ModuleOf(part);
        if (!low_rank && threadIdx.x >= 32) {
          t += Tiles(depth, kBk);
          continue;
        }
        for (int at = 0; at < depth; at += kBk, ++t) {
          const int stage = t % kStages;
          const uint32_t p = shared + stage * Tile::kStageBytes, q = p + Tile::kPBytes;
          if (threadIdx.x < 32) {
            ptx::MBarWait(empty + stage * 8, (t / kStages & 1) ^ 1);
            if (threadIdx.x == 0 && !low_rank) {
              ptx::MBarArriveExpectTx(full + stage * 8, Tile::kStageBytes);
              ptx::TmaLoad2d(p, &maps.p[kGradient ? m : 0], full + stage * 8, at,
                             static_cast<int>(row));
              if constexpr (kGradient) {
#pragma unroll
                for (int i = 0; i < Tile::kBn / kBoxColumns; ++i) {
                  ptx::TmaLoad2d(q + i * kColumnBlockBytes, &maps.w[m], full + stage * 8,
                                 column + i * kBoxColumns, at);
                }
              } else {
#pragma unroll
                for (int i = 0; i < Tile::kBn / kBoxRows; ++i) {
                  ptx::TmaLoad2d(q + i * kBoxRows * 128, &maps.w[m], full + stage * 8, at,
                                 column + i * kBoxRows);
                }
              }
            }
            __syncwarp();
          }
          if (!low_rank) continue;
          ptx::BarSync(4, 128);  // warp 0 has seen that the stage is empty
          if (threadIdx.x < 32) continue;
          const int steps = min(Tiles(depth - at, 16), 4), thread = threadIdx.x - 32;
          CopyRows<T, Tile::kBm>(p, parts.P(part), row, rows, at, depth - at, steps, thread);
          if constexpr (kGradient) {
            CopyColumns<T, Tile::kBn>(q, parts.Q(part), column, columns, at, depth - at, steps,
                                      thread);
          } else {
            CopyRows<T, Tile::kBn>(q, parts.Q(part), column, columns, at, depth - at, steps,
                                   thread);
          }
          ptx::FenceProxyAsync();
          ptx::BarSync(5, kCopyThreads);
          if (thread == 0) ptx::MBarArrive(full + stage * 8);
        }
      }
    }
    return;
  }

  ptx::RegistersUp<Tile::kSumRegisters>();
  constexpr int kQStep = kGradient ? 16 * 128 / 16 : 32 / 16;  // a k16 step in a descriptor
  float sum[Tile::kBn / 2];                                    // the first wgmma does not read it
  const int thread = threadIdx.x % 128, lane = thread % 32;
  int t = 0;
  uint64_t p, q;
  const auto start = [&] {
    const uint32_t stage = shared + t % kStages * Tile::kStageBytes;
    ptx::MBarWait(full + t % kStages * 8, t / kStages & 1);
    p = ptx::DescriptorK(stage + (group - 1) * 64 * 128);
    q = kGradient ? ptx::DescriptorMn(stage + Tile::kPBytes, kColumnBlockBytes)
                  : ptx::DescriptorK(stage + Tile::kPBytes);
    ptx::WgmmaFence();
  };
  const auto finish = [&] {
    ptx::WgmmaCommit();
    ptx::WgmmaWait<1>();  // tile t - 1 is done with
    if (t > 0 && thread == 0) ptx::MBarArrive(empty + (t - 1) % kStages * 8);
    ++t;
  };
  const auto add_low_rank = [&] {
    for (int part = 0; part < parts.Count(); ++part) {
      if (!parts.IsLowRank(part)) continue;
      for (int left = parts.Depth(part); left > 0; left -= kBk) {
        start();
        // Only the 16 columns that are needed.
        for (int step = 0; step < kBk / 16 && step * 16 < left; ++step) {
          ptx::WgmmaFence();
          ptx::Wgmma<T, kGradient>(sum, p + step * 2, q + step * kQStep, t + step > 0);
        }
        finish();
      }
    }
  };
  int large_tiles = 0;
  for (int part = 0; part < parts.Count(); ++part) {
    if (!parts.IsLowRank(part)) large_tiles += Tiles(parts.Depth(part), kBk);
  }
  if constexpr (kGradient) {
    if (low_rank_first) {
      add_low_rank();
      ptx::WgmmaWait<0>();
      const int64_t words = Tiles(g.k, 32);
      const KeptTile kept = {g.kept + row * words + column / 32, words, rows, columns};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = (group - 1) * 64 + thread / 32 * 16 + half * 8 + lane / 4;
#pragma unroll
        for (int j = 0; j < Tile::kBn / 8; j += 4) {
          const uint32_t bits = kept.Word(r, j * 8) >> lane % 4 * 2;
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            float& value = sum[(j + e / 2) * 4 + half * 2 + e % 2];
            value = bits >> (e / 2 * 8 + e % 2) & 1 ? value : 0;
          }
        }
      }
    }
  }
  for (const int end = t + large_tiles; t < end;) {
    start();
#pragma unroll
    for (int step = 0; step < kBk / 16; ++step) {
      ptx::Wgmma<T, kGradient>(sum, p + step * 2, q + step * kQStep, t + step > 0);
    }
    finish();
  }
  if (!low_rank_first) add_low_rank();
  ptx::WgmmaWait<0>();

  // All loads have landed; when both groups are here nobody reads the tiles any more.
  ptx::BarSync(1, 256);
  const Output<T> out = OutputOf<T, kGradient>(g, module, row, rows, column);
#pragma unroll
  for (int j = 0; j < Tile::kBn / 8; ++j) {
    const int c = j * 8 + lane % 4 * 2;
    float bias[2] = {0, 0};
    if (!kGradient && out.bias != nullptr) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        if (c + e < out.columns) bias[e] = static_cast<float>(out.bias[c + e]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int r = (group - 1) * 64 + thread / 32 * 16 + half * 8 + lane / 4;
      ptx::StoreShared<uint32_t>(
          shared + r * Tile::kOutPitch + c * 2,
          ptx::Pack<T>(sum[j * 4 + half * 2] + bias[0], sum[j * 4 + half * 2 + 1] + bias[1]));
    }
  }
  ptx::BarSync(1 + group, 128);  // each group stores its own rows
  Output<T> mine = out;
  mine.data += (group - 1) * 64 * out.stride;
  mine.rows -= (group - 1) * 64;
  StoreRows<64, Tile::kBn, 128, Tile::kOutPitch>(shared + (group - 1) * 64 * Tile::kOutPitch,
                                                 thread, mine);
#else
  __trap();  // this code was not compiled for sm_90a: FEDUMM_WITHOUT_SM90A has to say so
#endif
}

// --- Host ----------------------------------------------------------------------------------------

// False if the driver cannot make maps of the operands or there is nothing to load: then the kernel
// of gemm.cuh does the work.
template <typename T, bool kGradient>
bool EncodeMaps(const LoraProblem& problem, absl::Span<const ConstMatrix> p, Sm90Maps* maps) {
  using Encode =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  // From the driver at run time: a program that is linked with libcuda does not start without one.
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &found);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &found);
#endif
    return reinterpret_cast<Encode>(error == cudaSuccess ? entry : nullptr);
  }();
  if (encode == nullptr) return false;
  const auto make = [&](ConstMatrix matrix, int64_t rows, int64_t columns, int box_rows,
                        CUtensorMap* map) {
    const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
    const cuuint64_t pitch[1] = {static_cast<cuuint64_t>(matrix.stride) * sizeof(T)};
    const cuuint32_t box[2] = {kBoxColumns, static_cast<cuuint32_t>(box_rows)}, step[2] = {1, 1};
    return encode(map,
                  std::is_same_v<T, __half> ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                            : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                  2, const_cast<void*>(matrix.data), size, pitch, box, step,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
  };
  const int64_t rows = LoraRows(problem);
  if (rows == 0 || problem.k == 0) return false;
  if (!kGradient && !make(p[0], rows, problem.k, kBoxRows, &maps->p[0])) return false;
  bool any = false;
  for (size_t g = 0; g < problem.modules.size(); ++g) {
    const LoraModule& module = problem.modules[g];
    if (module.n == 0) continue;
    any = true;
    if (!make(module.w, module.n, problem.k, kGradient ? kBoxColumns : kBoxRows, &maps->w[g])) {
      return false;
    }
    if (kGradient && !make(p[g], rows, module.n, kBoxRows, &maps->p[g])) return false;
  }
  return any;
}

}  // namespace fedumm::kernels
