#include "model/lora/dropout_mask.h"

#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

#include <vector>

#include "fedumm/kernels.h"

namespace fedumm::model {
namespace {

at::Tensor Mask(int64_t rows, int64_t columns, double probability, uint64_t key) {
  return DropoutMask(rows, columns, at::kCPU, probability, key);
}

TEST(DropoutMaskTest, TensorOpsGiveTheBitsOfTheKernels) {
  for (const int64_t columns : {1, 7, 8, 31, 32, 33, 64, 100, 1000}) {
    for (const uint64_t key : {uint64_t{0}, uint64_t{1} << 40, ~uint64_t{0}}) {
      for (const double probability : {0.0, 0.1, 0.5, 0.999}) {
        constexpr int64_t kRows = 5;
        const int64_t words = kernels::DropoutWords(columns);
        std::vector<uint32_t> kept(static_cast<size_t>(kRows * words));
        kernels::DropoutMaskCpu(probability, key, 0, kRows, columns, kept.data());
        const at::Tensor mask = Mask(kRows, columns, probability, key);
        ASSERT_EQ(mask.sizes(), at::IntArrayRef({kRows, columns}));
        for (int64_t row = 0; row < kRows; ++row) {
          for (int64_t column = 0; column < columns; ++column) {
            const uint32_t word = kept[static_cast<size_t>(row * words + column / 32)];
            ASSERT_EQ(mask[row][column].item<bool>(), (word >> (column % 32) & 1) != 0)
                << columns << " " << key << " " << probability << " " << row << " " << column;
          }
        }
      }
    }
  }
}

TEST(DropoutMaskTest, KeysGiveMasksOfTheirOwnWithTheRightShare) {
  const at::Tensor first = Mask(100, 1000, 0.25, 1);
  const at::Tensor second = Mask(100, 1000, 0.25, 2);
  EXPECT_NEAR(first.to(at::kDouble).mean().item<double>(), 0.75, 0.005);
  EXPECT_NEAR(second.to(at::kDouble).mean().item<double>(), 0.75, 0.005);
  // Independent masks agree on 0.75^2 + 0.25^2 of their elements.
  EXPECT_NEAR(first.eq(second).to(at::kDouble).mean().item<double>(), 0.625, 0.01);
  // So do neighbours in one mask, in a row and in a column.
  EXPECT_NEAR(
      first.narrow(1, 1, 999).eq(first.narrow(1, 0, 999)).to(at::kDouble).mean().item<double>(),
      0.625, 0.01);
  EXPECT_NEAR(
      first.narrow(0, 1, 99).eq(first.narrow(0, 0, 99)).to(at::kDouble).mean().item<double>(),
      0.625, 0.01);
  EXPECT_TRUE(Mask(10, 100, 0, 1).all().item<bool>());
}

}  // namespace
}  // namespace fedumm::model
