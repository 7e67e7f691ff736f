// Small kernels for each part of the emulated machine, right and wrong ones. The PTX instructions
// are written out here, so that the tests do not depend on the wrappers of the shipped kernels.
#include <cuda.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include "tests/cuda/machine_kernels.h"

namespace fedumm::cuda_machine_test {
// Not anonymous: its mangled name would differ between two compilations of this file.
namespace device {

__device__ uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

int Finish() { return static_cast<int>(cudaGetLastError()); }

// --- Arithmetic: out[i] = the results of a row of the test's table -------------------------------

__global__ void IntegerOpsKernel(const int* in, int* out) {
  const int a = in[0], b = in[1], n = in[2];
  const auto ua = static_cast<uint32_t>(a), ub = static_cast<uint32_t>(b);
  uint32_t r;
  int i = 0;
  const auto put = [&](uint32_t v) { out[i++] = static_cast<int>(v); };
  asm volatile("mul.hi.s32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  put(r);
  asm volatile("mul.hi.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  put(r);
  asm volatile("prmt.b32 %0, %1, %2, 0x7250;" : "=r"(r) : "r"(a), "r"(b));
  put(r);
  asm volatile("prmt.b32 %0, %1, %2, 0xb8;" : "=r"(r) : "r"(a), "r"(b));
  put(r);
  asm volatile("bfe.u32 %0, %1, 4, 8;" : "=r"(r) : "r"(a));
  put(r);
  asm volatile("bfe.s32 %0, %1, 4, 8;" : "=r"(r) : "r"(a));
  put(r);
  asm volatile("bfi.b32 %0, %1, %2, 8, 4;" : "=r"(r) : "r"(a), "r"(b));
  put(r);
  asm volatile("lop3.b32 %0, %1, %2, %3, 0xca;" : "=r"(r) : "r"(a), "r"(b), "r"(n));
  put(r);
  asm volatile("shf.l.wrap.b32 %0, %1, %2, 8;" : "=r"(r) : "r"(a), "r"(b));
  put(r);
  asm volatile("shf.r.clamp.b32 %0, %1, %2, 40;" : "=r"(r) : "r"(a), "r"(b));
  put(r);
  put(static_cast<uint32_t>(__popc(a)));
  put(static_cast<uint32_t>(__clz(n)));
  put(static_cast<uint32_t>(__brev(ua)));
  asm volatile("shr.s32 %0, %1, 40;" : "=r"(r) : "r"(b));
  put(r);
  put(ua >> (n & 31));
  asm volatile("shl.b32 %0, %1, 32;" : "=r"(r) : "r"(a));
  put(r);
  put(static_cast<uint32_t>(min(a, b)));
  put(min(ua, ub));
  put(static_cast<uint32_t>(a / n));
  put(static_cast<uint32_t>(a % n));
  asm volatile("mad.lo.s32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(n));
  put(r);
  unsigned long long w;
  asm volatile("mul.wide.s32 %0, %1, %2;" : "=l"(w) : "r"(a), "r"(b));
  put(static_cast<uint32_t>(w));
  put(static_cast<uint32_t>(w >> 32));
  asm volatile("mad.wide.u32 %0, %1, %2, %3;" : "=l"(w) : "r"(a), "r"(b), "l"(5ull));
  put(static_cast<uint32_t>(w));
  put(static_cast<uint32_t>(w >> 32));
}

__global__ void FloatOpsKernel(const float* in, uint32_t* out) {
  const float a = in[0], b = in[1], big = in[2], nan = in[3];
  int i = 0;
  const auto put = [&](uint32_t v) { out[i++] = v; };
  uint32_t r;
  put(__float_as_uint(__fmaf_rn(a, b, -1.0f)));
  put(__float_as_uint(__fdiv_rn(a, b)));
  put(__float_as_uint(__fsqrt_rn(b)));
  put(static_cast<uint32_t>(__float2int_rz(a)));
  put(static_cast<uint32_t>(__float2int_rn(in[4])));
  put(static_cast<uint32_t>(__float2int_rd(-a)));
  put(static_cast<uint32_t>(__float2int_ru(a)));
  put(static_cast<uint32_t>(__float2int_rz(big)));
  put(static_cast<uint32_t>(__float2int_rz(nan)));
  put(__float_as_uint(__int2float_rn(16777217)));
  put(__float_as_uint(fmaxf(a, nan)));
  asm volatile("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(in[5]));
  put(r);
  asm volatile("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(a), "f"(b));
  put(r);
  asm volatile("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(a), "f"(b));
  put(r);
  put(__float_as_uint(__half2float(__float2half(in[6]))));
  put(__float_as_uint(__bfloat162float(__float2bfloat16(in[7]))));
  put(__float_as_uint(exp2f(b)));
  put(a < nan ? 1u : 0u);
  put(a != nan ? 1u : 0u);
  put(static_cast<uint32_t>(__double_as_longlong(static_cast<double>(a) * b) >> 32));
}

// Lane results of votes and shuffles; each of 32 lanes writes a column.
__global__ void WarpOpsKernel(int* out) {
  const int lane = threadIdx.x;
  out[lane] = __shfl_up_sync(0xffffffff, lane, 3);
  out[32 + lane] = __shfl_down_sync(0xffffffff, lane, 3, 8);
  out[64 + lane] = __shfl_xor_sync(0xffffffff, lane, 5);
  out[96 + lane] = __shfl_sync(0xffffffff, lane, 9, 8);
  out[128 + lane] = static_cast<int>(__ballot_sync(0xffffffff, lane % 3 == 0));
  out[160 + lane] = __any_sync(0xffffffff, lane == 40) * 2 + __all_sync(0xffffffff, lane < 32);
  int v = 0;
  if (lane % 2 == 0) v = static_cast<int>(__activemask());
  out[192 + lane] = v;
}

// A local array with a dynamic index has to stay in local memory.
__global__ void LocalMemoryKernel(const int* in, int* out) {
  int a[16];
  for (int i = 0; i < 16; ++i) a[(i * 5 + in[0]) % 16] = i * 100 + static_cast<int>(threadIdx.x);
  out[threadIdx.x] = a[in[1]];
}

// --- Tensor instructions -------------------------------------------------------------------------

// d[16, 8] = a[16, k] b[8, k]^T, fragments straight from global memory: a row has 8 words.
template <int kType>
__global__ void MmaKernel(const uint32_t* a, const uint32_t* b, float* d) {
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  uint32_t fa[4], fb[2];
  for (int i = 0; i < 4; ++i) fa[i] = a[(g + i % 2 * 8) * 8 + t + i / 2 * 4];
  for (int i = 0; i < 2; ++i) fb[i] = b[g * 8 + t + i * 4];
  float s[4] = {};
#define FEDUMM_MMA(shape, type)                                        \
  asm volatile("mma.sync.aligned." shape ".row.col.f32." type "." type \
               ".f32 {%0, %1, %2, %3}, "                               \
               "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"         \
               : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])        \
               : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]))
  if constexpr (kType == 0) FEDUMM_MMA("m16n8k16", "bf16");
  if constexpr (kType == 1) FEDUMM_MMA("m16n8k16", "f16");
  if constexpr (kType == 2) FEDUMM_MMA("m16n8k8", "tf32");
#undef FEDUMM_MMA
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + t * 2 + i % 2] = s[i];
}

// out[lane * 4 + i] = register i of ldmatrix.x4, of 4 8x8 matrices of which element (m, row,
// column) is m * 64 + row * 8 + column.
template <bool kTrans>
__global__ void LoadMatrixKernel(uint32_t* out) {
  __shared__ alignas(16) uint16_t tile[256];
  for (int i = threadIdx.x; i < 256; i += 32) tile[i] = static_cast<uint16_t>(i);
  __syncthreads();
  const uint32_t a = SharedAddress(tile + threadIdx.x * 8);
  uint32_t r[4];
  if constexpr (kTrans) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a));
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(a));
  }
  for (int i = 0; i < 4; ++i) out[threadIdx.x * 4 + i] = r[i];
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define FEDUMM_SM90 1
#endif

// out[64] = the 8x8 matrix of which lane holds elements (lane / 4, lane % 4 * 2 ...), stored
// transposed.
__global__ void StoreMatrixKernel(uint16_t* out) {
#if defined(FEDUMM_SM90)
  __shared__ alignas(16) uint16_t tile[64];
  const uint32_t lane = threadIdx.x, first = lane / 4 * 8 + lane % 4 * 2;
  const uint32_t a = SharedAddress(tile + lane % 8 * 8);
  asm volatile("stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%0], {%1};" ::"r"(a),
               "r"(first | (first + 1) << 16)
               : "memory");
  __syncthreads();
  for (int i = 0; i < 2; ++i) out[lane * 2 + i] = tile[lane * 2 + i];
#endif
}

// --- Synchronisation -----------------------------------------------------------------------------

// Warp 0 fills, warp 1 reads. kBroken: 0 right, 1 no barrier, 2 barrier of 32 threads, 3 warp 1
// waits at another barrier.
template <int kBroken>
__global__ void HandOverKernel(const float* in, float* out) {
  __shared__ float tile[32];
  const int lane = threadIdx.x % 32;
  if (threadIdx.x < 32) {
    tile[lane] = in[lane];
    if constexpr (kBroken == 0 || kBroken == 3) asm volatile("bar.arrive 1, 64;" ::: "memory");
    if constexpr (kBroken == 2) asm volatile("bar.arrive 1, 32;" ::: "memory");
  } else {
    if constexpr (kBroken == 0) asm volatile("bar.sync 1, 64;" ::: "memory");
    if constexpr (kBroken == 2) asm volatile("bar.sync 1, 32;" ::: "memory");
    if constexpr (kBroken == 3) asm volatile("bar.sync 2, 64;" ::: "memory");
    out[lane] = tile[31 - lane];
  }
}

// Lanes exchange values through shared memory; without __syncwarp that is a race.
template <bool kSync>
__global__ void SyncWarpKernel(int* out) {
  __shared__ int tile[32];
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  if constexpr (kSync) __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

// Threads read, then the same memory is written again: the second barrier is what orders that.
template <bool kSecondBarrier>
__global__ void ReuseKernel(int* out) {
  __shared__ int tile[64];
  int sum = 0;
  for (int round = 0; round < 3; ++round) {
    tile[threadIdx.x] = static_cast<int>(threadIdx.x) * round;
    __syncthreads();
    sum += tile[63 - threadIdx.x];
    if constexpr (kSecondBarrier) __syncthreads();
  }
  out[threadIdx.x] = sum;
}

// Some warps leave before the barrier: it is for those that are left.
__global__ void EarlyExitKernel(int* out) {
  if (threadIdx.x >= 64) return;
  __shared__ int tile[64];
  tile[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = tile[63 - threadIdx.x] + __syncthreads_or(threadIdx.x == 5) +
                     __syncthreads_count(threadIdx.x < 10);
}

__global__ void DivergedBarrierKernel(int* out) {
  if (threadIdx.x < 16) __syncthreads();
  out[threadIdx.x] = 1;
}

// out = the sum over a cluster of 4 blocks of in[128]: shuffles, then distributed shared memory.
template <bool kSync>
__global__ void ClusterSumKernel(const float* in, float* out) {
#if defined(FEDUMM_SM90)
  __shared__ float partial;
  float v = in[blockIdx.x * 32 + threadIdx.x];
  for (int x = 16; x > 0; x /= 2) v += __shfl_xor_sync(0xffffffff, v, x);
  if (threadIdx.x == 0) partial = v;
  const auto sync = [] {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::
                     : "memory");
  };
  if constexpr (kSync) sync();
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  if (rank == 0 && threadIdx.x == 0) {
    float sum = 0;
    for (uint32_t r = 0; r < 4; ++r) {
      uint32_t a;
      float other;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                   : "=r"(a)
                   : "r"(SharedAddress(&partial)), "r"(r));
      asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(other) : "r"(a) : "memory");
      sum += other;
    }
    *out = sum;
  }
  sync();  // no block leaves while its memory is read
#endif
}

// --- Memory --------------------------------------------------------------------------------------

__global__ void CopyKernel(const float* in, float* out, int n, int shift) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = in[i + shift];
}

__global__ void Copy16Kernel(const uint4* in, uint4* out) { out[threadIdx.x] = in[threadIdx.x]; }

__global__ void SameElementKernel(float* out) { out[threadIdx.x / 2] = 1; }

__global__ void ReadBackKernel(float* out) {
  out[threadIdx.x] = 1;
  __syncthreads();
  out[64 + threadIdx.x] = out[63 - threadIdx.x];
}

__global__ void UninitialisedSharedKernel(float* out) {
  __shared__ float tile[64];
  if (threadIdx.x < 32) tile[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

__global__ void SharedBoundsKernel(float* out, int n) {
  extern __shared__ float dynamic[];
  for (int i = threadIdx.x; i < n; i += 32) dynamic[i] = static_cast<float>(i);
  __syncthreads();
  out[threadIdx.x] = dynamic[threadIdx.x];
}

// The declared alignment is all that dynamic shared memory gets.
__global__ void SharedAlignmentKernel(uint32_t* out) {
  extern __shared__ __align__(128) unsigned char aligned_dynamic[];
  *out = SharedAddress(aligned_dynamic);
}

// A kernel parameter of 8,000 bytes.
__global__ void LargeParameterKernel(const __grid_constant__ LargeParameter p, int* out) {
  out[threadIdx.x] = p.values[threadIdx.x * 50];
}

__global__ void BankConflictKernel(float* out, int stride) {
  __shared__ float tile[32 * 32];
  for (int i = 0; i < 32; ++i) tile[threadIdx.x * stride % 1024] = 1;
  __syncthreads();
  out[threadIdx.x * 8] = tile[threadIdx.x * stride % 1024];
}

// --- cp.async ------------------------------------------------------------------------------------

// 32 lanes copy 16 bytes each, of which `valid` come from memory. kBroken: 0 right, 1 no wait, 2 no
// commit, 3 no wait at all before the end, 4 read by the neighbour without a barrier.
template <int kBroken>
__global__ void CpAsyncKernel(const uint32_t* in, uint32_t* out, int valid) {
  __shared__ alignas(16) uint32_t tile[128];
  const uint32_t lane = threadIdx.x;
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(tile + lane * 4)),
      "l"(in + lane * 4), "r"(valid)
      : "memory");
  if constexpr (kBroken != 2) asm volatile("cp.async.commit_group;" ::: "memory");
  if constexpr (kBroken == 0 || kBroken == 2 || kBroken == 4) {
    asm volatile("cp.async.wait_group 0;" ::: "memory");
  }
  if constexpr (kBroken == 1) asm volatile("cp.async.wait_group 1;" ::: "memory");
  if constexpr (kBroken == 3) return;
  if constexpr (kBroken != 4) __syncthreads();
  for (uint32_t i = 0; i < 4; ++i) out[lane * 4 + i] = tile[((lane ^ 1) * 4 + i) % 128];
  if constexpr (kBroken == 1) asm volatile("cp.async.wait_all;" ::: "memory");
}

// --- TMA -----------------------------------------------------------------------------------------

// Box [8 rows, 64 columns] of bf16 at (column, row), then the 1,024 bytes as they lie in shared
// memory. kBroken: 0 right, 1 wrong parity, 2 too many bytes expected, 3 no wait, 4 no
// fence.mbarrier_init, 5 a thread uses the mbarrier before it is initialised.
template <int kBroken>
__global__ void TmaLoadKernel(const __grid_constant__ CUtensorMap map, uint16_t* out, int column,
                              int row) {
#if defined(FEDUMM_SM90)
  __shared__ alignas(1024) uint16_t tile[512];
  __shared__ alignas(8) uint64_t barrier;
  const uint32_t bar = SharedAddress(&barrier);
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(bar) : "memory");
    if constexpr (kBroken != 4) asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  if constexpr (kBroken != 5) __syncthreads();
  if (threadIdx.x == 0) {
    const uint32_t bytes = kBroken == 2 ? 2048 : 1024;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes)
                 : "memory");
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3}], [%4];" ::"r"(SharedAddress(tile)),
        "l"(&map), "r"(column), "r"(row), "r"(bar)
        : "memory");
  }
  const uint32_t parity = kBroken == 1 ? 1 : 0;
  if constexpr (kBroken != 3) {
    asm volatile(
        "{\n.reg .pred p;\nWAIT:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
        "@p bra DONE;\nbra WAIT;\nDONE:\n}" ::"r"(bar),
        "r"(parity)
        : "memory");
  }
  for (int i = threadIdx.x; i < 512; i += 64) out[i] = tile[i];
#endif
}

// Writes a tile, fences, and stores it by TMA. kBroken: 0 right, 1 no proxy fence, 2 no commit and
// wait, 3 writes the tile again before the wait.
template <int kBroken>
__global__ void TmaStoreKernel(const __grid_constant__ CUtensorMap map, int column, int row) {
#if defined(FEDUMM_SM90)
  __shared__ alignas(1024) uint16_t tile[512];
  for (int i = threadIdx.x; i < 512; i += 64) tile[i] = static_cast<uint16_t>(i);
  if constexpr (kBroken != 1) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  __syncthreads();
  if (threadIdx.x != 0) return;
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(&map),
      "r"(column), "r"(row), "r"(SharedAddress(tile))
      : "memory");
  if constexpr (kBroken == 2) return;
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
  if constexpr (kBroken == 3) tile[0] = 1;
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
  tile[1] = 7;
#endif
}

// --- wgmma ---------------------------------------------------------------------------------------

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FEDUMM_SM90A 1
#endif

// d[64, 8] = a b with a in shared memory as bytes_a, b as bytes_b, which the test lays out; the
// descriptors but for their start addresses come from the test. kBroken: 0 right, 1 no
// wgmma.fence, 2 no commit, 3 no wait, 4 no proxy fence, 5 no barrier after the fill.
template <int kTransposeA, int kTransposeB, int kBroken>
__global__ void WgmmaKernel(const uint32_t* bytes_a, const uint32_t* bytes_b, uint64_t desc_a,
                            uint64_t desc_b, float* d) {
#if defined(FEDUMM_SM90A)
  __shared__ alignas(1024) uint32_t a[2048];  // 8 KB
  __shared__ alignas(1024) uint32_t b[2048];
  for (int i = threadIdx.x; i < 2048; i += 128) a[i] = bytes_a[i], b[i] = bytes_b[i];
  if constexpr (kBroken != 4) asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
  if constexpr (kBroken != 5) __syncthreads();
  desc_a |= SharedAddress(a) >> 4;
  desc_b |= SharedAddress(b) >> 4;
  float s[4];
  if constexpr (kBroken != 1) asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, 0, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0, %1, %2, %3}, %4, %5, p, 1, 1, %6, "
      "%7;\n}"
      : "=f"(s[0]), "=f"(s[1]), "=f"(s[2]), "=f"(s[3])
      : "l"(desc_a), "l"(desc_b), "n"(kTransposeA), "n"(kTransposeB)
      : "memory");
  if constexpr (kBroken != 2) asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  if constexpr (kBroken != 3) asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  const int t = threadIdx.x, row = t / 32 * 16 + t % 32 / 4, column = t % 4 * 2;
  for (int i = 0; i < 4; ++i) d[(row + i / 2 * 8) * 8 + column + i % 2] = s[i];
#endif
}

bool MakeMap(uint16_t* data, int64_t columns, int64_t rows, int64_t stride, int swizzle,
             CUtensorMap* map) {
  using Encode =
      CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                   const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                   CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
  void* encode = nullptr;
  cudaDriverEntryPointQueryResult found;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &encode, 12000, cudaEnableDefault,
                                       &found) != cudaSuccess) {
    return false;
  }
  const cuuint64_t size[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t pitch[1] = {static_cast<cuuint64_t>(stride) * 2};
  const cuuint32_t box[2] = {64, 8}, step[2] = {1, 1};
  return reinterpret_cast<Encode>(encode)(
             map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, data, size, pitch, box, step,
             CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(swizzle),
             CU_TENSOR_MAP_L2_PROMOTION_NONE, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace device

using namespace device;  // NOLINT

// --- Host ----------------------------------------------------------------------------------------

int IntegerOps(const int* in, int* out) {
  IntegerOpsKernel<<<1, 1>>>(in, out);
  return Finish();
}
int FloatOps(const float* in, uint32_t* out) {
  FloatOpsKernel<<<1, 1>>>(in, out);
  return Finish();
}
int WarpOps(int* out) {
  WarpOpsKernel<<<1, 32>>>(out);
  return Finish();
}
int LocalMemory(const int* in, int* out) {
  LocalMemoryKernel<<<1, 32>>>(in, out);
  return Finish();
}
int Mma(int type, const uint32_t* a, const uint32_t* b, float* d) {
  if (type == 0) MmaKernel<0><<<1, 32>>>(a, b, d);
  if (type == 1) MmaKernel<1><<<1, 32>>>(a, b, d);
  if (type == 2) MmaKernel<2><<<1, 32>>>(a, b, d);
  return Finish();
}
int LoadMatrix(bool trans, uint32_t* out) {
  if (trans)
    LoadMatrixKernel<true><<<1, 32>>>(out);
  else
    LoadMatrixKernel<false><<<1, 32>>>(out);
  return Finish();
}
int StoreMatrix(uint16_t* out) {
  StoreMatrixKernel<<<1, 32>>>(out);
  return Finish();
}
int HandOver(int broken, const float* in, float* out) {
  if (broken == 0) HandOverKernel<0><<<1, 64>>>(in, out);
  if (broken == 1) HandOverKernel<1><<<1, 64>>>(in, out);
  if (broken == 2) HandOverKernel<2><<<1, 64>>>(in, out);
  if (broken == 3) HandOverKernel<3><<<1, 64>>>(in, out);
  return Finish();
}
int SyncWarp(bool sync, int* out) {
  if (sync)
    SyncWarpKernel<true><<<1, 32>>>(out);
  else
    SyncWarpKernel<false><<<1, 32>>>(out);
  return Finish();
}
int Reuse(bool second_barrier, int* out) {
  if (second_barrier)
    ReuseKernel<true><<<1, 64>>>(out);
  else
    ReuseKernel<false><<<1, 64>>>(out);
  return Finish();
}
int EarlyExit(int* out) {
  EarlyExitKernel<<<1, 128>>>(out);
  return Finish();
}
int DivergedBarrier(int* out) {
  DivergedBarrierKernel<<<1, 32>>>(out);
  return Finish();
}
int ClusterSum(bool sync, const float* in, float* out) {
  cudaLaunchAttribute attribute;
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {4, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(4);
  config.blockDim = dim3(32);
  config.attrs = &attribute;
  config.numAttrs = 1;
  if (sync)
    cudaLaunchKernelEx(&config, ClusterSumKernel<true>, in, out);
  else
    cudaLaunchKernelEx(&config, ClusterSumKernel<false>, in, out);
  return Finish();
}
int Copy(const float* in, float* out, int n, int shift) {
  CopyKernel<<<(n + 63) / 64, 64>>>(in, out, n, shift);
  return Finish();
}
int Copy16(const void* in, void* out) {
  Copy16Kernel<<<1, 32>>>(static_cast<const uint4*>(in), static_cast<uint4*>(out));
  return Finish();
}
int SameElement(float* out) {
  SameElementKernel<<<1, 32>>>(out);
  return Finish();
}
int ReadBack(float* out) {
  ReadBackKernel<<<1, 64>>>(out);
  return Finish();
}
int UninitialisedShared(float* out) {
  UninitialisedSharedKernel<<<1, 64>>>(out);
  return Finish();
}
int SharedBounds(float* out, int n, int bytes, int allowed) {
  if (allowed > 0) {
    const cudaError_t error = cudaFuncSetAttribute(
        SharedBoundsKernel, cudaFuncAttributeMaxDynamicSharedMemorySize, allowed);
    if (error != cudaSuccess) return static_cast<int>(cudaGetLastError());
  }
  SharedBoundsKernel<<<1, 32, static_cast<size_t>(bytes)>>>(out, n);
  return Finish();
}
int SharedAlignment(uint32_t* out) {
  SharedAlignmentKernel<<<1, 1, 256>>>(out);
  return Finish();
}
int LargeParameterSum(const LargeParameter& p, int* out) {
  LargeParameterKernel<<<1, 32>>>(p, out);
  return Finish();
}
int BankConflict(float* out, int stride) {
  BankConflictKernel<<<1, 32>>>(out, stride);
  return Finish();
}
int CpAsync(int broken, const uint32_t* in, uint32_t* out, int valid) {
  if (broken == 0) CpAsyncKernel<0><<<1, 32>>>(in, out, valid);
  if (broken == 1) CpAsyncKernel<1><<<1, 32>>>(in, out, valid);
  if (broken == 2) CpAsyncKernel<2><<<1, 32>>>(in, out, valid);
  if (broken == 3) CpAsyncKernel<3><<<1, 32>>>(in, out, valid);
  if (broken == 4) CpAsyncKernel<4><<<1, 32>>>(in, out, valid);
  return Finish();
}
int TmaLoad(int broken, uint16_t* data, int64_t columns, int64_t rows, int64_t stride, int swizzle,
            int column, int row, uint16_t* out) {
  CUtensorMap map;
  if (!MakeMap(data, columns, rows, stride, swizzle, &map)) return -1;
  if (broken == 0) TmaLoadKernel<0><<<1, 64>>>(map, out, column, row);
  if (broken == 1) TmaLoadKernel<1><<<1, 64>>>(map, out, column, row);
  if (broken == 2) TmaLoadKernel<2><<<1, 64>>>(map, out, column, row);
  if (broken == 3) TmaLoadKernel<3><<<1, 64>>>(map, out, column, row);
  if (broken == 4) TmaLoadKernel<4><<<1, 64>>>(map, out, column, row);
  if (broken == 5) TmaLoadKernel<5><<<1, 64>>>(map, out, column, row);
  return Finish();
}
int TmaStore(int broken, uint16_t* data, int64_t columns, int64_t rows, int64_t stride, int column,
             int row) {
  CUtensorMap map;
  if (!MakeMap(data, columns, rows, stride, 0, &map)) return -1;
  if (broken == 0) TmaStoreKernel<0><<<1, 64>>>(map, column, row);
  if (broken == 1) TmaStoreKernel<1><<<1, 64>>>(map, column, row);
  if (broken == 2) TmaStoreKernel<2><<<1, 64>>>(map, column, row);
  if (broken == 3) TmaStoreKernel<3><<<1, 64>>>(map, column, row);
  return Finish();
}
int Wgmma(bool transpose_a, bool transpose_b, int broken, const uint32_t* a, const uint32_t* b,
          uint64_t desc_a, uint64_t desc_b, float* d) {
  if (broken == 1)
    WgmmaKernel<0, 0, 1><<<1, 128>>>(a, b, desc_a, desc_b, d);
  else if (broken == 2)
    WgmmaKernel<0, 0, 2><<<1, 128>>>(a, b, desc_a, desc_b, d);
  else if (broken == 3)
    WgmmaKernel<0, 0, 3><<<1, 128>>>(a, b, desc_a, desc_b, d);
  else if (broken == 4)
    WgmmaKernel<0, 0, 4><<<1, 128>>>(a, b, desc_a, desc_b, d);
  else if (broken == 5)
    WgmmaKernel<0, 0, 5><<<1, 128>>>(a, b, desc_a, desc_b, d);
  else if (transpose_a && transpose_b)
    WgmmaKernel<1, 1, 0><<<1, 128>>>(a, b, desc_a, desc_b, d);
  else if (transpose_a)
    WgmmaKernel<1, 0, 0><<<1, 128>>>(a, b, desc_a, desc_b, d);
  else if (transpose_b)
    WgmmaKernel<0, 1, 0><<<1, 128>>>(a, b, desc_a, desc_b, d);
  else
    WgmmaKernel<0, 0, 0><<<1, 128>>>(a, b, desc_a, desc_b, d);
  return Finish();
}

}  // namespace fedumm::cuda_machine_test
