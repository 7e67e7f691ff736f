// The PTX instructions that the kernels use beyond CUDA C++, one thin function each. Sections are
// those of the PTX ISA 9.0. Addresses of shared memory are 32-bit shared-window addresses.
#pragma once

#include <cuda.h>  // CUtensorMap
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace fedumm::kernels::ptx {

// The start of the dynamic shared memory of the block, aligned to 1024 bytes as TMA's 128-byte
// swizzle requires.
__device__ __forceinline__ uint32_t SharedBase() {
  extern __shared__ __align__(1024) unsigned char fedumm_dynamic_shared[];
  return static_cast<uint32_t>(__cvta_generic_to_shared(fedumm_dynamic_shared));
}

// --- Shared memory: ld, st (9.7.9.8, 9.7.9.12)

template <typename T>
__device__ __forceinline__ T LoadShared(uint32_t address) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "");
  T value;
  if constexpr (sizeof(T) == 2) {
    asm volatile("ld.shared.u16 %0, [%1];"
                 : "=h"(reinterpret_cast<uint16_t&>(value))
                 : "r"(address)
                 : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("ld.shared.u32 %0, [%1];"
                 : "=r"(reinterpret_cast<uint32_t&>(value))
                 : "r"(address)
                 : "memory");
  } else if constexpr (sizeof(T) == 8) {
    auto& v = reinterpret_cast<uint2&>(value);
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "r"(address)
                 : "memory");
  } else {
    auto& v = reinterpret_cast<uint4&>(value);
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(address)
                 : "memory");
  }
  return value;
}

template <typename T>
__device__ __forceinline__ void StoreShared(uint32_t address, T value) {
  static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16, "");
  if constexpr (sizeof(T) == 2) {
    asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(reinterpret_cast<uint16_t&>(value))
                 : "memory");
  } else if constexpr (sizeof(T) == 4) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(reinterpret_cast<uint32_t&>(value))
                 : "memory");
  } else if constexpr (sizeof(T) == 8) {
    auto& v = reinterpret_cast<uint2&>(value);
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(v.x), "r"(v.y) : "memory");
  } else {
    auto& v = reinterpret_cast<uint4&>(value);
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
  }
}

// --- Global memory: st (9.7.9.12)

// One instruction a vector. nvcc splits an assignment of one whose other branch stores single
// elements, because it merges the stores that both have in common.
__device__ __forceinline__ void StoreGlobal(void* address, uint2 v) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(address)),
               "r"(v.x), "r"(v.y)
               : "memory");
}
__device__ __forceinline__ void StoreGlobal(void* address, uint4 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(address)),
               "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w)
               : "memory");
}
__device__ __forceinline__ void StoreGlobal(void* address, float2 v) {
  StoreGlobal(address, make_uint2(__float_as_uint(v.x), __float_as_uint(v.y)));
}
__device__ __forceinline__ void StoreGlobal(void* address, float4 v) {
  StoreGlobal(address, make_uint4(__float_as_uint(v.x), __float_as_uint(v.y), __float_as_uint(v.z),
                                  __float_as_uint(v.w)));
}

// --- cp.async (9.7.9.25.3)

// Copies `valid` bytes from global memory and writes zeros to the rest of kBytes. Both addresses
// are aligned to kBytes.
template <int kBytes>
__device__ __forceinline__ void CpAsync(uint32_t to, const void* from, int valid) {
  static_assert(kBytes == 4 || kBytes == 8 || kBytes == 16, "");
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(from), "n"(kBytes),
                 "r"(valid)
                 : "memory");
  }
}
__device__ __forceinline__ void CpAsyncCommit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void CpAsyncWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// --- ldmatrix (9.7.14.5.15)

// Four 8x8 matrices of 16-bit elements; lane 8 i + j gives the address of row j of matrix i.
__device__ __forceinline__ void LdmatrixX4(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void LdmatrixX4Trans(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
// --- mma.sync (9.7.14.5.14): d += a b

// m16n8k16 of bf16 or fp16 (T), sums in float.
template <typename T>
__device__ __forceinline__ void Mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                    uint32_t b1) {
  if constexpr (sizeof(T) == 2 && __is_same(T, __nv_bfloat16)) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    static_assert(__is_same(T, __half), "");
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}
// --- cvt (9.7.9.21): two floats rounded to nearest, the first in the low half

template <typename T>
__device__ __forceinline__ uint32_t Pack(float low, float high) {
  uint32_t packed;
  if constexpr (__is_same(T, __nv_bfloat16)) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  } else {
    static_assert(__is_same(T, __half), "");
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  }
  return packed;
}

// --- Named barriers: bar (9.7.13.1); `threads` is a multiple of 32

__device__ __forceinline__ void BarSync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900

// --- mbarrier (9.7.13.15)

__device__ __forceinline__ void MBarInit(uint32_t barrier, int count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
__device__ __forceinline__ void MBarArrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void MBarArriveExpectTx(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
// Waits for the end of the phase with this parity; the phase before the first has parity 1.
__device__ __forceinline__ void MBarWait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{ .reg .pred p;\n"
      "WAIT: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
      "@!p bra WAIT; }\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

// --- Fences: membar / fence (9.7.13.4)

// After MBarInit, before others use the barriers.
__device__ __forceinline__ void FenceMBarInit() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Between ordinary writes of shared memory and the barrier after which TMA or wgmma read them.
__device__ __forceinline__ void FenceProxyAsync() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- TMA: cp.async.bulk.tensor (9.7.9.27.1.2)

// A box to shared memory; its bytes count on `barrier`. c0 is the column, c1 the row.
__device__ __forceinline__ void TmaLoad2d(uint32_t to, const CUtensorMap* map, uint32_t barrier,
                                          int c0, int c1) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(c0), "r"(c1)
      : "memory");
}
#endif

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)

// --- setmaxnreg (9.7.19.5); kRegisters is a multiple of 8, the same for the warp group

template <int kRegisters>
__device__ __forceinline__ void RegistersDown() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void RegistersUp() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- wgmma (9.7.15)

__device__ __forceinline__ void WgmmaFence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void WgmmaCommit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void WgmmaWait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Matrix descriptors (9.7.15.5.1) of tiles that TMA wrote with the 128-byte swizzle, aligned to
// 1024 bytes: rows of 128 bytes, 8 rows make a group of 1024 bytes.
// K-major: a row holds 64 elements of the contraction; 16 elements further is 32 bytes.
__device__ __forceinline__ uint64_t DescriptorK(uint32_t address) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
// MN-major: a row holds 64 elements of N at one place of the contraction, and the next 64 elements
// of N are `block` bytes further; 16 places further is 2048 bytes.
__device__ __forceinline__ uint64_t DescriptorMn(uint32_t address, uint32_t block) {
  return uint64_t{(address & 0x3ffff) >> 4} | uint64_t{block >> 4} << 16 |
         uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}

#define FEDUMM_D8(i)                                                                          \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FEDUMM_D64(i)                                                                      \
  FEDUMM_D8(i), FEDUMM_D8(i + 8), FEDUMM_D8(i + 16), FEDUMM_D8(i + 24), FEDUMM_D8(i + 32), \
      FEDUMM_D8(i + 40), FEDUMM_D8(i + 48), FEDUMM_D8(i + 56)
#define FEDUMM_R64                                                              \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
  "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
  "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
  "%62, "
#define FEDUMM_R128                                                                \
  FEDUMM_R64                                                                       \
  "%63, "                                                                          \
  "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, "    \
  "%79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, "    \
  "%94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, " \
  "%108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, " \
  "%121, %122, %123, %124, %125, %126, "
#define FEDUMM_WGMMA_N128(TYPE)                                                    \
  asm volatile(                                                                    \
      "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"                                   \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." TYPE "." TYPE " {" FEDUMM_R64 \
      "%63}, %64, %65, p, 1, 1, 0, %67; }\n"                                       \
      : FEDUMM_D64(0)                                                              \
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kMnMajor ? 1 : 0))
#define FEDUMM_WGMMA_N256(TYPE)                                                     \
  asm volatile(                                                                     \
      "{ .reg .pred p; setp.ne.b32 p, %130, 0;\n"                                   \
      "wgmma.mma_async.sync.aligned.m64n256k16.f32." TYPE "." TYPE " {" FEDUMM_R128 \
      "%127}, %128, %129, p, 1, 1, 0, %131; }\n"                                    \
      : FEDUMM_D64(0), FEDUMM_D64(64)                                               \
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(kMnMajor ? 1 : 0))

// m64nNk16 with N = 2 kSize: d = a b, or d += a b if `accumulate`; a is K-major, b is MN-major if
// kMnMajor. All 128 threads of the warp group take part; d is not touched before WgmmaWait.
template <typename T, bool kMnMajor, int kSize>
__device__ __forceinline__ void Wgmma(float (&d)[kSize], uint64_t a, uint64_t b, bool accumulate) {
  static_assert(kSize == 64 || kSize == 128, "");
  if constexpr (kSize == 64 && __is_same(T, __nv_bfloat16)) {
    FEDUMM_WGMMA_N128("bf16");
  } else if constexpr (kSize == 64) {
    static_assert(__is_same(T, __half), "");
    FEDUMM_WGMMA_N128("f16");
  } else if constexpr (__is_same(T, __nv_bfloat16)) {
    FEDUMM_WGMMA_N256("bf16");
  } else {
    static_assert(__is_same(T, __half), "");
    FEDUMM_WGMMA_N256("f16");
  }
}

#undef FEDUMM_D8
#undef FEDUMM_D64
#undef FEDUMM_R64
#undef FEDUMM_R128
#undef FEDUMM_WGMMA_N128
#undef FEDUMM_WGMMA_N256

#endif

}  // namespace fedumm::kernels::ptx
