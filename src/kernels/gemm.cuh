// The large matmuls of LoRA with the low-rank one inside: the arguments, the order of tiles and the
// kernel for compute capability 8.0 and later (cp.async, ldmatrix, mma.sync; FFMA for float).
//
// Forward: y_g = x W_gᵀ + bias_g + S_g B_gᵀ, a block owns a tile of one y_g.
// Gradient: dX = sum over g of dY_g W_g + dropout(dS_g A_g), a block owns a tile of dX.
// Both are a sequence of parts P Q into one accumulator. P is [rows, depth] with the depth
// contiguous. Q is W or B as [columns, depth] in the forward pass, and W or A as [depth, columns]
// in the gradient. A block runs the parts one after the other through one pipeline of tiles.
#pragma once

#include <cstdint>
#include <type_traits>

#include "fedumm/kernels.h"
#include "kernels/ptx.cuh"
#include "kernels/tile.cuh"

namespace fedumm::kernels {

// Segments of one launch; a batch of more takes several launches. They make kernel arguments of 6
// to 9 KB, which CUDA 12.1 and later allow.
constexpr int kLaunchSegments = 64;

struct GemmModule {
  ConstMatrix p;  // x, or dY_g
  ConstMatrix w;  // [n, k]
  const void* bias;
  int n;
  int s_column;           // of S or dS
  int first_column_tile;  // of y_g among all column tiles
  Matrix y;
};
struct GemmSegment {
  int first_tile;  // among all row tiles
  int first_row;   // of the batch
  int rows;
  int16_t ranks[kMaxModules];
  ConstMatrix factors[kMaxModules];  // B_g, or A_g
};
struct GemmArguments {
  int k, modules, segments, row_tiles, column_tiles;
  ConstMatrix s;
  Matrix dx;
  const uint32_t* kept;  // null: no dropout
  GemmModule module[kMaxModules];
  GemmSegment segment[kLaunchSegments];
};

__device__ __forceinline__ int Tiles(int elements, int tile) {
  return (elements + tile - 1) / tile;
}

// What a block computes. Blocks that run at the same time share rows and columns in L2: 8 row tiles
// go through all column tiles together.
struct Place {
  int row_tile, column_tile;
};
__device__ __forceinline__ Place PlaceOf(const GemmArguments& g) {
  constexpr unsigned kTogether = 8;
  const unsigned group = blockIdx.x / (kTogether * g.column_tiles);
  const unsigned in_group = blockIdx.x - group * (kTogether * g.column_tiles);
  const unsigned first = group * kTogether;
  const unsigned rows = min(kTogether, g.row_tiles - first);
  return {static_cast<int>(first + in_group % rows), static_cast<int>(in_group / rows)};
}

template <typename Arguments>
__device__ __forceinline__ int SegmentOf(const Arguments& g, int row_tile) {
  return LastAtOrBefore(g.segments, row_tile, [&](int i) { return g.segment[i].first_tile; });
}

__device__ __forceinline__ int ModuleOf(const GemmArguments& g, int column_tile) {
  int module = 0;
  while (module + 1 < g.modules && g.module[module + 1].first_column_tile <= column_tile) ++module;
  return module;
}

// A block's tile of the result.
struct BlockTile {
  const GemmSegment& segment;
  int64_t row;          // of the batch
  int rows;             // of the segment from there on
  int module;           // of the forward pass
  int column, columns;  // of y_g or dX from there on
};
template <typename Tile, bool kGradient>
__device__ __forceinline__ BlockTile BlockTileOf(const GemmArguments& g) {
  const Place place = PlaceOf(g);
  const GemmSegment& segment = g.segment[SegmentOf(g, place.row_tile)];
  const int in_segment = (place.row_tile - segment.first_tile) * Tile::kBm;
  const int module = kGradient ? 0 : ModuleOf(g, place.column_tile);
  const int column =
      (place.column_tile - (kGradient ? 0 : g.module[module].first_column_tile)) * Tile::kBn;
  return {
      segment, int64_t{segment.first_row} + in_segment,        segment.rows - in_segment, module,
      column,  (kGradient ? g.k : g.module[module].n) - column};
}

// The parts of a block. The low-rank ones come last in the forward pass, where they are loaded
// behind the large product; they come first in the gradient, where the mask applies to their sum
// alone.
template <typename T, bool kGradient>
struct Parts {
  const GemmArguments& g;
  const GemmSegment& segment;
  int module;  // of the forward pass

  __device__ __forceinline__ int Count() const { return kGradient ? 2 * g.modules : 2; }
  __device__ __forceinline__ bool IsLowRank(int part) const {
    return kGradient ? part < g.modules : part == 1;
  }
  __device__ __forceinline__ int ModuleOf(int part) const {
    return !kGradient ? module : part < g.modules ? part : part - g.modules;
  }
  __device__ __forceinline__ int Depth(int part) const {
    const int m = ModuleOf(part);
    return IsLowRank(part) ? segment.ranks[m] : kGradient ? g.module[m].n : g.k;
  }
  __device__ __forceinline__ ConstMatrix P(int part) const {
    const int m = ModuleOf(part);
    if (!IsLowRank(part)) return g.module[m].p;
    return {static_cast<const T*>(g.s.data) + g.module[m].s_column, g.s.stride};
  }
  __device__ __forceinline__ ConstMatrix Q(int part) const {
    const int m = ModuleOf(part);
    return IsLowRank(part) ? segment.factors[m] : g.module[m].w;
  }
};

// --- Tiles in shared memory ----------------------------------------------------------------------

// A tile holds 64 bytes of the depth: 32 elements of 2 bytes, or 16 floats.
constexpr int kDepthBytes = 64;

// kBlocks: of a multiprocessor, which bounds the registers.
template <typename T_, int kBm_, int kBn_, int kWarpsM_, int kWarpsN_, int kStages_, int kBlocks_>
struct GemmTile {
  using T = T_;
  static constexpr int kBm = kBm_, kBn = kBn_, kStages = kStages_, kBlocks = kBlocks_;
  static constexpr int kBk = kDepthBytes / sizeof(T);
  static constexpr int kWarpsM = kWarpsM_, kWarpsN = kWarpsN_;
  static constexpr int kThreads = kWarpsM * kWarpsN * 32;
  static constexpr int kWm = kBm / kWarpsM, kWn = kBn / kWarpsN;
  static constexpr int kPBytes = kBm * kDepthBytes;
  static constexpr int kStageBytes = (kBm + kBn) * kDepthBytes;
  // Of a row of the result, in bytes; the 16 spread rows over the banks. Floats leave registers
  // directly.
  static constexpr int kOutPitch = kBn * 2 + 16;
  static constexpr int kOutBytes = sizeof(T) == 2 ? kBm * kOutPitch : 0;
  static constexpr int kSharedBytes =
      kStages * kStageBytes > kOutBytes ? kStages* kStageBytes : kOutBytes;
};

// One thread's part of the copies of an operand with the depth contiguous: every kStep-th row of
// the tile, kDepthBytes further with each Run. Rows beyond the last repeat it: they feed results
// that nobody stores. Elements beyond the depth are zero.
template <typename T, int kRows, int kThreads, int kVec>
struct RowCopy {
  static constexpr int kElements = kVec / sizeof(T);
  static constexpr int kPerRow = kDepthBytes / kVec;
  static constexpr int kStep = kThreads / kPerRow;
  static constexpr int kCopies = kRows / kStep;
  static_assert(kThreads % kPerRow == 0 && kRows % kStep == 0, "");
  // Only 16-byte copies keep their rows' offsets, in elements: the host takes them for strides
  // below 2^24, so that a tile spans less than 2^32.
  static constexpr bool kWide = kVec == 16;

  const T* from;  // the tile's first row
  uint32_t row_at[kWide ? kCopies : 1];
  int left;  // of the depth, from this thread's element on
  int last;  // row
  int64_t stride;

  // `rows` counts from `first_row` on and is at least 1.
  __device__ __forceinline__ void Start(ConstMatrix matrix, int64_t first_row, int rows,
                                        int depth) {
    const int row = threadIdx.x / kPerRow, column = threadIdx.x % kPerRow * kElements;
    from = static_cast<const T*>(matrix.data) + first_row * matrix.stride;
    left = depth - column;
    last = rows - 1;
    stride = matrix.stride;
    if constexpr (kWide) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        row_at[i] = static_cast<uint32_t>(min(row + i * kStep, last) * stride) + column;
      }
    }
  }

  __device__ __forceinline__ void Run(uint32_t tile) {
    const int row = threadIdx.x / kPerRow, column = threadIdx.x % kPerRow * kElements;
    const int valid = min(max(left, 0), kElements) * static_cast<int>(sizeof(T));
    const int byte = column * static_cast<int>(sizeof(T));
    if constexpr (kWide) {
      static_assert(kStep % 8 == 0, "the swizzle repeats");
      const uint32_t to = tile + ChunkOffset<kDepthBytes>(row, byte / 16);
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        Copy<kVec>(to + i * kStep * kDepthBytes, from + row_at[i], valid);
      }
    } else {
#pragma unroll 4
      for (int i = 0; i < kCopies; ++i) {
        const int at = row + i * kStep;
        Copy<kVec>(tile + ChunkOffset<kDepthBytes>(at, byte / 16) + byte % 16,
                   from + min(at, last) * stride + column, valid);
      }
    }
    from += kDepthBytes / sizeof(T);
    left -= kDepthBytes / sizeof(T);
  }
};

// The same for an operand with the columns contiguous. Beyond the depth and beyond the columns it
// is zero.
template <typename T, int kColumns, int kThreads, int kVec>
struct ColumnCopy {
  static constexpr int kElements = kVec / sizeof(T);
  static constexpr int kDepth = kDepthBytes / sizeof(T);
  static constexpr int kRowBytes = kColumns * sizeof(T);
  static constexpr int kPerRow = kColumns / kElements;
  static constexpr int kStep = kThreads / kPerRow;
  static constexpr int kCopies = kDepth / kStep;
  static_assert(kThreads % kPerRow == 0 && kDepth % kStep == 0, "");

  const T* from;
  int left;   // of the depth, from this thread's row on
  int valid;  // bytes
  int64_t stride;

  // `columns` counts from `first_column` on.
  __device__ __forceinline__ void Start(ConstMatrix matrix, int first_column, int columns,
                                        int depth) {
    const int row = threadIdx.x / kPerRow, column = threadIdx.x % kPerRow * kElements;
    from = static_cast<const T*>(matrix.data) + row * matrix.stride + first_column + column;
    left = depth - row;
    valid = min(max(columns - column, 0), kElements) * static_cast<int>(sizeof(T));
    stride = matrix.stride;
  }

  __device__ __forceinline__ void Run(uint32_t tile) {
    const int row = threadIdx.x / kPerRow;
    const int byte = threadIdx.x % kPerRow * kVec;
#pragma unroll(kVec == 16 ? kCopies : 4)
    for (int i = 0; i < kCopies; ++i) {
      const uint32_t at =  // the swizzle repeats after 8 rows
          kStep % 8 == 0 ? ChunkOffset<kRowBytes>(row, byte / 16) + i * kStep * kRowBytes
                         : ChunkOffset<kRowBytes>(row + i * kStep, byte / 16);
      Copy<kVec>(tile + at + byte % 16, from + i * kStep * stride, i * kStep < left ? valid : 0);
    }
    from += kDepth * stride;
    left -= kDepth;
  }
};

// --- Sums ----------------------------------------------------------------------------------------

// Where a block's result goes and which part of the tile exists.
template <typename T>
struct Output {
  T* data;  // the tile's first element
  int64_t stride;
  int rows, columns;
  const T* bias;  // of the tile's first column, or null
};

// Bits of a row of `kept` from the tile's first column on; a tile starts at a multiple of 32.
struct KeptTile {
  const uint32_t* words;  // of the tile's first row
  int64_t stride;
  int rows, columns;
  __device__ __forceinline__ uint32_t Word(int row, int column) const {
    return row < rows && column < columns ? words[row * stride + column / 32] : 0;
  }
};

// Rows of 2-byte elements from shared memory to the result, by kThreads threads.
template <int kRows, int kColumns, int kThreads, int kPitch, typename T>
__device__ __forceinline__ void StoreRows(uint32_t shared, int thread, const Output<T>& out) {
  constexpr int kPerRow = kColumns / 8;
  const bool wide = out.stride % 8 == 0 && reinterpret_cast<uintptr_t>(out.data) % 16 == 0;
  for (int i = thread; i < kRows * kPerRow; i += kThreads) {
    const int row = i / kPerRow, column = i % kPerRow * 8;
    if (row >= out.rows || column >= out.columns) continue;
    const auto v = ptx::LoadShared<uint4>(shared + row * kPitch + column * 2);
    T* to = out.data + row * out.stride + column;
    if (wide && column + 8 <= out.columns) {
      ptx::StoreGlobal(to, v);
    } else {
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (column + e < out.columns) {
          reinterpret_cast<uint16_t*>(to)[e] = static_cast<uint16_t>(words[e / 2] >> e % 2 * 16);
        }
      }
    }
  }
}

// A warp's share of the tile's sums in mma.sync's layout.
template <typename Tile, bool kColumns>
struct TensorSum {
  using T = typename Tile::T;
  static constexpr int kMi = Tile::kWm / 16, kNi = Tile::kWn / 8;
  static_assert(Tile::kWn % 32 == 0 && Tile::kWn <= 64, "an xor steps through a warp's chunks");

  float sum[kMi][kNi][4];
  int warp_m, warp_n;
  uint32_t p_at, q_at;

  __device__ __forceinline__ void Start() {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    warp_m = warp % Tile::kWarpsM * Tile::kWm, warp_n = warp / Tile::kWarpsM * Tile::kWn;
    // 16 rows on, the swizzle repeats; 2 chunks on, one bit of the address flips.
    p_at = ChunkOffset<kDepthBytes>(warp_m + lane % 16, lane / 16);
    q_at = kColumns ? ChunkOffset<Tile::kBn * 2>(lane % 16, warp_n / 8 + lane / 16)
                    : ChunkOffset<kDepthBytes>(warp_n + lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll
    for (int i = 0; i < kMi; ++i) {
#pragma unroll
      for (int j = 0; j < kNi; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j][e] = 0;
      }
    }
  }

  __device__ __forceinline__ void Add(uint32_t p, uint32_t q) {
#pragma unroll
    for (int step = 0; step < Tile::kBk / 16; ++step) {
      uint32_t fp[kMi][4], fq[kNi / 2][4];
#pragma unroll
      for (int i = 0; i < kMi; ++i) ptx::LdmatrixX4(fp[i], p + (p_at ^ step * 32) + i * 1024);
#pragma unroll
      for (int j = 0; j < kNi / 2; ++j) {
        if constexpr (kColumns) {
          ptx::LdmatrixX4Trans(fq[j], q + (q_at ^ j * 32) + step * 16 * Tile::kBn * 2);
        } else {
          ptx::LdmatrixX4(fq[j], q + (q_at ^ step * 32) + j * 1024);
        }
      }
#pragma unroll
      for (int i = 0; i < kMi; ++i) {
#pragma unroll
        for (int j = 0; j < kNi; ++j) {
          ptx::Mma<T>(sum[i][j], fp[i], fq[j / 2][j % 2 * 2], fq[j / 2][j % 2 * 2 + 1]);
        }
      }
    }
  }

  __device__ __forceinline__ void Mask(const KeptTile& kept) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kMi; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int j = 0; j < kNi; j += 4) {
          const uint32_t bits =
              kept.Word(warp_m + i * 16 + half * 8 + lane / 4, warp_n + j * 8) >> lane % 4 * 2;
#pragma unroll
          for (int e = 0; e < 8; ++e) {
            float& value = sum[i][j + e / 2][half * 2 + e % 2];
            value = bits >> (e / 2 * 8 + e % 2) & 1 ? value : 0;
          }
        }
      }
    }
  }

  // Through shared memory, so that rows leave 16 bytes at a time. All threads are done with the
  // tiles.
  __device__ __forceinline__ void Store(uint32_t shared, const Output<T>& out) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < kNi; ++j) {
      const int column = warp_n + j * 8 + lane % 4 * 2;
      float bias[2] = {0, 0};
      if (out.bias != nullptr) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          if (column + e < out.columns) bias[e] = static_cast<float>(out.bias[column + e]);
        }
      }
#pragma unroll
      for (int i = 0; i < kMi; ++i) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = warp_m + i * 16 + half * 8 + lane / 4;
          ptx::StoreShared<uint32_t>(
              shared + row * Tile::kOutPitch + column * 2,
              ptx::Pack<T>(sum[i][j][half * 2] + bias[0], sum[i][j][half * 2 + 1] + bias[1]));
        }
      }
    }
    __syncthreads();
    StoreRows<Tile::kBm, Tile::kBn, Tile::kThreads, Tile::kOutPitch>(shared, threadIdx.x, out);
  }
};

// A thread's 8x8 sums of floats, added one product after the other.
template <typename Tile, bool kColumns>
struct FloatSum {
  static constexpr int kAcross = Tile::kBn / 8, kDown = Tile::kBm / 8;
  static_assert(kAcross * kDown == Tile::kThreads && kAcross % 8 == 0, "");

  float sum[8][8];
  int tx, ty;

  __device__ __forceinline__ int Row(int i) const { return ty + i * kDown; }
  __device__ __forceinline__ int Column(int j) const {
    return kColumns ? tx * 4 + j / 4 * (Tile::kBn / 2) + j % 4 : tx + j * kAcross;
  }

  __device__ __forceinline__ void Start() {
    tx = threadIdx.x % kAcross, ty = threadIdx.x / kAcross;
#pragma unroll
    for (int i = 0; i < 64; ++i) sum[i / 8][i % 8] = 0;
  }

  __device__ __forceinline__ void Add(uint32_t p, uint32_t q) {
#pragma unroll 1  // more of it at a time spills
    for (int chunk = 0; chunk < Tile::kBk / 4; ++chunk) {
      float b[4][8];  // [depth][column]
      if constexpr (kColumns) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const auto v = ptx::LoadShared<float4>(
                q + ChunkOffset<Tile::kBn * 4>(chunk * 4 + e, tx + half * (Tile::kBn / 8)));
            b[e][half * 4] = v.x, b[e][half * 4 + 1] = v.y;
            b[e][half * 4 + 2] = v.z, b[e][half * 4 + 3] = v.w;
          }
        }
      } else {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const auto v = ptx::LoadShared<float4>(q + ChunkOffset<kDepthBytes>(Column(j), chunk));
          b[0][j] = v.x, b[1][j] = v.y, b[2][j] = v.z, b[3][j] = v.w;
        }
      }
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const auto v = ptx::LoadShared<float4>(p + ChunkOffset<kDepthBytes>(Row(i), chunk));
        const float a[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int e = 0; e < 4; ++e) {
#pragma unroll
          for (int j = 0; j < 8; ++j) sum[i][j] = __fmaf_rn(a[e], b[e][j], sum[i][j]);
        }
      }
    }
  }

  __device__ __forceinline__ void Mask(const KeptTile& kept) {
    static_assert(kColumns, "4 columns of a thread lie in one word");
#pragma unroll
    for (int i = 0; i < 8; ++i) {
#pragma unroll
      for (int j = 0; j < 8; j += 4) {
        const uint32_t bits = kept.Word(Row(i), Column(j)) >> Column(j) % 32;
#pragma unroll
        for (int e = 0; e < 4; ++e) sum[i][j + e] = bits >> e & 1 ? sum[i][j + e] : 0;
      }
    }
  }

  __device__ __forceinline__ void Store(uint32_t, const Output<float>& out) {
    const bool wide = out.stride % 4 == 0 && reinterpret_cast<uintptr_t>(out.data) % 16 == 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (Row(i) >= out.rows) continue;
      float* to = out.data + Row(i) * out.stride;
#pragma unroll
      for (int j = 0; j < 8; j += 4) {
        if (kColumns && wide && Column(j) + 4 <= out.columns) {
          ptx::StoreGlobal(to + Column(j),
                           make_float4(sum[i][j], sum[i][j + 1], sum[i][j + 2], sum[i][j + 3]));
          continue;
        }
#pragma unroll
        for (int e = j; e < j + 4; ++e) {
          if (Column(e) >= out.columns) continue;
          to[Column(e)] = out.bias != nullptr ? sum[i][e] + out.bias[Column(e)] : sum[i][e];
        }
      }
    }
  }
};

template <bool kFloat>
struct SumOf {
  template <typename Tile, bool kColumns>
  using Type = TensorSum<Tile, kColumns>;
};
template <>
struct SumOf<true> {
  template <typename Tile, bool kColumns>
  using Type = FloatSum<Tile, kColumns>;
};

// --- The kernel ----------------------------------------------------------------------------------

template <typename T, bool kGradient>
__device__ __forceinline__ Output<T> OutputOf(const GemmArguments& g, int module, int64_t row,
                                              int rows, int column) {
  const Matrix y = kGradient ? g.dx : g.module[module].y;
  const auto* bias = kGradient ? nullptr : static_cast<const T*>(g.module[module].bias);
  return {static_cast<T*>(y.data) + row * y.stride + column, y.stride, rows,
          (kGradient ? g.k : g.module[module].n) - column,
          bias != nullptr ? bias + column : nullptr};
}

// kVec: bytes of a copy, 16 or those of an element.
template <typename Tile, bool kGradient, int kVec>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    GemmKernel(const __grid_constant__ GemmArguments g) {
  using T = typename Tile::T;
  constexpr int kStages = Tile::kStages;
  const uint32_t shared = ptx::SharedBase();
  const BlockTile block = BlockTileOf<Tile, kGradient>(g);
  const GemmSegment& segment = block.segment;
  const int64_t row = block.row;
  const int rows = block.rows, module = block.module, column = block.column,
            columns = block.columns;
  const Parts<T, kGradient> parts{g, segment, module};
  int tiles = 0, masked_tiles = 0;
  for (int part = 0; part < parts.Count(); ++part) {
    tiles += Tiles(parts.Depth(part), Tile::kBk);
    if (parts.IsLowRank(part)) masked_tiles = tiles;
  }

  RowCopy<T, Tile::kBm, Tile::kThreads, kVec> copy_p;
  std::conditional_t<kGradient, ColumnCopy<T, Tile::kBn, Tile::kThreads, kVec>,
                     RowCopy<T, Tile::kBn, Tile::kThreads, kVec>>
      copy_q;
  int part = -1, left = 0;  // tiles of the part that are not loaded yet
  const auto load = [&](int t) {
    if (left == 0) {
      int depth;
      do {
        ++part;
        depth = parts.Depth(part);
      } while (depth == 0);
      left = Tiles(depth, Tile::kBk);
      copy_p.Start(parts.P(part), row, rows, depth);
      copy_q.Start(parts.Q(part), column, columns, depth);
    }
    --left;
    const uint32_t stage = shared + t % kStages * Tile::kStageBytes;
    copy_p.Run(stage);
    copy_q.Run(stage + Tile::kPBytes);
  };

  typename SumOf<sizeof(T) == 4>::template Type<Tile, kGradient> sum;
  sum.Start();
  for (int t = 0; t < kStages - 1; ++t) {
    if (t < tiles) load(t);
    ptx::CpAsyncCommit();
  }
  for (int t = 0; t < tiles; ++t) {
    ptx::CpAsyncWait<kStages - 2>();
    __syncthreads();  // tile t is there for all; nobody reads tile t - 1 any more
    if (t + kStages - 1 < tiles) load(t + kStages - 1);
    ptx::CpAsyncCommit();
    const uint32_t stage = shared + t % kStages * Tile::kStageBytes;
    sum.Add(stage, stage + Tile::kPBytes);
    if constexpr (kGradient) {
      if (t + 1 == masked_tiles && g.kept != nullptr) {
        const int64_t words = Tiles(g.k, 32);
        sum.Mask({g.kept + row * words + column / 32, words, rows, columns});
      }
    }
  }
  ptx::CpAsyncWait<0>();
  __syncthreads();  // the epilogue writes over the tiles
  sum.Store(shared, OutputOf<T, kGradient>(g, module, row, rows, column));
}

}  // namespace fedumm::kernels
