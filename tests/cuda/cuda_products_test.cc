// What LoraLinear computes on a CUDA device, against LibTorch's own operations: LibTorch's memory
// is that of the emulated device.
#include <ATen/TensorOperators.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>

#include <memory>
#include <tuple>
#include <vector>

#include "model/lora/low_rank_products.h"
#include "tests/cuda/machine/fixture.h"

namespace fedumm::model {
namespace {

using cuda_machine::DeviceMemory;

class DeviceAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, c10::Device(c10::kCPU)};
    auto* const memory = new DeviceMemory(bytes, "tensor");
    memory->MarkInitialised(0, bytes);
    return {memory->data(), memory, &Free, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static void Free(void* memory) { delete static_cast<DeviceMemory*>(memory); }
};

// Number of segments, dropout, dtype, major version of the compute capability.
class CudaProductsTest
    : public cuda_machine::MachineTest,
      public ::testing::WithParamInterface<std::tuple<int, double, at::ScalarType, int>> {
 protected:
  static void SetUpTestSuite() {
    static DeviceAllocator allocator;
    c10::SetCPUAllocator(&allocator, /*priority=*/100);
  }

  static constexpr int64_t kIn = 40;
  static constexpr int64_t kOut[] = {24, 16, 33};
  static constexpr int64_t kRows[] = {21, 0, 70};

  // The second linear has no adapter, and of the last segment the third neither.
  AdapterGroup Group(int64_t* rows) const {
    const auto [segments, dropout, dtype, major] = GetParam();
    AdapterGroup group{.dropout = dropout};
    for (int segment = 0; segment < segments; ++segment) {
      group.segments.push_back(
          {.rows = kRows[segment], .dropout_key = uint64_t{77} + static_cast<uint64_t>(segment)});
      *rows += kRows[segment];
    }
    for (size_t i = 0; i < 3; ++i) {
      AdaptedLinear linear{.weight = at::randn({kOut[i], kIn}, dtype),
                           .bias = i == 0 ? at::randn({kOut[i]}, dtype) : at::Tensor()};
      for (int segment = 0; segment < segments; ++segment) {
        Factors factors;
        const int64_t rank =
            i == 1 || (i == 2 && segment == 2) ? 0 : 3 + 5 * segment + static_cast<int64_t>(i);
        if (rank > 0) {
          // Multiples of 1/8, which bfloat16 holds: rounding them tells nothing.
          factors.a = (at::randn({rank, kIn}) * 8).round() / 8;
          factors.b = (at::randn({kOut[i], rank}) * 8).round() / 8;
          factors.a.mutable_grad() = at::randn({rank, kIn});
          factors.b.mutable_grad() = at::randn({kOut[i], rank});
        }
        factors.scale = 0.5 / (1 - dropout);
        linear.factors.push_back(factors);
      }
      group.linears.push_back(linear);
    }
    for (int segment = 0; segment < segments; ++segment) {
      int64_t column = 0;
      for (AdaptedLinear& linear : group.linears) {
        linear.factors[static_cast<size_t>(segment)].column = column;
        column += linear.factors[static_cast<size_t>(segment)].rank();
      }
      group.ranks = std::max(group.ranks, column);
    }
    return group;
  }

  struct Results {
    std::vector<at::Tensor> tensors;
  };
  static Results Run(const LowRankProducts& products, AdapterGroup group, const at::Tensor& x,
                     const std::vector<at::Tensor>& dy) {
    for (AdaptedLinear& linear : group.linears) {
      for (Factors& factors : linear.factors) {
        if (factors.rank() == 0) continue;
        const auto copy = [](const at::Tensor& tensor) {
          at::Tensor copied = tensor.detach().clone();
          copied.mutable_grad() = tensor.grad().clone();
          return copied;
        };
        factors.a = copy(factors.a);
        factors.b = copy(factors.b);
      }
    }
    Results results;
    products.Prepare(&group, x.scalar_type());
    at::Tensor mask;
    const at::Tensor s = products.Shrink(group, x, &mask);
    results.tensors = products.Outputs(group, x, s);
    const at::Tensor ds = products.GradSB(group, dy, s);
    products.AddGradA(group, x, mask, ds);
    results.tensors.push_back(products.GradX(group, dy, ds, mask));
    for (const AdaptedLinear& linear : group.linears) {
      for (const Factors& factors : linear.factors) {
        if (factors.rank() == 0) continue;
        results.tensors.push_back(factors.a.grad());
        results.tensors.push_back(factors.b.grad());
      }
    }
    return results;
  }
};

TEST_P(CudaProductsTest, EqualThoseOfLibTorch) {
  const auto [segments, dropout, dtype, major] = GetParam();
  cuda_machine::SetDevice(major);
  at::manual_seed(4);
  int64_t rows = 0;
  const AdapterGroup group = Group(&rows);
  const at::Tensor x = at::randn({rows, kIn}, dtype);
  // The second output was not used.
  const std::vector<at::Tensor> dy = {at::randn({rows, kOut[0]}, dtype), at::Tensor(),
                                      at::randn({rows, kOut[2]}, dtype)};
  const Results expected = Run(ComposedProducts(), group, x, dy);
  const Results actual = Run(CudaProducts(), group, x, dy);
  cuda_machine::ExpectClean();
  const double tolerance = dtype == at::kFloat ? 2e-6 : dtype == at::kHalf ? 2e-3 : 1.2e-2;
  ASSERT_EQ(actual.tensors.size(), expected.tensors.size());
  for (size_t i = 0; i < actual.tensors.size(); ++i) {
    ASSERT_EQ(actual.tensors[i].sizes(), expected.tensors[i].sizes());
    const at::Tensor difference =
        (actual.tensors[i].to(at::kDouble) - expected.tensors[i].to(at::kDouble));
    EXPECT_LE(difference.norm().item<double>(),
              tolerance * expected.tensors[i].to(at::kDouble).norm().item<double>())
        << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, CudaProductsTest,
                         ::testing::Combine(::testing::Values(1, 3), ::testing::Values(0.0, 0.3),
                                            ::testing::Values(at::kFloat, at::kBFloat16, at::kHalf),
                                            ::testing::Values(8, 9)));

}  // namespace
}  // namespace fedumm::model
