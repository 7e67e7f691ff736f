// The CUDA products against the CPU reference. Needs a device; skips without one.
#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "fedumm/kernels.h"
#include "lora_fixture.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::kernels {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::LoraCase;

// Truncates to the nearest bfloat16 (ties to even).
BFloat16 ToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  bits += 0x7fffu + ((bits >> 16) & 1);
  return {static_cast<uint16_t>(bits >> 16)};
}
float ToFloat(BFloat16 value) {
  const uint32_t bits = uint32_t{value.bits} << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}
float ToFloat(float value) { return value; }
template <typename T>
T FromFloat(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    return ToBFloat16(value);
  }
}

// A copy of host values in device memory.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(const std::vector<float>& values) : size_(values.size()) {
    std::vector<T> host(size_);
    for (size_t i = 0; i < size_; ++i) host[i] = FromFloat<T>(values[i]);
    EXPECT_EQ(cudaMalloc(reinterpret_cast<void**>(&data_), Bytes() + 1), cudaSuccess);
    EXPECT_EQ(cudaMemcpy(data_, host.data(), Bytes(), cudaMemcpyHostToDevice), cudaSuccess);
  }
  ~DeviceBuffer() { cudaFree(data_); }
  DeviceBuffer(const DeviceBuffer&) = delete;
  DeviceBuffer& operator=(const DeviceBuffer&) = delete;

  T* data() { return data_; }
  std::vector<float> ToHost() const {
    std::vector<T> host(size_);
    EXPECT_EQ(cudaMemcpy(host.data(), data_, Bytes(), cudaMemcpyDeviceToHost), cudaSuccess);
    std::vector<float> values(size_);
    for (size_t i = 0; i < size_; ++i) values[i] = ToFloat(host[i]);
    return values;
  }

 private:
  size_t Bytes() const { return size_ * sizeof(T); }
  size_t size_;
  T* data_ = nullptr;
};

// Largest difference relative to the root mean square of `want`.
double Error(const std::vector<float>& got, const std::vector<float>& want) {
  double square = 0;
  double largest = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    square += double{want[i]} * want[i];
    const double difference = std::fabs(double{got[i]} - want[i]);
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
  }
  return largest == 0 ? 0 : largest / std::sqrt(square / want.size());
}

class LoraCudaSizesTest : public ::testing::TestWithParam<testing::LoraSize> {
 protected:
  template <typename T>
  void CheckAll(double tolerance) {
    if (CudaDeviceCount() == 0) GTEST_SKIP() << "no CUDA device";
    const LoraCase c(GetParam());
    DeviceBuffer<T> x(c.x), a(c.a), b(c.b), s(c.s), ds(c.ds), dy(c.dy), y(c.y), dx(c.dx);
    const auto poisoned = [](int64_t n) { return std::vector<float>(n, std::nanf("")); };
    DeviceBuffer<T> got_s(poisoned(c.m * c.r)), got_ds(poisoned(c.m * c.r)),
        got_db(poisoned(c.n * c.r)), got_da(poisoned(c.r * c.k));
    ASSERT_THAT(LoraShrinkCuda(c.m, c.k, c.r, c.scale, x.data(), a.data(), got_s.data(), nullptr),
                IsOk());
    EXPECT_LE(Error(got_s.ToHost(), c.WantS()), tolerance);
    ASSERT_THAT(LoraExpandAddCuda(c.m, c.n, c.r, s.data(), b.data(), y.data(), nullptr), IsOk());
    EXPECT_LE(Error(y.ToHost(), c.WantY()), tolerance);
    ASSERT_THAT(LoraGradSCuda(c.m, c.n, c.r, c.scale, dy.data(), b.data(), got_ds.data(), nullptr),
                IsOk());
    EXPECT_LE(Error(got_ds.ToHost(), c.WantGradS()), tolerance);
    ASSERT_THAT(LoraGradBCuda(c.m, c.n, c.r, dy.data(), s.data(), got_db.data(), nullptr), IsOk());
    EXPECT_LE(Error(got_db.ToHost(), c.WantGradB()), tolerance);
    ASSERT_THAT(LoraGradACuda(c.m, c.k, c.r, ds.data(), x.data(), got_da.data(), nullptr), IsOk());
    EXPECT_LE(Error(got_da.ToHost(), c.WantGradA()), tolerance);
    ASSERT_THAT(LoraGradXAddCuda(c.m, c.k, c.r, ds.data(), a.data(), dx.data(), nullptr), IsOk());
    EXPECT_LE(Error(dx.ToHost(), c.WantGradX()), tolerance);
  }
};

TEST_P(LoraCudaSizesTest, FloatMatchesPlainLoops) { CheckAll<float>(2e-5); }
TEST_P(LoraCudaSizesTest, BFloat16MatchesPlainLoops) { CheckAll<BFloat16>(5e-2); }

INSTANTIATE_TEST_SUITE_P(Sizes, LoraCudaSizesTest, ::testing::ValuesIn(testing::kLoraSizes),
                         ::testing::PrintToStringParamName());

}  // namespace
}  // namespace fedumm::kernels
