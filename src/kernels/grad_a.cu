// dA = dSᵀ dropout(x) for all modules of a group from one reading of x and of the kept bits, up to
// 128 ranks (64 of float) in all; a larger sum of ranks takes another reading. No atomics: a block
// owns two 128-byte wide columns of tiles and a chunk of a segment's rows, and the chunks of a long
// segment are added up by PartialSumKernel in a fixed order. How rows are cut depends only on the
// segment, so that its gradients have the same bits in every batch.
#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "kernels/partial_sum.h"
#include "kernels/segments.cuh"
#include "kernels/workspace.h"

namespace fedumm::kernels {
// Not anonymous: a kernel's mangled name must be the same in every compilation of this file.
namespace grad_a {

constexpr int kThreads = 256;
constexpr int kRows = 64;  // of a tile
constexpr int kStages = 3;
constexpr int kHalfBytes = kRows * 128;  // half a tile of x
constexpr int64_t kMinChunk = 256;       // rows of a block
constexpr int64_t kMaxChunks = 8;

// Eight columns of dS, of one module.
struct RankGroup {
  uint8_t module = 0;
  uint8_t valid = 0;        // how many of them belong to the segment's adapter
  uint16_t first_rank = 0;  // of the adapter
};
constexpr int kMaxGroups = 16;

// One pass: a segment and up to kMaxGroups groups of ranks.
struct GradAItem {
  const void* x = nullptr;  // from the segment's first row
  const void* ds = nullptr;
  const uint32_t* kept = nullptr;
  float* da[kMaxModules] = {};
  float* partial = nullptr;  // [chunks, 8 * groups, k_pitch], or null: the block finishes dA
  int32_t rows = 0;
  int32_t chunk_rows = 0;
  int32_t chunks = 0;
  int32_t groups = 0;
  RankGroup group[kMaxGroups];
};

struct GradAArguments {
  int64_t x_stride = 0;
  int64_t ds_stride = 0;
  int64_t kept_stride = 0;
  int32_t k = 0;
  int32_t k_pitch = 0;
  int32_t slabs = 0;
  int32_t s_column[kMaxModules] = {};
  bool add = false;
  bool ds_aligned = false;
  Table<GradAItem, 128> table;
};
static_assert(sizeof(GradAArguments) <= 32764, "the limit of kernel parameters");

template <typename T, int kRank>
struct Shape {
  static constexpr int kHalfColumns = 128 / static_cast<int>(sizeof(T));
  static constexpr int kColumns = 2 * kHalfColumns;
  static constexpr int kWords = kColumns / 32;  // of kept bits a row
  static constexpr int kXBytes = 2 * kHalfBytes;
  static constexpr int kDsPitch = kRank * static_cast<int>(sizeof(T));
  static constexpr int kDsBytes = kRows * kDsPitch;
  static constexpr int kKeptBytes = kRows * kWords * 4;
  static constexpr int kStageBytes = kXBytes + kDsBytes + kKeptBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes;
};

template <typename T, int kRank>
__device__ __forceinline__ uint32_t DsOffset(int row, int byte) {
  constexpr int kPitch = Shape<T, kRank>::kDsPitch;
  if constexpr (sizeof(T) == 4) {
    return static_cast<uint32_t>(row * kPitch + byte);
  } else {
    return ChunkOffset<kPitch>(row, byte / 16) + byte % 16;
  }
}

// Copies a tile of dS whose groups of ranks come from several modules; the columns between the rank
// of an adapter and the next group are not read.
template <typename T, int kRank, bool kVector>
__device__ __forceinline__ void CopyDs(uint32_t tile, const T* from,
                                       const GradAArguments& arguments, const GradAItem& item,
                                       int rows) {
  constexpr int kBytes = kVector ? 16 : static_cast<int>(sizeof(T));
  constexpr int kElements = kBytes / static_cast<int>(sizeof(T));
  constexpr int kPerRow = kRank / kElements;  // divides kThreads: a thread stays in its column
  constexpr int kRowStep = kThreads / kPerRow;
  const int column = static_cast<int>(threadIdx.x) % kPerRow * kElements;
  int valid = 0;
  int64_t source_column = 0;
  if (column / 8 < item.groups) {
    const RankGroup group = item.group[column / 8];
    valid = min(max(group.valid - column % 8, 0), kElements) * static_cast<int>(sizeof(T));
    source_column = arguments.s_column[group.module] + group.first_rank + column % 8;
  }
#pragma unroll 4
  for (int i = 0; i < (kRows + kRowStep - 1) / kRowStep; ++i) {
    const int row = i * kRowStep + static_cast<int>(threadIdx.x) / kPerRow;
    if (kRows % kRowStep != 0 && row >= kRows) break;
    const int bytes = row < rows ? valid : 0;
    const T* source = bytes > 0 ? from + row * arguments.ds_stride + source_column : from;
    const uint32_t to = tile + DsOffset<T, kRank>(row, column * static_cast<int>(sizeof(T)));
    Copy<kBytes>(to, source, bytes);
  }
}

// Adds the tile's product. 2-byte types: a warp makes 16 columns of dA with m16n8k16, the ranks
// being m; float: a lane makes a column of each half, a warp an eighth of the ranks.
template <typename T, int kRank>
__device__ __forceinline__ void AddTile(float (&sums)[kRank / 8][4], uint32_t x, uint32_t ds,
                                        uint32_t kept, bool dropout) {
  using S = Shape<T, kRank>;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int step = 0; step < kRows / 16; ++step) {
      uint32_t right[4];  // [row half][column half] of 16 rows and 16 columns
      ptx::LdmatrixX4Trans(right,
                           x + warp / 4 * kHalfBytes +
                               ChunkOffset<128>(step * 16 + lane % 16, warp % 4 * 2 + lane / 16));
      if (dropout) {
        const int shift = warp % 2 * 16 + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = step * 16 + half * 8 + lane % 4 * 2;
          const uint32_t word = kept + (row * S::kWords + warp / 2) * 4;
          const uint32_t low = ptx::LoadShared<uint32_t>(word) >> shift;
          const uint32_t high = ptx::LoadShared<uint32_t>(word + S::kWords * 4) >> shift;
          right[half] &= KeepMask(low, high);
          right[half + 2] &= KeepMask(low >> 8, high >> 8);
        }
      }
#pragma unroll
      for (int j = 0; j < kRank / 16; ++j) {
        uint32_t left[4];
        ptx::LdmatrixX4Trans(left, ds + DsOffset<T, kRank>(step * 16 + lane % 8 + lane / 16 * 8,
                                                           (j * 2 + lane / 8 % 2) * 16));
        ptx::Mma<T>(sums[j * 2], left, right[0], right[1]);
        ptx::Mma<T>(sums[j * 2 + 1], left, right[2], right[3]);
      }
    }
  } else {
    // sums as [rank][half]; kRank / 8 ranks of this warp.
    using Vector = std::conditional_t<kRank == 16, float2, float4>;
    constexpr int kWidth = sizeof(Vector) / 4;
    float(&flat)[kRank / 2] = reinterpret_cast<float(&)[kRank / 2]>(sums);
#pragma unroll 4
    for (int row = 0; row < kRows; ++row) {
      float values[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        values[half] = ptx::LoadShared<float>(x + half * kHalfBytes +
                                              ChunkOffset<128>(row, lane / 4) + lane % 4 * 4);
        if (dropout) {
          const uint32_t word = ptx::LoadShared<uint32_t>(kept + (row * S::kWords + half) * 4);
          if ((word >> lane & 1) == 0) values[half] = 0;
        }
      }
#pragma unroll
      for (int j = 0; j < kRank / 8 / kWidth; ++j) {
        const Vector left = ptx::LoadShared<Vector>(
            ds + DsOffset<T, kRank>(row, (warp * kRank / 8 + j * kWidth) * 4));
        const float* const ranks = &left.x;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          flat[(j * kWidth + e) * 2] += ranks[e] * values[0];
          flat[(j * kWidth + e) * 2 + 1] += ranks[e] * values[1];
        }
      }
    }
  }
}

// Calls store(rank, column, sums) for each pair of neighbouring columns (2-byte types) or each
// column (float) of the thread, `sums` being a float2 or a float.
template <typename T, int kRank, typename Store>
__device__ __forceinline__ void ForSums(const float (&sums)[kRank / 8][4], Store store) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
#pragma unroll
  for (int i = 0; i < kRank / 8; ++i) {
#pragma unroll
    for (int pair = 0; pair < 2; ++pair) {
      if constexpr (sizeof(T) == 2) {
        store(i / 2 * 16 + pair * 8 + lane / 4, warp * 16 + i % 2 * 8 + lane % 4 * 2,
              float2{sums[i][pair * 2], sums[i][pair * 2 + 1]});
      } else if (i < kRank / 16) {  // half of the array is in use
        const int rank = warp * kRank / 8 + i * 2 + pair;
        store(rank, lane, sums[i][pair * 2]);
        store(rank, lane + 32, sums[i][pair * 2 + 1]);
      }
    }
  }
}

template <typename T, int kRank, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    GradAKernel(const __grid_constant__ GradAArguments arguments) {
  using S = Shape<T, kRank>;
  const int which = arguments.table.Find(blockIdx.x);
  const GradAItem& item = arguments.table.items[which];
  const int local = static_cast<int>(blockIdx.x - arguments.table.first[which]);
  const int slab = local % arguments.slabs;
  const int chunk = local / arguments.slabs;
  const int row0 = chunk * item.chunk_rows;
  const int column0 = slab * S::kColumns;
  const int columns = arguments.k - column0;
  const int rows = min(item.rows - row0, item.chunk_rows);
  const int steps = (rows + kRows - 1) / kRows;
  const bool dropout = item.kept != nullptr;
  const int64_t x_stride = arguments.x_stride;
  const T* x = static_cast<const T*>(item.x) + row0 * x_stride + column0;
  const T* ds = static_cast<const T*>(item.ds) + row0 * arguments.ds_stride;
  const int words = min(static_cast<int>(arguments.kept_stride) - column0 / 32, S::kWords);

  const auto load = [&](int step) {
    const uint32_t to = ptx::SharedBase() + step % kStages * S::kStageBytes;
    const int first = step * kRows;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      CopyTile<T, kRows, S::kHalfColumns, kThreads, kAligned>(
          x + first * x_stride + half * S::kHalfColumns, x_stride, rows - first,
          columns - half * S::kHalfColumns, [&](int row, int byte) {
            return to + half * kHalfBytes + ChunkOffset<128>(row, byte / 16) + byte % 16;
          });
    }
    const uint32_t ds_tile = to + S::kXBytes;
    if (arguments.ds_aligned) {
      CopyDs<T, kRank, true>(ds_tile, ds + first * arguments.ds_stride, arguments, item,
                             rows - first);
    } else {
      CopyDs<T, kRank, false>(ds_tile, ds + first * arguments.ds_stride, arguments, item,
                              rows - first);
    }
    if (dropout && threadIdx.x < kRows * S::kWords) {
      const int row = static_cast<int>(threadIdx.x) / S::kWords;
      const int word = static_cast<int>(threadIdx.x) % S::kWords;
      const bool valid = row < rows - first && word < words;
      ptx::CpAsync<4>(
          ds_tile + S::kDsBytes + threadIdx.x * 4,
          valid ? item.kept + (row0 + first + row) * arguments.kept_stride + column0 / 32 + word
                : item.kept,
          valid ? 4 : 0);
    }
  };
#pragma unroll
  for (int step = 0; step < kStages - 1; ++step) {
    if (step < steps) load(step);
    ptx::CpAsyncCommit();
  }
  float sums[kRank / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    ptx::CpAsyncWait<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) load(step + kStages - 1);
    ptx::CpAsyncCommit();
    const uint32_t tile = ptx::SharedBase() + step % kStages * S::kStageBytes;
    AddTile<T, kRank>(sums, tile, tile + S::kXBytes, tile + S::kXBytes + S::kDsBytes, dropout);
  }

  if (item.partial != nullptr) {
    float* const partial = item.partial + int64_t{chunk} * item.groups * 8 * arguments.k_pitch;
    ForSums<T, kRank>(sums, [&](int rank, int column, auto value) {
      if (rank >= item.groups * 8 || column0 + column >= arguments.k_pitch) return;
      float* const to = partial + int64_t{rank} * arguments.k_pitch + column0 + column;
      if constexpr (std::is_same_v<decltype(value), float2>) {
        ptx::StoreGlobal(to, value);
      } else {
        *to = value;
      }
    });
  } else {
    ForSums<T, kRank>(sums, [&](int rank, int column, auto value) {
      if (rank >= item.groups * 8 || column >= columns) return;
      const RankGroup group = item.group[rank / 8];
      if (rank % 8 >= group.valid) return;
      float* const to = item.da[group.module] + int64_t{group.first_rank + rank % 8} * arguments.k +
                        column0 + column;
      if constexpr (std::is_same_v<decltype(value), float2>) {
        StorePair(to, value, columns - column, arguments.add);
      } else {
        *to = arguments.add ? *to + value : value;
      }
    });
  }
}

// --- Host

constexpr const char* kName = "LoraGradACuda";

int PassClass(int64_t groups) {
  return groups <= 2 ? 16 : groups <= 4 ? 32 : groups <= 8 ? 64 : 128;
}

struct Pass {
  int64_t segment = 0;
  int64_t first_row = 0;
  int64_t floats = -1;  // offset in the workspace, or -1
  GradAItem item;
};
struct Plan {
  std::vector<Pass> passes;
  int64_t floats = 0;
};

// The passes over the modules for which wanted(segment, module).
template <typename Wanted>
Plan PlanPasses(const LoraProblem& problem, Wanted wanted) {
  const int64_t max_groups = problem.dtype == DType::kFloat32 ? kMaxGroups / 2 : kMaxGroups;
  Plan plan;
  int64_t first_row = 0;
  for (size_t i = 0; i < problem.segments.size(); ++i) {
    const LoraSegment& segment = problem.segments[i];
    GradAItem item;
    item.rows = static_cast<int32_t>(segment.rows);
    item.chunk_rows = static_cast<int32_t>(
        std::max(kMinChunk, RoundUp(CeilDiv(segment.rows, kMaxChunks), kRows)));
    item.chunks =
        static_cast<int32_t>(std::max<int64_t>(1, CeilDiv(segment.rows, item.chunk_rows)));
    const auto finish = [&] {
      if (item.groups == 0) return;
      Pass pass = {static_cast<int64_t>(i), first_row};
      if (item.chunks > 1) {
        pass.floats = plan.floats;
        plan.floats +=
            RoundUp(item.chunks * item.groups * 8 * RoundUp(problem.k, 4), 64);  // 256 bytes
      }
      pass.item = item;
      plan.passes.push_back(pass);
      item.groups = 0;
    };
    for (size_t g = 0; g < problem.modules.size(); ++g) {
      if (!wanted(i, g)) continue;
      const int64_t rank = segment.factors[g].rank;
      for (int64_t first = 0; first < rank; first += 8) {
        if (item.groups == max_groups) finish();
        item.group[item.groups++] = {static_cast<uint8_t>(g),
                                     static_cast<uint8_t>(std::min<int64_t>(8, rank - first)),
                                     static_cast<uint16_t>(first)};
      }
    }
    finish();
    first_row += segment.rows;
  }
  return plan;
}

// The second phase of a pass: a sum for each module that has ranks in it.
void AppendSums(const Pass& pass, const LoraProblem& problem, bool add,
                std::vector<PartialSum>& sums) {
  const GradAItem& item = pass.item;
  const int64_t pitch = RoundUp(problem.k, 4);
  for (int first = 0; first < item.groups;) {
    const int module = item.group[first].module;
    int last = first;
    int64_t ranks = 0;
    for (; last < item.groups && item.group[last].module == module; ++last)
      ranks += item.group[last].valid;
    sums.push_back({item.partial + first * 8 * pitch, item.groups * 8 * pitch, item.chunks,
                    static_cast<int32_t>(pitch), ranks, static_cast<int32_t>(problem.k), 1,
                    item.da[module] + item.group[first].first_rank * problem.k, problem.k, true,
                    add});
    first = last;
  }
}

template <typename T, int kRank, bool kAligned>
absl::Status LaunchPasses(const std::vector<GradAItem>& items, GradAArguments& arguments,
                          CUstream_st* stream) {
  using S = Shape<T, kRank>;
  arguments.slabs = static_cast<int32_t>(CeilDiv(arguments.k, S::kColumns));
  const auto blocks = [&](const GradAItem& item) { return int64_t{item.chunks} * arguments.slabs; };
  return ForTables<decltype(arguments.table)>(items, blocks, [&](const auto& table) {
    arguments.table = table;
    return CudaStatus(Launch(GradAKernel<T, kRank, kAligned>, dim3(table.blocks), kThreads,
                             S::kSharedBytes, stream, arguments),
                      kName);
  });
}

template <typename T, bool kAligned>
absl::Status LaunchOfRank(int rank, const std::vector<GradAItem>& items, GradAArguments& arguments,
                          CUstream_st* stream) {
  if (rank == 16) return LaunchPasses<T, 16, kAligned>(items, arguments, stream);
  if (rank == 32) return LaunchPasses<T, 32, kAligned>(items, arguments, stream);
  if constexpr (sizeof(T) == 2) {
    if (rank == 128) return LaunchPasses<T, 128, kAligned>(items, arguments, stream);
  }
  return LaunchPasses<T, 64, kAligned>(items, arguments, stream);
}

absl::Status Check(const LoraProblem& problem, ConstMatrix ds, ConstMatrix x, const uint32_t* kept,
                   absl::Span<float* const> da) {
  if (absl::Status status = CheckLoraProblem(problem); !status.ok()) return status;
  const int64_t rows = LoraRows(problem);
  const int64_t columns = LoraSColumns(problem);
  if (da.size() != problem.modules.size() * problem.segments.size()) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": ", da.size(), " gradients for ",
                                                   problem.modules.size(), " modules and ",
                                                   problem.segments.size(), " segments"));
  }
  if (columns == 0) return absl::OkStatus();
  if (absl::Status status = CheckMatrix("dS", ds, rows, columns, problem.dtype); !status.ok())
    return status;
  if (absl::Status status = CheckMatrix("x", x, rows, problem.k, problem.dtype); !status.ok())
    return status;
  if (absl::Status status = CheckKept(problem, kept); !status.ok()) return status;
  for (size_t i = 0; i < da.size(); ++i) {
    if (reinterpret_cast<uintptr_t>(da[i]) % sizeof(float) != 0)
      return absl::InvalidArgumentError(absl::StrCat(kName, ": dA ", i, " is misaligned"));
  }
  return absl::OkStatus();
}

}  // namespace grad_a

using namespace grad_a;  // NOLINT(google-build-using-namespace)

int64_t GradAWorkspaceBytes(const LoraProblem& problem) {
  const auto all = [](size_t, size_t) { return true; };
  return PlanPasses(problem, all).floats * static_cast<int64_t>(sizeof(float));
}

int64_t LoraWorkspaceBytes(const LoraProblem& problem) {
  if (!CheckLoraProblem(problem).ok()) return 0;
  return std::max(GradSBWorkspaceBytes(problem), GradAWorkspaceBytes(problem));
}

absl::Status LoraGradACuda(const LoraProblem& problem, ConstMatrix ds, ConstMatrix x,
                           const uint32_t* kept, absl::Span<float* const> da, bool add,
                           void* workspace, CUstream_st* stream) {
  if (absl::Status status = Check(problem, ds, x, kept, da); !status.ok()) return status;
  if (problem.k == 0) return absl::OkStatus();
  const int64_t modules = static_cast<int64_t>(problem.modules.size());
  const Plan plan = PlanPasses(problem, [&](size_t segment, size_t module) {
    return da[segment * modules + module] != nullptr;
  });
  if (absl::Status status = CheckWorkspace(kName, workspace, plan.floats); !status.ok())
    return status;
  const int64_t bytes = BytesOf(problem.dtype);
  GradAArguments arguments;
  arguments.x_stride = x.stride;
  arguments.ds_stride = ds.stride;
  arguments.kept_stride = DropoutWords(problem.k);
  arguments.k = static_cast<int32_t>(problem.k);
  arguments.k_pitch = static_cast<int32_t>(RoundUp(problem.k, 4));
  for (int64_t g = 0; g < modules; ++g)
    arguments.s_column[g] = static_cast<int32_t>(LoraSColumn(problem, g));
  arguments.add = add;
  arguments.ds_aligned = HasAlignedRows(ds.data, ds.stride, bytes);
  const bool aligned = HasAlignedRows(x.data, x.stride, bytes);

  std::map<int, std::vector<GradAItem>> launches;
  std::vector<PartialSum> sums;
  for (Pass pass : plan.passes) {
    GradAItem& item = pass.item;
    item.x = static_cast<const char*>(x.data) + pass.first_row * x.stride * bytes;
    item.ds = static_cast<const char*>(ds.data) + pass.first_row * ds.stride * bytes;
    if (problem.dropout > 0) item.kept = kept + pass.first_row * arguments.kept_stride;
    for (int64_t g = 0; g < modules; ++g) item.da[g] = da[pass.segment * modules + g];
    if (pass.floats >= 0) {
      item.partial = static_cast<float*>(workspace) + pass.floats;
      AppendSums(pass, problem, add, sums);
    }
    launches[PassClass(item.groups)].push_back(item);
  }
  for (const auto& launch : launches) {
    const auto of_type = [&](auto element) {
      using T = decltype(element);
      return aligned ? LaunchOfRank<T, true>(launch.first, launch.second, arguments, stream)
                     : LaunchOfRank<T, false>(launch.first, launch.second, arguments, stream);
    };
    if (absl::Status status = WithElementType(problem.dtype, kName, of_type); !status.ok()) {
      return status;
    }
  }
  return SumPartials(problem.dtype, sums, kName, stream);
}

}  // namespace fedumm::kernels
