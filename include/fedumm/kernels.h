// The low-rank matmuls of LoRA (Hu et al. 2021) on CPU and CUDA, for one adapter or for many
// clients' adapters in one batch. Raw pointers, int64 sizes and strides, no LibTorch. Thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"

struct CUstream_st;  // what a cudaStream_t points to; spares callers the CUDA headers

namespace fedumm::kernels {

enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16 };

// A row-major matrix whose row i starts i * stride elements after `data`. Rows may be padded, so
// stride >= columns; the padding is neither read for a result nor written. `data` is aligned to its
// element.
struct ConstMatrix {
  const void* data = nullptr;
  int64_t stride = 0;
};
struct Matrix {
  void* data = nullptr;
  int64_t stride = 0;
  operator ConstMatrix() const { return {data, stride}; }  // NOLINT(google-explicit-constructor)
};

inline constexpr int64_t kMaxRank = 256;
inline constexpr int64_t kMaxModules = 4;

// A frozen linear y = x Wᵀ + bias. Those that read the same x (q, k and v; gate and up) form a
// group, which reads it once.
struct LoraModule {
  int64_t n = 0;               // columns of y
  ConstMatrix w;               // [n, k]
  const void* bias = nullptr;  // [n], or null
};

// The adapter of one client on one module: y += scale * dropout(x) Aᵀ Bᵀ.
struct LoraFactors {
  int64_t rank = 0;  // up to kMaxRank; 0: no adapter here
  float scale = 1;
  ConstMatrix a;  // [rank, k]
  ConstMatrix b;  // [n, rank]
};

// The rows of the batch that belong to one client; segments lie one after the other, and an empty
// one is allowed.
struct LoraSegment {
  int64_t rows = 0;
  uint64_t dropout_key = 0;
  LoraFactors factors[kMaxModules];  // one a module of the group
};

// One call's operands: x[m, k] with m the rows of all segments, and for each module g of the group
// y_g[m, n_g]. S[m, LoraSColumns()] = scale * dropout(x) Aᵀ lies between A and B; module g's
// columns start at LoraSColumn(g), rounded up to multiples of 8, and of a segment with a smaller
// rank only the first `rank` of them are read or written. x, W, bias, A, B, S, y and their
// gradients have the type `dtype`, the gradients of A and B are float. All sums are in float and in
// a fixed order: equal inputs give equal bits, and what a row of y is does not depend on the other
// rows.
struct LoraProblem {
  DType dtype = DType::kFloat32;
  int64_t k = 0;
  absl::Span<const LoraModule> modules;
  absl::Span<const LoraSegment> segments;
  // Elements of x are dropped with this probability (in [0, 1), in steps of 2^-16) on the adapters'
  // way only, and the rest scaled by 1 / (1 - dropout). Element (i, j) of a segment, i counted in
  // the segment, is a function of (dropout_key, i, j) alone: see DropoutWord.
  double dropout = 0;
};

int64_t LoraRows(const LoraProblem& problem);
int64_t LoraSColumn(const LoraProblem& problem, int64_t module);
int64_t LoraSColumns(const LoraProblem& problem);

// INVALID_ARGUMENT names what is wrong with the sizes, ranks, strides or pointers of W, bias, A and
// B.
absl::Status CheckLoraProblem(const LoraProblem& problem);

// 32 bits of the dropout mask: bit b tells whether element (row, 32 * word + b) is kept. From
// Philox4x32-10 (Salmon et al. 2011), 16 bits an element: counter (column / 8, row, row >> 32, 0),
// key (key, key >> 32), the lowest 16 bits of the first word for the first column.
uint32_t DropoutWord(double dropout, uint64_t key, int64_t row, int64_t word);

// Words of a row of `kept` below.
inline int64_t DropoutWords(int64_t k) { return (k + 31) / 32; }

// --- CPU ----------------------------------------------------------------------------------------
// The thin products, one thread a call: callers share out rows (LoraOuterAddCpu: columns). The
// large products are for a BLAS. Adapters, S and gradients are float; x, y and dx have any DType.
// They use AVX2 or AVX-512 where the processor has it, and add up in an order that depends on the
// sizes alone.

// The mask of rows first_row .. first_row + rows - 1 of a segment: DropoutWords(k) words a row.
void DropoutMaskCpu(double dropout, uint64_t key, int64_t first_row, int64_t rows, int64_t k,
                    uint32_t* kept);

// x[rows, columns]; where `kept` is not null, only the elements whose bit is set, the others being
// 0.
struct CpuActivation {
  DType dtype = DType::kFloat32;
  Matrix matrix;
  const uint32_t* kept = nullptr;  // row i's bits start at kept + i * kept_stride
  int64_t kept_stride = 0;
};

// A factor f[rank, columns] in the order in which the loops below read it. Immutable.
class PackedFactor {
 public:
  enum class For { kShrink, kExpand };
  // Element (j, c) is rows[j][c * step].
  PackedFactor(For use, absl::Span<const float* const> rows, int64_t columns, int64_t step);
  int64_t rank() const { return rank_; }
  int64_t columns() const { return columns_; }
  const float* data() const { return data_.data(); }

 private:
  int64_t rank_;
  int64_t columns_;
  std::vector<float> data_;
};

// s[row, j] = scales[j] * the sum over columns of x[row, c] * f[j, c]
void LoraShrinkCpu(int64_t rows, const float* scales, const CpuActivation& x, const PackedFactor& f,
                   float* s, int64_t s_stride);
// y += s f, of the elements whose bit is set where y.kept is not null.
void LoraExpandAddCpu(int64_t rows, const float* s, int64_t s_stride, const PackedFactor& f,
                      const CpuActivation& y);
// g[j][c] += the sum over rows of s[row, j] * x[row, c], for columns first_column (a multiple of
// 32) to end_column.
void LoraOuterAddCpu(int64_t rows, const float* s, int64_t s_stride, const CpuActivation& x,
                     int64_t first_column, int64_t end_column, absl::Span<float* const> g);

// --- CUDA
// -------------------------------------------------------------------------------------------------------------------------------
// Pointers are device pointers; the work is enqueued on `stream` and not waited for. Nothing is
// allocated, and no memory is copied to or from the host, so that the calls can be captured in a
// graph. INVALID_ARGUMENT as above and for null or misaligned operands; UNIMPLEMENTED in a build
// without CUDA; INTERNAL names the CUDA error. Each call computes for all modules of the group.
// `kept` is [m, DropoutWords(k)] and may be null if dropout is 0.

// Devices that this process can use; 0 in a build without CUDA or on a machine without a driver.
int CudaDeviceCount();

// S = scale * dropout(x) Aᵀ / (1 - dropout), and the bits of `kept`, in one pass over x.
absl::Status LoraShrinkCuda(const LoraProblem& problem, ConstMatrix x, Matrix s, uint32_t* kept,
                            CUstream_st* stream);
// y_g = x W_gᵀ + bias_g + S_g B_gᵀ, the low-rank product within the main loop of the large one.
absl::Status LoraForwardCuda(const LoraProblem& problem, ConstMatrix x, ConstMatrix s,
                             absl::Span<const Matrix> y, CUstream_st* stream);

// dS = scale * dY B / (1 - dropout) and dB = dYᵀ S, from one reading of dY. db[segment * modules +
// module] is a dense float [n, rank], or null where no gradient is asked for; with `add` the
// gradient is added to what is there. Workspace: see LoraWorkspaceBytes.
absl::Status LoraGradSBCuda(const LoraProblem& problem, absl::Span<const ConstMatrix> dy,
                            ConstMatrix s, Matrix ds, absl::Span<float* const> db, bool add,
                            void* workspace, CUstream_st* stream);
// dA = dSᵀ dropout(x) without its scale, which dS carries; da as db, each a dense float [rank, k].
absl::Status LoraGradACuda(const LoraProblem& problem, ConstMatrix ds, ConstMatrix x,
                           const uint32_t* kept, absl::Span<float* const> da, bool add,
                           void* workspace, CUstream_st* stream);
// dX = the sum over the group of dY_g W_g + dropout(dS_g A_g).
absl::Status LoraGradXCuda(const LoraProblem& problem, absl::Span<const ConstMatrix> dy,
                           ConstMatrix ds, const uint32_t* kept, Matrix dx, CUstream_st* stream);
// Device memory that LoraGradSBCuda and LoraGradACuda need, aligned to 256 bytes.
int64_t LoraWorkspaceBytes(const LoraProblem& problem);

// One client's adapter as flat float arrays of `count` elements.
struct AdamWClient {
  int64_t count = 0;
  float* parameters = nullptr;
  const float* gradients = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  void* shadow = nullptr;  // the parameters rounded to `dtype`, or null
  int64_t step = 1;        // of this update, from 1: what the moments are corrected by
  float learning_rate = 0;
};
struct AdamWOptions {
  double beta1 = 0.9;  // double: 1 - 0.999F is off by 1e-5
  double beta2 = 0.999;
  float epsilon = 1e-8F;
  float weight_decay = 0.01F;
  float max_norm = 0;  // of a client's gradient; 0: not clipped
  DType shadow_dtype = DType::kBFloat16;
};
// One AdamW update (Loshchilov and Hutter 2019; torch.optim.AdamW's formulas) of every client,
// clipped as torch.nn.utils.clip_grad_norm_ does, and each client's gradient norm before clipping
// in norms[client] (device memory). `workspace` holds AdamWWorkspaceBytes.
absl::Status AdamWCuda(const AdamWOptions& options, absl::Span<const AdamWClient> clients,
                       float* norms, void* workspace, CUstream_st* stream);
int64_t AdamWWorkspaceBytes(absl::Span<const AdamWClient> clients);

}  // namespace fedumm::kernels
