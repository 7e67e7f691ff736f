#include "model/lora/dropout_mask.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include <vector>

#include "kernels/philox.h"

namespace fedumm::model {
namespace {

constexpr int64_t kColumnsPerDraw = 8;  // that share one draw of 128 bits
constexpr int64_t kLow = 0xffffffff;

// The halves of the 64-bit products of 32-bit numbers, which LibTorch's signed ones wrap.
struct Product {
  at::Tensor high;
  at::Tensor low;
};
Product Multiply(const at::Tensor& x, uint32_t factor) {
  const at::Tensor product = x * static_cast<int64_t>(factor);
  return {product.bitwise_right_shift(32).bitwise_and_(kLow), product.bitwise_and(kLow)};
}

}  // namespace

at::Tensor DropoutMask(int64_t rows, int64_t columns, at::Device device, double probability,
                       uint64_t key) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  if (device.is_meta()) return at::empty({rows, columns}, options.dtype(at::kBool));
  const int64_t groups = (columns + kColumnsPerDraw - 1) / kColumnsPerDraw;
  at::Tensor c0 = at::arange(groups, options).expand({rows, groups});
  at::Tensor c1 = at::arange(rows, options).unsqueeze(1).expand({rows, groups});
  at::Tensor c2 = at::zeros({rows, groups}, options);
  at::Tensor c3 = c2;
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < kernels::kPhiloxRounds; ++round) {
    const Product first = Multiply(c0, kernels::kPhiloxFactor0);
    const Product second = Multiply(c2, kernels::kPhiloxFactor1);
    c0 = second.high.bitwise_xor(c1).bitwise_xor(static_cast<int64_t>(k0));
    c1 = second.low;
    c2 = first.high.bitwise_xor(c3).bitwise_xor(static_cast<int64_t>(k1));
    c3 = first.low;
    k0 += kernels::kPhiloxKeyStep0;
    k1 += kernels::kPhiloxKeyStep1;
  }
  std::vector<at::Tensor> lanes;
  for (const at::Tensor& word : {c0, c1, c2, c3}) {
    lanes.push_back(word.bitwise_and(0xffff));
    lanes.push_back(word.bitwise_right_shift(16));
  }
  const at::Tensor numbers = at::stack(lanes, 2).view({rows, groups * kColumnsPerDraw});
  return numbers.narrow(1, 0, columns)
      .ge(static_cast<int64_t>(kernels::DropoutThreshold(probability)));
}

}  // namespace fedumm::model
