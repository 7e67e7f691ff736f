#include <algorithm>
#include <cstring>

#include "fedumm/kernels.h"
#include "kernels/philox.h"

// Each loop is written once, over the vector type of an instruction set, and compiled for each of
// them; which one runs is decided by the processor. (target_clones would do the same through an
// ifunc, which runs before ThreadSanitizer is ready.) The inner loops on floats are functions of
// their instruction set, so that the element types share them.
#define FEDUMM_INLINE inline __attribute__((always_inline))
#define FEDUMM_CALLED __attribute__((noinline))

namespace fedumm::kernels {
namespace {

float HalfToFloat(uint16_t half) {
  const uint32_t sign = uint32_t{half & 0x8000u} << 16;
  const uint32_t exponent = (half >> 10) & 31;
  const uint32_t fraction = half & 1023;
  float value;
  if (exponent == 0) {
    value = static_cast<float>(fraction) * 0x1p-24F;
  } else {
    const uint32_t bits = ((exponent == 31 ? 255 : exponent + 112) << 23) | (fraction << 13);
    std::memcpy(&value, &bits, sizeof(value));
  }
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits |= sign;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// GCC takes no vector_size that depends on a template parameter.
template <int kWidth>
struct VectorTypes;
template <>
struct VectorTypes<4> {
  typedef float Float __attribute__((vector_size(16)));
  typedef uint32_t Word __attribute__((vector_size(16)));
  typedef uint16_t Short __attribute__((vector_size(8)));
};
template <>
struct VectorTypes<8> {
  typedef float Float __attribute__((vector_size(32)));
  typedef uint32_t Word __attribute__((vector_size(32)));
  typedef uint16_t Short __attribute__((vector_size(16)));
};
template <>
struct VectorTypes<16> {
  typedef float Float __attribute__((vector_size(64)));
  typedef uint32_t Word __attribute__((vector_size(64)));
  typedef uint16_t Short __attribute__((vector_size(32)));
};

template <int kWidth>
struct Vectors {
  static constexpr int kLanes = kWidth;
  using Float = typename VectorTypes<kWidth>::Float;
  using Word = typename VectorTypes<kWidth>::Word;
  using Short = typename VectorTypes<kWidth>::Short;

  static FEDUMM_INLINE Float Load(const float* from) {
    Float value;
    std::memcpy(&value, from, sizeof(value));
    return value;
  }
  static FEDUMM_INLINE void Store(Float value, float* to) {
    std::memcpy(to, &value, sizeof(value));
  }
  static FEDUMM_INLINE Float LoadBFloat16(const uint16_t* from) {
    Short narrow;
    std::memcpy(&narrow, from, sizeof(narrow));
    return AsFloat(__builtin_convertvector(narrow, Word) << 16);
  }
  static FEDUMM_INLINE void StoreBFloat16(Float value, uint16_t* to) {
    const Word bits = AsWord(value);
    const Word rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Word nan = static_cast<Word>((bits & 0x7fffffff) > 0x7f800000);
    const Short narrow = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Short);
    std::memcpy(to, &narrow, sizeof(narrow));
  }
  static FEDUMM_INLINE Float AsFloat(Word bits) {
    Float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static FEDUMM_INLINE Word AsWord(Float value) {
    Word bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
  }
  static FEDUMM_INLINE Float LoadHalf(const uint16_t* from) {
    Short narrow;
    std::memcpy(&narrow, from, sizeof(narrow));
    const Word half = __builtin_convertvector(narrow, Word);
    const Word exponent = half & 0x7c00;
    const Word shifted = ((half & 0x7fff) << 13) + 0x38000000;  // the exponent's bias: + 112
    const Word infinite = static_cast<Word>(exponent == 0x7c00);
    const Word small = static_cast<Word>(exponent == 0);
    const Word normal = shifted + (infinite & 0x38000000);
    const Word subnormal = AsWord(AsFloat(shifted + 0x800000) - 0x1p-14F);
    return AsFloat((normal & ~small) | (subnormal & small) | ((half & 0x8000) << 16));
  }
  // To nearest, ties to even.
  static FEDUMM_INLINE void StoreHalf(Float value, uint16_t* to) {
    const Word all = AsWord(value);
    const Word bits = all & 0x7fffffff;
    const Word normal = (bits - 0x38000000 + 0xfff + ((bits >> 13) & 1)) >> 13;
    const Word subnormal = AsWord(AsFloat(bits) + 0.5F) - 0x3f000000;  // the addition rounds
    const Word small = static_cast<Word>(bits < 0x38800000);           // below 2^-14
    const Word large = static_cast<Word>(bits >= 0x477ff000);          // 65520 and above
    const Word nan = static_cast<Word>(bits > 0x7f800000);
    const Word half = (normal & ~small & ~large) | (subnormal & small) | (large & ~nan & 0x7c00) |
                      (nan & 0x7e00) | ((all >> 16) & 0x8000);
    const Short narrow = __builtin_convertvector(half, Short);
    std::memcpy(to, &narrow, sizeof(narrow));
  }
};

// Lanes whose bit of `kept` is 0 become 0.
template <typename V>
FEDUMM_INLINE typename V::Float Kept(typename V::Float value, uint32_t kept) {
  typename V::Word lane;
  for (int i = 0; i < V::kLanes; ++i) lane[i] = uint32_t{1} << i;
  return V::AsFloat(V::AsWord(value) & static_cast<typename V::Word>((lane & kept) != 0));
}

FEDUMM_INLINE bool IsKept(const uint32_t* kept, int64_t column) {
  return (kept[column / 32] >> (column % 32) & 1) != 0;
}

// The lowest V::kLanes bits belong to `column`, a multiple of V::kLanes, and what follows it.
template <typename V>
FEDUMM_INLINE uint32_t KeptBits(const uint32_t* kept, int64_t column) {
  return kept[column / 32] >> (column % 32);
}

template <typename V, DType dtype>
FEDUMM_INLINE typename V::Float LoadVector(const void* row, int64_t column) {
  if constexpr (dtype == DType::kFloat32) {
    return V::Load(static_cast<const float*>(row) + column);
  } else if constexpr (dtype == DType::kBFloat16) {
    return V::LoadBFloat16(static_cast<const uint16_t*>(row) + column);
  } else {
    return V::LoadHalf(static_cast<const uint16_t*>(row) + column);
  }
}

template <DType dtype>
FEDUMM_INLINE float LoadOne(const void* row, int64_t column) {
  if constexpr (dtype == DType::kFloat32) return static_cast<const float*>(row)[column];
  const uint16_t bits = static_cast<const uint16_t*>(row)[column];
  if constexpr (dtype == DType::kBFloat16) {
    const uint32_t wide = uint32_t{bits} << 16;
    float value;
    std::memcpy(&value, &wide, sizeof(value));
    return value;
  }
  return HalfToFloat(bits);
}

template <DType dtype>
FEDUMM_INLINE const void* RowOf(const Matrix& matrix, int64_t row) {
  return static_cast<const char*>(matrix.data) +
         row * matrix.stride * (dtype == DType::kFloat32 ? 4 : 2);
}

// out[columns rounded up to a vector] = the row's elements from first_column on, as float, with 0
// for those that are dropped and for the padding. first_column is a multiple of 32.
template <typename V, DType dtype>
FEDUMM_INLINE void LoadRow(const CpuActivation& x, int64_t row, int64_t first_column,
                           int64_t columns, float* out) {
  const void* const from = RowOf<dtype>(x.matrix, row);
  const uint32_t* const kept = x.kept == nullptr ? nullptr : x.kept + row * x.kept_stride;
  int64_t c = 0;
  for (; c + V::kLanes <= columns; c += V::kLanes) {
    typename V::Float value = LoadVector<V, dtype>(from, first_column + c);
    if (kept != nullptr) value = Kept<V>(value, KeptBits<V>(kept, first_column + c));
    V::Store(value, out + c);
  }
  if (c == columns) return;
  for (int64_t i = 0; i < V::kLanes; ++i) {
    const int64_t column = first_column + c + i;
    const bool there = c + i < columns && (kept == nullptr || IsKept(kept, column));
    out[c + i] = there ? LoadOne<dtype>(from, column) : 0;
  }
}

// --- s = scales x fᵀ ---------------------------------------------------------------------------
// Vectors run along the rank: a block of f is [column][kVectors vectors].

constexpr int kMaxVectors = 4;           // of the rank in one pass
constexpr int64_t kShrinkColumns = 512;  // of x that lie ready as floats

constexpr int ShrinkRows(int vectors) {  // so that sums and operands fit the 16 registers of AVX2
  return vectors == 1 ? 8 : vectors == 2 ? 5 : vectors == 3 ? 4 : 3;
}

template <typename V, int kVectors, int kRows>
FEDUMM_INLINE void ShrinkTile(int64_t columns, const float* x, int64_t x_stride, const float* f,
                              typename V::Float (*sums)[kVectors]) {
  typename V::Float local[kRows][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) local[i][v] = sums[i][v];
  }
  for (int64_t c = 0; c < columns; ++c) {
    typename V::Float factor[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) factor[v] = V::Load(f + v * V::kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) local[i][v] += x[i * x_stride] * factor[v];
    }
    ++x;
    f += kVectors * V::kLanes;
  }
#pragma GCC unroll 8
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sums[i][v] = local[i][v];
  }
}

template <typename Isa, DType dtype, int kVectors, int kRows>
FEDUMM_INLINE void ShrinkRowsOf(int64_t row, const float* scales, const CpuActivation& x,
                                int64_t columns, const float* f, int64_t rank, float* s,
                                int64_t s_stride) {
  using V = typename Isa::V;
  typename V::Float sums[kRows][kVectors] = {};
  for (int64_t first = 0; first < columns; first += kShrinkColumns) {
    const int64_t n = std::min(kShrinkColumns, columns - first);
    const float* const part = f + first * kVectors * V::kLanes;
    if (dtype == DType::kFloat32 && x.kept == nullptr) {
      const float* const rows = static_cast<const float*>(RowOf<dtype>(x.matrix, row)) + first;
      Isa::template ShrinkTile<kVectors, kRows>(n, rows, x.matrix.stride, part, sums);
    } else {
      alignas(64) float ready[kRows * kShrinkColumns];
      for (int i = 0; i < kRows; ++i) {
        LoadRow<V, dtype>(x, row + i, first, n, ready + i * kShrinkColumns);
      }
      Isa::template ShrinkTile<kVectors, kRows>(n, ready, kShrinkColumns, part, sums);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    float values[kVectors * V::kLanes];
    for (int v = 0; v < kVectors; ++v) V::Store(sums[i][v], values + v * V::kLanes);
    float* const to = s + (row + i) * s_stride;
    for (int64_t j = 0; j < rank; ++j) to[j] = scales[j] * values[j];
  }
}

template <typename Isa, DType dtype, int kVectors>
FEDUMM_INLINE void ShrinkBlock(int64_t rows, const float* scales, const CpuActivation& x,
                               int64_t columns, const float* f, int64_t rank, float* s,
                               int64_t s_stride) {
  constexpr int kRows = ShrinkRows(kVectors);
  int64_t row = 0;
  for (; row + kRows <= rows; row += kRows) {
    ShrinkRowsOf<Isa, dtype, kVectors, kRows>(row, scales, x, columns, f, rank, s, s_stride);
  }
  for (; row < rows; ++row) {
    ShrinkRowsOf<Isa, dtype, kVectors, 1>(row, scales, x, columns, f, rank, s, s_stride);
  }
}

template <typename Isa, DType dtype>
FEDUMM_INLINE void Shrink(int64_t rows, const float* scales, const CpuActivation& x,
                          const PackedFactor& f, float* s, int64_t s_stride) {
  using V = typename Isa::V;
  const float* block = f.data();
  for (int64_t first = 0; first < f.rank();) {
    const int64_t rank = std::min<int64_t>(f.rank() - first, kMaxVectors * V::kLanes);
    const auto vectors = static_cast<int>((rank + V::kLanes - 1) / V::kLanes);
    float* const to = s + first;
    const float* const factors = scales + first;
    switch (vectors) {
      case 1:
        ShrinkBlock<Isa, dtype, 1>(rows, factors, x, f.columns(), block, rank, to, s_stride);
        break;
      case 2:
        ShrinkBlock<Isa, dtype, 2>(rows, factors, x, f.columns(), block, rank, to, s_stride);
        break;
      case 3:
        ShrinkBlock<Isa, dtype, 3>(rows, factors, x, f.columns(), block, rank, to, s_stride);
        break;
      default:
        ShrinkBlock<Isa, dtype, 4>(rows, factors, x, f.columns(), block, rank, to, s_stride);
    }
    block += f.columns() * vectors * V::kLanes;
    first += rank;
  }
}

// --- y += s f -----------------------------------------------------------------------------------
// Vectors run along the columns: a tile of f is [rank][kTileVectors vectors].

constexpr int kTileVectors = 2;
constexpr int kExpandRows = 6;

template <typename V, DType dtype>
FEDUMM_INLINE void AddTo(typename V::Float sum, const CpuActivation& y, int64_t row,
                         int64_t column) {
  if (y.kept != nullptr) {
    sum = Kept<V>(sum, KeptBits<V>(y.kept + row * y.kept_stride, column));
  }
  void* const to = const_cast<void*>(RowOf<dtype>(y.matrix, row));
  sum += LoadVector<V, dtype>(to, column);
  if constexpr (dtype == DType::kFloat32) {
    V::Store(sum, static_cast<float*>(to) + column);
  } else if constexpr (dtype == DType::kBFloat16) {
    V::StoreBFloat16(sum, static_cast<uint16_t*>(to) + column);
  } else {
    V::StoreHalf(sum, static_cast<uint16_t*>(to) + column);
  }
}

template <typename V, DType dtype, int kRows>
FEDUMM_INLINE void ExpandRowsOf(int64_t row, const float* s, int64_t s_stride,
                                const PackedFactor& f, const CpuActivation& y) {
  constexpr int64_t kTile = int64_t{kTileVectors} * V::kLanes;
  const float* tile = f.data();
  for (int64_t first = 0; first < f.columns(); first += kTile, tile += f.rank() * kTile) {
    typename V::Float sums[kRows][kTileVectors] = {};
    for (int64_t j = 0; j < f.rank(); ++j) {
      typename V::Float factor[kTileVectors];
      for (int v = 0; v < kTileVectors; ++v) factor[v] = V::Load(tile + j * kTile + v * V::kLanes);
      for (int i = 0; i < kRows; ++i) {
        for (int v = 0; v < kTileVectors; ++v) {
          sums[i][v] += s[(row + i) * s_stride + j] * factor[v];
        }
      }
    }
    for (int i = 0; i < kRows; ++i) {
      for (int v = 0; v < kTileVectors; ++v) {
        const int64_t column = first + v * V::kLanes;
        if (column + V::kLanes <= f.columns()) {
          AddTo<V, dtype>(sums[i][v], y, row + i, column);
        } else if (column < f.columns()) {  // the end of the row, by way of a copy
          alignas(64) char end[V::kLanes * 4] = {};
          const int64_t bytes = (f.columns() - column) * (dtype == DType::kFloat32 ? 4 : 2);
          char* const there =
              static_cast<char*>(const_cast<void*>(RowOf<dtype>(y.matrix, row + i))) +
              column * (dtype == DType::kFloat32 ? 4 : 2);
          std::memcpy(end, there, static_cast<size_t>(bytes));
          uint32_t kept = 0;
          CpuActivation copy{.dtype = dtype, .matrix = {end, V::kLanes}};
          if (y.kept != nullptr) {
            kept = KeptBits<V>(y.kept + (row + i) * y.kept_stride, column);
            copy.kept = &kept;
          }
          AddTo<V, dtype>(sums[i][v], copy, 0, 0);
          std::memcpy(there, end, static_cast<size_t>(bytes));
        }
      }
    }
  }
}

template <typename Isa, DType dtype>
FEDUMM_INLINE void Expand(int64_t rows, const float* s, int64_t s_stride, const PackedFactor& f,
                          const CpuActivation& y) {
  using V = typename Isa::V;
  int64_t row = 0;
  for (; row + kExpandRows <= rows; row += kExpandRows) {
    ExpandRowsOf<V, dtype, kExpandRows>(row, s, s_stride, f, y);
  }
  for (; row < rows; ++row) ExpandRowsOf<V, dtype, 1>(row, s, s_stride, f, y);
}

// --- g += sᵀ x ----------------------------------------------------------------------------------

constexpr int64_t kOuterRows = 64;     // of x that lie ready as floats
constexpr int64_t kOuterColumns = 64;  // a multiple of every tile
constexpr int kOuterRanks = 6;

template <typename V, int kRanks>
FEDUMM_INLINE void OuterTile(int64_t rows, const float* s, int64_t s_stride, const float* x,
                             int64_t x_stride, int64_t columns, float* const* g, int64_t column) {
  typename V::Float sums[kRanks][kTileVectors] = {};
  for (int64_t i = 0; i < rows; ++i) {
    typename V::Float value[kTileVectors];
    for (int v = 0; v < kTileVectors; ++v) value[v] = V::Load(x + i * x_stride + v * V::kLanes);
    for (int j = 0; j < kRanks; ++j) {
      for (int v = 0; v < kTileVectors; ++v) sums[j][v] += s[i * s_stride + j] * value[v];
    }
  }
  for (int j = 0; j < kRanks; ++j) {
    for (int v = 0; v < kTileVectors; ++v) {
      float* const to = g[j] + column + v * V::kLanes;
      const int64_t left = columns - v * V::kLanes;
      if (left >= V::kLanes) {
        V::Store(V::Load(to) + sums[j][v], to);
      } else {
        for (int64_t c = 0; c < left; ++c) to[c] += sums[j][v][c];
      }
    }
  }
}

// `x` holds kOuterColumns floats a row, with 0 behind `columns` to the end of the tile.
template <typename V>
FEDUMM_INLINE void OuterTiles(int64_t rows, const float* s, int64_t s_stride, const float* x,
                              int64_t columns, absl::Span<float* const> g, int64_t column) {
  const auto rank = static_cast<int64_t>(g.size());
  for (int64_t c = 0; c < columns; c += int64_t{kTileVectors} * V::kLanes) {
    int64_t j = 0;
    for (; j + kOuterRanks <= rank; j += kOuterRanks) {
      OuterTile<V, kOuterRanks>(rows, s + j, s_stride, x + c, kOuterColumns, columns - c,
                                g.data() + j, column + c);
    }
    for (; j + 2 <= rank; j += 2) {
      OuterTile<V, 2>(rows, s + j, s_stride, x + c, kOuterColumns, columns - c, g.data() + j,
                      column + c);
    }
    for (; j < rank; ++j) {
      OuterTile<V, 1>(rows, s + j, s_stride, x + c, kOuterColumns, columns - c, g.data() + j,
                      column + c);
    }
  }
}

template <typename Isa, DType dtype>
FEDUMM_INLINE void Outer(int64_t rows, const float* s, int64_t s_stride, const CpuActivation& x,
                         int64_t first_column, int64_t end_column, absl::Span<float* const> g) {
  using V = typename Isa::V;
  constexpr int64_t kTile = int64_t{kTileVectors} * V::kLanes;
  alignas(64) float ready[kOuterRows * kOuterColumns];
  for (int64_t column = first_column; column < end_column; column += kOuterColumns) {
    const int64_t columns = std::min(kOuterColumns, end_column - column);
    for (int64_t row = 0; row < rows; row += kOuterRows) {
      const int64_t n = std::min(kOuterRows, rows - row);
      for (int64_t i = 0; i < n; ++i) {
        float* const to = ready + i * kOuterColumns;
        LoadRow<V, dtype>(x, row + i, column, columns, to);
        const int64_t end = (columns + V::kLanes - 1) / V::kLanes * V::kLanes;
        std::fill(to + end, to + (columns + kTile - 1) / kTile * kTile, 0.0F);
      }
      Isa::OuterTiles(n, s + row * s_stride, s_stride, ready, columns, g, column);
    }
  }
}

// --- By instruction set -------------------------------------------------------------------------

// The entry points compiled for one instruction set.
struct Loops {
  int lanes;
  void (*shrink)(int64_t, const float*, const CpuActivation&, const PackedFactor&, float*, int64_t);
  void (*expand)(int64_t, const float*, int64_t, const PackedFactor&, const CpuActivation&);
  void (*outer)(int64_t, const float*, int64_t, const CpuActivation&, int64_t, int64_t,
                absl::Span<float* const>);
};

#define FEDUMM_BY_TYPE(dtype, function, ...)               \
  switch (dtype) {                                         \
    case DType::kFloat32:                                  \
      return function<Isa, DType::kFloat32>(__VA_ARGS__);  \
    case DType::kBFloat16:                                 \
      return function<Isa, DType::kBFloat16>(__VA_ARGS__); \
    case DType::kFloat16:                                  \
      return function<Isa, DType::kFloat16>(__VA_ARGS__);  \
  }

// `target` is the attribute of the instruction set, which clang-format takes for a type.
// clang-format off
#define FEDUMM_LOOPS(name, target, vectors)                                                        \
  struct name {                                                                                    \
    using V = vectors;                                                                             \
    using Isa = name;                                                                              \
    template <int kVectors, int kRows>                                                             \
    target FEDUMM_CALLED static void ShrinkTile(                                                   \
        int64_t columns, const float* x, int64_t x_stride, const float* f,                         \
        V::Float (*sums)[kVectors]) {                                                              \
      kernels::ShrinkTile<V, kVectors, kRows>(columns, x, x_stride, f, sums);                      \
    }                                                                                              \
    target FEDUMM_CALLED static void OuterTiles(                                                   \
        int64_t rows, const float* s, int64_t s_stride, const float* x, int64_t columns,           \
        absl::Span<float* const> g, int64_t column) {                                              \
      kernels::OuterTiles<V>(rows, s, s_stride, x, columns, g, column);                            \
    }                                                                                              \
    target static void RunShrink(                                                                  \
        int64_t rows, const float* scales, const CpuActivation& x, const PackedFactor& f,          \
        float* s, int64_t s_stride) {                                                              \
      FEDUMM_BY_TYPE(x.dtype, Shrink, rows, scales, x, f, s, s_stride)                             \
    }                                                                                              \
    target static void RunExpand(                                                                  \
        int64_t rows, const float* s, int64_t s_stride, const PackedFactor& f,                     \
        const CpuActivation& y) {                                                                  \
      FEDUMM_BY_TYPE(y.dtype, Expand, rows, s, s_stride, f, y)                                     \
    }                                                                                              \
    target static void RunOuter(                                                                   \
        int64_t rows, const float* s, int64_t s_stride, const CpuActivation& x,                    \
        int64_t first_column, int64_t end_column, absl::Span<float* const> g) {                    \
      FEDUMM_BY_TYPE(x.dtype, Outer, rows, s, s_stride, x, first_column, end_column, g)            \
    }                                                                                              \
    static constexpr Loops kLoops = {V::kLanes, RunShrink, RunExpand, RunOuter};                   \
  };
// clang-format on

FEDUMM_LOOPS(Base, , Vectors<4>)
#if defined(__x86_64__)
FEDUMM_LOOPS(Avx2, __attribute__((target("avx2,fma"))), Vectors<8>)
FEDUMM_LOOPS(Avx512, __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,fma"))), Vectors<16>)
#endif

const Loops& ThisProcessorsLoops() {
#if defined(__x86_64__)
  static const bool avx512 =
      __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx512) return Avx512::kLoops;
  if (avx2) return Avx2::kLoops;
#endif
  return Base::kLoops;
}

}  // namespace

PackedFactor::PackedFactor(For use, absl::Span<const float* const> rows, int64_t columns,
                           int64_t step)
    : rank_(static_cast<int64_t>(rows.size())), columns_(columns) {
  const int lanes = ThisProcessorsLoops().lanes;
  if (use == For::kShrink) {
    const int64_t block = int64_t{kMaxVectors} * lanes;
    const int64_t padded = (rank_ + lanes - 1) / lanes * lanes;
    data_.resize(static_cast<size_t>(padded * columns));
    for (int64_t j = 0; j < rank_; ++j) {
      const int64_t first = j / block * block;
      const int64_t width = std::min(block, padded - first);
      float* const to = data_.data() + first * columns + (j - first);
      for (int64_t c = 0; c < columns; ++c) to[c * width] = rows[static_cast<size_t>(j)][c * step];
    }
  } else {
    const int64_t tile = int64_t{kTileVectors} * lanes;
    data_.resize(static_cast<size_t>((columns + tile - 1) / tile * tile * rank_));
    for (int64_t first = 0; first < columns; first += tile) {
      const int64_t width = std::min(tile, columns - first);
      for (int64_t j = 0; j < rank_; ++j) {
        float* const to = data_.data() + first * rank_ + j * tile;
        const float* const from = rows[static_cast<size_t>(j)] + first * step;
        for (int64_t c = 0; c < width; ++c) to[c] = from[c * step];
      }
    }
  }
}

void LoraShrinkCpu(int64_t rows, const float* scales, const CpuActivation& x, const PackedFactor& f,
                   float* s, int64_t s_stride) {
  ThisProcessorsLoops().shrink(rows, scales, x, f, s, s_stride);
}

void LoraExpandAddCpu(int64_t rows, const float* s, int64_t s_stride, const PackedFactor& f,
                      const CpuActivation& y) {
  ThisProcessorsLoops().expand(rows, s, s_stride, f, y);
}

void LoraOuterAddCpu(int64_t rows, const float* s, int64_t s_stride, const CpuActivation& x,
                     int64_t first_column, int64_t end_column, absl::Span<float* const> g) {
  ThisProcessorsLoops().outer(rows, s, s_stride, x, first_column, end_column, g);
}

}  // namespace fedumm::kernels
