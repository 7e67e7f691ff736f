// dS = scale * dY B / (1 - dropout) and dB = dYᵀ S from one reading of dY for ranks up to 64; a
// larger rank takes one reading for each 64 of it. No atomics: a block owns up to Shape::kBlockRows
// rows of one segment and a fixed part of n, and what it cannot finish alone goes to the workspace
// and is added up by PartialSumKernel in a fixed order. How rows and n are cut depends only on the
// segment and its module, so that a segment's gradients have the same bits in every batch.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/partial_sum.h"
#include "kernels/segments.cuh"
#include "kernels/workspace.h"

namespace fedumm::kernels {
// Not anonymous: a kernel's mangled name must be the same in every compilation of this file.
namespace grad_sb {

constexpr int kThreads = 256;
constexpr int kRows = 128;         // of a tile of dY, whose rows have 128 bytes
constexpr int64_t kMinPart = 512;  // columns of a block; fewer make the partial dS too large
constexpr int64_t kMaxParts = 16;
constexpr int64_t kMaxPassRank = 64;  // accumulators of a larger one do not fit into registers

// One pass: up to 64 ranks of one module's adapter in one segment.
struct GradSBItem {
  const void* dy = nullptr;  // from the segment's first row
  const void* b = nullptr;   // from the pass's first rank
  const void* s = nullptr;
  void* ds = nullptr;
  float* db = nullptr;          // null where it is not asked for
  float* ds_partial = nullptr;  // [parts, rows, pitch], or null: the block finishes dS
  float* db_partial = nullptr;  // [row_blocks, n, pitch], or null: the block finishes dB
  int64_t dy_stride = 0;
  int64_t b_stride = 0;
  int32_t db_stride = 0;
  int32_t rows = 0;
  int32_t n = 0;
  int32_t rank = 0;
  int32_t pitch = 0;  // the rank rounded up to 8
  int32_t part_columns = 0;
  int32_t parts = 0;
  int32_t row_blocks = 0;
  float factor = 0;
  bool b_aligned = false;
  bool s_aligned = false;
};

struct GradSBArguments {
  int64_t s_stride = 0;
  int64_t ds_stride = 0;
  bool add = false;
  Table<GradSBItem, 128> table;
};
static_assert(sizeof(GradSBArguments) <= 32764, "the limit of kernel parameters");

template <typename T, int kRank>
struct Shape {
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int kColumns = 128 / static_cast<int>(sizeof(T));
  static constexpr int kTiles = kHalf ? 2 : 1;  // row tiles of a block
  static constexpr int kBlockRows = kTiles * kRows;
  static constexpr int kStages = kRank == 64 ? 2 : 3;  // 3 would exceed the 99 KB of sm_86, sm_120
  static constexpr int kDyBytes = kRows * 128;
  static constexpr int kRankBytes = kRank * static_cast<int>(sizeof(T));
  static constexpr int kBBytes = kColumns * kRankBytes;
  static constexpr int kSharedBytes = kStages * (kDyBytes + kBBytes) + kBlockRows * kRankBytes;
};

// Offset in the tiles of B and S, whose rows have kRank elements.
template <typename T, int kRank>
__device__ __forceinline__ uint32_t RankOffset(int row, int byte) {
  constexpr int kPitch = kRank * static_cast<int>(sizeof(T));
  if constexpr (sizeof(T) == 4) {
    return static_cast<uint32_t>(row * kPitch + byte);
  } else {
    return ChunkOffset<kPitch>(row, byte / 16) + byte % 16;
  }
}

template <typename T, int kRank, int kTileRows>
__device__ __forceinline__ void CopyRanks(uint32_t tile, const void* from, int64_t stride, int rows,
                                          int rank, bool aligned) {
  const auto to = [&](int row, int byte) { return tile + RankOffset<T, kRank>(row, byte); };
  const T* data = static_cast<const T*>(from);
  if (aligned) {
    CopyTile<T, kTileRows, kRank, kThreads, true>(data, stride, rows, rank, to);
  } else {
    CopyTile<T, kTileRows, kRank, kThreads, false>(data, stride, rows, rank, to);
  }
}

// The sums of a thread. 2-byte types: a warp makes 16 rows of dS, and of dB 16 columns and half of
// the ranks, with m16n8k16; float: rows and ranks are dealt out for plain multiply-adds.
template <typename T, int kRank>
struct Sums {
  static constexpr int kDbSums = Shape<T, kRank>::kColumns * kRank / kThreads;
  float ds[Shape<T, kRank>::kTiles][kRank / 8][4];
  float db[kDbSums < 4 ? 1 : kDbSums / 4][kDbSums < 4 ? kDbSums : 4];
};

template <typename T, int kRank>
__device__ __forceinline__ void AddDs(float (&ds)[kRank / 8][4], uint32_t dy, uint32_t b) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      uint32_t left[4];
      ptx::LdmatrixX4(left, dy + ChunkOffset<128>(warp * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int j = 0; j < kRank / 16; ++j) {
        uint32_t right[4];
        ptx::LdmatrixX4Trans(
            right, b + RankOffset<T, kRank>(step * 16 + lane % 16, (j * 2 + lane / 16) * 16));
        ptx::Mma<T>(ds[j * 2], left, right[0], right[1]);
        ptx::Mma<T>(ds[j * 2 + 1], left, right[2], right[3]);
      }
    }
  } else {
    constexpr int kGroups = kRank / 4;
    const int row = threadIdx.x / kGroups;
    const int group = threadIdx.x % kGroups;
#pragma unroll 2
    for (int chunk = 0; chunk < 8; ++chunk) {
      float4 left[kRank / 8];
#pragma unroll
      for (int i = 0; i < kRank / 8; ++i)
        left[i] =
            ptx::LoadShared<float4>(dy + ChunkOffset<128>(row + i * (kThreads / kGroups), chunk));
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const auto right =
            ptx::LoadShared<float4>(b + RankOffset<T, kRank>(chunk * 4 + e, group * 16));
#pragma unroll
        for (int i = 0; i < kRank / 8; ++i) {
          const float y = e == 0 ? left[i].x : e == 1 ? left[i].y : e == 2 ? left[i].z : left[i].w;
          ds[i][0] += y * right.x;
          ds[i][1] += y * right.y;
          ds[i][2] += y * right.z;
          ds[i][3] += y * right.w;
        }
      }
    }
  }
}

template <typename T, int kRank, int kOuter, int kInner>
__device__ __forceinline__ void AddDb(float (&db)[kOuter][kInner], uint32_t dy, uint32_t s,
                                      int first_row) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  if constexpr (sizeof(T) == 2) {
    const int half = warp / 4;  // of the ranks
    const auto load_left = [&](uint32_t(&left)[4], int step) {
      ptx::LdmatrixX4Trans(left, dy + ChunkOffset<128>(step * 16 + lane % 8 + lane / 16 * 8,
                                                       warp % 4 * 2 + lane / 8 % 2));
    };
    if constexpr (kRank == 16) {
#pragma unroll
      for (int step = 0; step < kRows / 16; step += 2) {
        uint32_t left[4];
        uint32_t right[4];  // 32 rows of 8 ranks
        ptx::LdmatrixX4Trans(right,
                             s + RankOffset<T, kRank>(first_row + step * 16 + lane, half * 16));
        load_left(left, step);
        ptx::Mma<T>(db[0], left, right[0], right[1]);
        load_left(left, step + 1);
        ptx::Mma<T>(db[0], left, right[2], right[3]);
      }
    } else {
#pragma unroll
      for (int step = 0; step < kRows / 16; ++step) {
        uint32_t left[4];
        load_left(left, step);
#pragma unroll
        for (int j = 0; j < kRank / 32; ++j) {
          uint32_t right[4];
          ptx::LdmatrixX4Trans(right,
                               s + RankOffset<T, kRank>(first_row + step * 16 + lane % 16,
                                                        half * kRank + (j * 2 + lane / 16) * 16));
          ptx::Mma<T>(db[j * 2], left, right[0], right[1]);
          ptx::Mma<T>(db[j * 2 + 1], left, right[2], right[3]);
        }
      }
    }
  } else {
    using Vector = std::conditional_t<kInner == 2, float2, float4>;
#pragma unroll 4
    for (int row = 0; row < kRows; ++row) {
      const auto y = ptx::LoadShared<float>(dy + ChunkOffset<128>(row, lane / 4) + lane % 4 * 4);
#pragma unroll
      for (int i = 0; i < kOuter; ++i) {
        const auto right = ptx::LoadShared<Vector>(
            s + RankOffset<T, kRank>(first_row + row, warp * kRank / 2 + i * 16));
        db[i][0] += y * right.x;
        db[i][1] += y * right.y;
        if constexpr (kInner == 4) {
          db[i][2] += y * right.z;
          db[i][3] += y * right.w;
        }
      }
    }
  }
}

// Calls store(row, rank, v0, v1) for the thread's pairs of neighbouring ranks in a tile of dS.
template <typename T, int kRank, typename Store>
__device__ __forceinline__ void ForDs(const float (&ds)[kRank / 8][4], Store store) {
#pragma unroll
  for (int i = 0; i < kRank / 8; ++i) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      if constexpr (sizeof(T) == 2) {
        store(threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + pair * 8, i * 8 + threadIdx.x % 4 * 2,
              ds[i][pair * 2], ds[i][pair * 2 + 1]);
      } else {
        constexpr int kGroups = kRank / 4;
        store(threadIdx.x / kGroups + i * (kThreads / kGroups),
              threadIdx.x % kGroups * 4 + pair * 2, ds[i][pair * 2], ds[i][pair * 2 + 1]);
      }
    }
  }
}

// The same for (column, rank) of a tile of dB.
template <typename T, int kRank, int kOuter, int kInner, typename Store>
__device__ __forceinline__ void ForDb(const float (&db)[kOuter][kInner], Store store) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kOuter; ++i) {
#pragma unroll
    for (int pair = 0; pair < kInner / 2; ++pair) {
      if constexpr (sizeof(T) == 2) {
        store(warp % 4 * 16 + lane / 4 + pair * 8, warp / 4 * kRank / 2 + i * 8 + lane % 4 * 2,
              db[i][pair * 2], db[i][pair * 2 + 1]);
      } else {
        store(lane, warp * kRank / 8 + i * 4 + pair * 2, db[i][pair * 2], db[i][pair * 2 + 1]);
      }
    }
  }
}

template <typename T, int kRank, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    GradSBKernel(const __grid_constant__ GradSBArguments arguments) {
  using S = Shape<T, kRank>;
  constexpr int kStages = S::kStages;
  const int which = arguments.table.Find(blockIdx.x);
  const GradSBItem& item = arguments.table.items[which];
  const int local = static_cast<int>(blockIdx.x - arguments.table.first[which]);
  const int part = local % item.parts;
  const int row_block = local / item.parts;
  const int row0 = row_block * S::kBlockRows;
  const int column0 = part * item.part_columns;
  const int n = item.n;
  const int rank = item.rank;
  const int rows = min(item.rows - row0, S::kBlockRows);
  const int columns = min(n - column0, item.part_columns);
  const int row_tiles = (rows + kRows - 1) / kRows;
  const int column_tiles = (columns + S::kColumns - 1) / S::kColumns;
  const int steps = row_tiles * column_tiles;  // column by column, the row tiles of each

  const uint32_t b_tiles = ptx::SharedBase() + kStages * S::kDyBytes;
  const uint32_t s_tile = b_tiles + kStages * S::kBBytes;
  const T* dy = static_cast<const T*>(item.dy) + row0 * item.dy_stride + column0;
  const T* b = static_cast<const T*>(item.b) + column0 * item.b_stride;
  const int64_t dy_stride = item.dy_stride;
  const bool want_db = item.db != nullptr;

  // Tile t of B lies in slot t % kStages and is loaded with the first row tile of dY: its slot's
  // previous tile was last read kStages - 1 steps before or earlier, as that of dY.
  const auto load = [&](int step) {
    const int column_tile = step / row_tiles;
    const int row_tile = step - column_tile * row_tiles;
    const int column = column_tile * S::kColumns;
    const uint32_t to = ptx::SharedBase() + step % kStages * S::kDyBytes;
    CopyTile<T, kRows, S::kColumns, kThreads, kAligned>(
        dy + row_tile * kRows * dy_stride + column, dy_stride, rows - row_tile * kRows,
        columns - column,
        [&](int row, int byte) { return to + ChunkOffset<128>(row, byte / 16) + byte % 16; });
    if (row_tile == 0) {
      CopyRanks<T, kRank, S::kColumns>(b_tiles + column_tile % kStages * S::kBBytes,
                                       b + column * item.b_stride, item.b_stride, columns - column,
                                       rank, item.b_aligned);
    }
  };
  if (want_db && steps > 0) {
    CopyRanks<T, kRank, S::kBlockRows>(s_tile,
                                       static_cast<const T*>(item.s) + row0 * arguments.s_stride,
                                       arguments.s_stride, rows, rank, item.s_aligned);
  }
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(step);
    ptx::CpAsyncCommit();
  }

  Sums<T, kRank> sums = {};
  int step = 0;
  for (int column_tile = 0; column_tile < column_tiles; ++column_tile) {
    const uint32_t b_tile = b_tiles + column_tile % kStages * S::kBBytes;
#pragma unroll
    for (auto& outer : sums.db) {
#pragma unroll
      for (float& value : outer) value = 0;
    }
#pragma unroll
    for (int i = 0; i < S::kTiles; ++i) {
      if (i < row_tiles) {
        ptx::CpAsyncWait<kStages - 2>();
        __syncthreads();
        if (step + kStages - 1 < steps) load(step + kStages - 1);
        ptx::CpAsyncCommit();
        const uint32_t dy_tile = ptx::SharedBase() + step % kStages * S::kDyBytes;
        AddDs<T, kRank>(sums.ds[i], dy_tile, b_tile);
        if (want_db) AddDb<T, kRank>(sums.db, dy_tile, s_tile, i * kRows);
        ++step;
      }
    }
    if (!want_db) continue;
    const int column1 = column0 + column_tile * S::kColumns;
    if (item.db_partial != nullptr) {
      float* to = item.db_partial + (int64_t{row_block} * n + column1) * item.pitch;
      ForDb<T, kRank>(sums.db, [&](int column, int j, float v0, float v1) {
        if (column1 + column < column0 + columns && j < item.pitch)
          *reinterpret_cast<float2*>(to + int64_t{column} * item.pitch + j) = {v0, v1};
      });
    } else {
      ForDb<T, kRank>(sums.db, [&](int column, int j, float v0, float v1) {
        if (column1 + column >= column0 + columns) return;
        StorePair(item.db + int64_t{column1 + column} * item.db_stride + j, {v0, v1}, rank - j,
                  arguments.add);
      });
    }
  }

#pragma unroll
  for (int i = 0; i < S::kTiles; ++i) {
    ForDs<T, kRank>(sums.ds[i], [&](int tile_row, int j, float v0, float v1) {
      const int row = i * kRows + tile_row;
      if (row >= rows) return;
      if (item.ds_partial != nullptr) {
        float* to = item.ds_partial + (int64_t{part} * item.rows + row0 + row) * item.pitch + j;
        if (j < item.pitch) *reinterpret_cast<float2*>(to) = {v0, v1};
      } else {
        T* to = static_cast<T*>(item.ds) + (row0 + row) * arguments.ds_stride + j;
        if (j < rank) StoreRounded(to, item.factor * v0);
        if (j + 1 < rank) StoreRounded(to + 1, item.factor * v1);
      }
    });
  }
}

// --- Host

constexpr const char* kName = "LoraGradSBCuda";

int PassClass(int64_t rank) { return rank <= 16 ? 16 : rank <= 32 ? 32 : 64; }

// The passes of a call with their places in the workspace; pointers to operands are still null.
struct Pass {
  int64_t segment = 0;
  int64_t module = 0;
  int64_t first_row = 0;
  int64_t first_rank = 0;
  int64_t ds_floats = -1;  // offsets in the workspace, or -1
  int64_t db_floats = -1;
  GradSBItem item;
};
struct Plan {
  std::vector<Pass> passes;
  int64_t floats = 0;
};

Plan PlanPasses(const LoraProblem& problem) {
  constexpr int64_t kAlign = 64;  // floats: 256 bytes
  const int64_t block_rows = problem.dtype == DType::kFloat32 ? kRows : 2 * kRows;
  Plan plan;
  int64_t first_row = 0;
  for (size_t i = 0; i < problem.segments.size(); ++i) {
    const LoraSegment& segment = problem.segments[i];
    for (size_t g = 0; g < problem.modules.size(); ++g) {
      const LoraFactors& factors = segment.factors[g];
      const int64_t n = problem.modules[g].n;
      for (int64_t first = 0; first < factors.rank; first += kMaxPassRank) {
        Pass pass = {static_cast<int64_t>(i), static_cast<int64_t>(g), first_row, first};
        GradSBItem& item = pass.item;
        item.rows = static_cast<int32_t>(segment.rows);
        item.n = static_cast<int32_t>(n);
        item.rank = static_cast<int32_t>(std::min(factors.rank - first, kMaxPassRank));
        item.pitch = static_cast<int32_t>(RoundUp(item.rank, 8));
        item.part_columns =
            static_cast<int32_t>(std::max(kMinPart, RoundUp(CeilDiv(n, kMaxParts), 64)));
        item.parts = static_cast<int32_t>(std::max<int64_t>(1, CeilDiv(n, item.part_columns)));
        item.row_blocks =
            static_cast<int32_t>(std::max<int64_t>(1, CeilDiv(segment.rows, block_rows)));
        item.factor = static_cast<float>(factors.scale / (1 - problem.dropout));
        if (item.parts > 1 && segment.rows > 0) {
          pass.ds_floats = plan.floats;
          plan.floats += RoundUp(item.parts * segment.rows * item.pitch, kAlign);
        }
        if (item.row_blocks > 1 && n > 0) {
          pass.db_floats = plan.floats;
          plan.floats += RoundUp(item.row_blocks * n * item.pitch, kAlign);
        }
        plan.passes.push_back(pass);
      }
    }
    first_row += segment.rows;
  }
  return plan;
}

template <typename T, int kRank, bool kAligned>
absl::Status LaunchPasses(const std::vector<GradSBItem>& items, GradSBArguments& arguments,
                          CUstream_st* stream) {
  const auto blocks = [](const GradSBItem& item) { return int64_t{item.parts} * item.row_blocks; };
  return ForTables<decltype(arguments.table)>(items, blocks, [&](const auto& table) {
    arguments.table = table;
    return CudaStatus(Launch(GradSBKernel<T, kRank, kAligned>, dim3(table.blocks), kThreads,
                             Shape<T, kRank>::kSharedBytes, stream, arguments),
                      kName);
  });
}

template <typename T, bool kAligned>
absl::Status LaunchOfRank(int rank, const std::vector<GradSBItem>& items,
                          GradSBArguments& arguments, CUstream_st* stream) {
  if (rank == 16) return LaunchPasses<T, 16, kAligned>(items, arguments, stream);
  if (rank == 32) return LaunchPasses<T, 32, kAligned>(items, arguments, stream);
  return LaunchPasses<T, 64, kAligned>(items, arguments, stream);
}

absl::Status Check(const LoraProblem& problem, absl::Span<const ConstMatrix> dy, ConstMatrix s,
                   ConstMatrix ds, absl::Span<float* const> db, const Plan& plan,
                   const void* workspace) {
  const size_t modules = problem.modules.size();
  if (dy.size() != modules || db.size() != modules * problem.segments.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": ", dy.size(), " matrices dY and ", db.size(), " gradients for ",
                     modules, " modules and ", problem.segments.size(), " segments"));
  }
  const int64_t rows = LoraRows(problem);
  const int64_t columns = LoraSColumns(problem);
  if (absl::Status status = CheckMatrix("S", s, rows, columns, problem.dtype); !status.ok())
    return status;
  if (absl::Status status = CheckMatrix("dS", ds, rows, columns, problem.dtype); !status.ok())
    return status;
  for (size_t g = 0; g < modules; ++g) {
    if (LoraSColumn(problem, static_cast<int64_t>(g)) ==
        LoraSColumn(problem, static_cast<int64_t>(g) + 1))
      continue;  // no adapter on this module
    if (absl::Status status = CheckMatrix(absl::StrCat("dY of module ", g), dy[g], rows,
                                          problem.modules[g].n, problem.dtype);
        !status.ok())
      return status;
  }
  for (size_t i = 0; i < db.size(); ++i) {
    if (reinterpret_cast<uintptr_t>(db[i]) % sizeof(float) != 0)
      return absl::InvalidArgumentError(absl::StrCat(kName, ": dB ", i, " is misaligned"));
  }
  return CheckWorkspace(kName, workspace, plan.floats);
}

const void* At(const void* data, int64_t elements, int64_t bytes) {
  return data == nullptr ? nullptr : static_cast<const char*>(data) + elements * bytes;
}

}  // namespace grad_sb

using namespace grad_sb;  // NOLINT(google-build-using-namespace)

int64_t GradSBWorkspaceBytes(const LoraProblem& problem) {
  return PlanPasses(problem).floats * static_cast<int64_t>(sizeof(float));
}

absl::Status LoraGradSBCuda(const LoraProblem& problem, absl::Span<const ConstMatrix> dy,
                            ConstMatrix s, Matrix ds, absl::Span<float* const> db, bool add,
                            void* workspace, CUstream_st* stream) {
  if (absl::Status status = CheckLoraProblem(problem); !status.ok()) return status;
  const Plan plan = PlanPasses(problem);
  if (absl::Status status = Check(problem, dy, s, ds, db, plan, workspace); !status.ok())
    return status;
  const int64_t bytes = BytesOf(problem.dtype);
  const int64_t modules = static_cast<int64_t>(problem.modules.size());
  std::map<std::pair<int, bool>, std::vector<GradSBItem>> launches;
  std::vector<PartialSum> sums;
  for (const Pass& pass : plan.passes) {
    const LoraFactors& factors = problem.segments[pass.segment].factors[pass.module];
    const ConstMatrix& from = dy[pass.module];
    const int64_t s_column = LoraSColumn(problem, pass.module) + pass.first_rank;
    float* const gradient = db[pass.segment * modules + pass.module];
    float* const floats = static_cast<float*>(workspace);
    GradSBItem item = pass.item;
    item.dy = At(from.data, pass.first_row * from.stride, bytes);
    item.dy_stride = from.stride;
    item.b = At(factors.b.data, pass.first_rank, bytes);
    item.b_stride = factors.b.stride;
    item.b_aligned = HasAlignedRows(item.b, item.b_stride, bytes);
    item.s = At(s.data, pass.first_row * s.stride + s_column, bytes);
    item.s_aligned = HasAlignedRows(item.s, s.stride, bytes);
    item.ds = const_cast<void*>(At(ds.data, pass.first_row * ds.stride + s_column, bytes));
    if (gradient != nullptr) item.db = gradient + pass.first_rank;
    item.db_stride = static_cast<int32_t>(factors.rank);
    if (pass.ds_floats >= 0) {
      item.ds_partial = floats + pass.ds_floats;
      sums.push_back({item.ds_partial, int64_t{item.rows} * item.pitch, item.parts, item.pitch,
                      item.rows, item.rank, item.factor, item.ds, ds.stride});
    }
    if (gradient != nullptr && pass.db_floats >= 0) {
      item.db_partial = floats + pass.db_floats;
      sums.push_back({item.db_partial, int64_t{item.n} * item.pitch, item.row_blocks, item.pitch,
                      item.n, item.rank, 1, item.db, factors.rank, true, add});
    }
    launches[{PassClass(item.rank), HasAlignedRows(item.dy, item.dy_stride, bytes)}].push_back(
        item);
  }
  GradSBArguments arguments;
  arguments.s_stride = s.stride;
  arguments.ds_stride = ds.stride;
  arguments.add = add;
  for (const auto& launch : launches) {
    const auto of_type = [&](auto element) {
      using T = decltype(element);
      const auto& [rank, aligned] = launch.first;
      return aligned ? LaunchOfRank<T, true>(rank, launch.second, arguments, stream)
                     : LaunchOfRank<T, false>(rank, launch.second, arguments, stream);
    };
    if (absl::Status status = WithElementType(problem.dtype, kName, of_type); !status.ok()) {
      return status;
    }
  }
  return SumPartials(problem.dtype, sums, kName, stream);
}

}  // namespace fedumm::kernels
