// Launchers of the kernels in machine_kernels.cu. Each returns the cudaError_t after its launch.
#pragma once

#include <cstdint>

namespace fedumm::cuda_machine_test {

struct LargeParameter {
  int values[2000];
};

int IntegerOps(const int* in, int* out);
int FloatOps(const float* in, uint32_t* out);
int WarpOps(int* out);
int LocalMemory(const int* in, int* out);
int Mma(int type, const uint32_t* a, const uint32_t* b, float* d);
int LoadMatrix(bool trans, uint32_t* out);
int StoreMatrix(uint16_t* out);
int HandOver(int broken, const float* in, float* out);
int SyncWarp(bool sync, int* out);
int Reuse(bool second_barrier, int* out);
int EarlyExit(int* out);
int DivergedBarrier(int* out);
int ClusterSum(bool sync, const float* in, float* out);
int Copy(const float* in, float* out, int n, int shift);
int Copy16(const void* in, void* out);
int SameElement(float* out);
int ReadBack(float* out);
int UninitialisedShared(float* out);
int SharedBounds(float* out, int n, int bytes, int allowed);
int SharedAlignment(uint32_t* out);
int LargeParameterSum(const LargeParameter& p, int* out);
int BankConflict(float* out, int stride);
int CpAsync(int broken, const uint32_t* in, uint32_t* out, int valid);
int TmaLoad(int broken, uint16_t* data, int64_t columns, int64_t rows, int64_t stride, int swizzle,
            int column, int row, uint16_t* out);
int TmaStore(int broken, uint16_t* data, int64_t columns, int64_t rows, int64_t stride, int column,
             int row);
int Wgmma(bool transpose_a, bool transpose_b, int broken, const uint32_t* a, const uint32_t* b,
          uint64_t desc_a, uint64_t desc_b, float* d);

}  // namespace fedumm::cuda_machine_test
