#include "model/lora/dropout_mask.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <gtest/gtest.h>

namespace fedumm::model {
namespace {

at::Tensor Mask(at::IntArrayRef shape, double probability, uint64_t key) {
  return DropoutMask(shape, at::kCPU, probability, key);
}

TEST(DropoutMaskTest, TensorOpsGiveTheSameBits) {
  for (const int64_t n : {0, 1, 3, 4, 5, 1000, 70001}) {
    for (const uint64_t key : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
      for (const double probability : {0.0, 0.1, 0.5, 0.999}) {
        EXPECT_TRUE(Mask({n}, probability, key)
                        .equal(DropoutMaskByTensorOps({n}, at::kCPU, probability, key)))
            << n << " " << key << " " << probability;
      }
    }
  }
  EXPECT_EQ(DropoutMaskByTensorOps({3, 5}, at::kCPU, 0.5, 1).sizes(), at::IntArrayRef({3, 5}));
}

TEST(DropoutMaskTest, TheNumberOfThreadsDoesNotMatter) {
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const at::Tensor one = Mask({200001}, 0.3, 5);
  at::set_num_threads(4);
  const at::Tensor four = Mask({200001}, 0.3, 5);
  at::set_num_threads(before);
  EXPECT_TRUE(one.equal(four));
}

TEST(DropoutMaskTest, KeysGiveMasksOfTheirOwnWithTheRightShare) {
  const at::Tensor first = Mask({100, 1000}, 0.25, 1);
  const at::Tensor second = Mask({100, 1000}, 0.25, 2);
  EXPECT_NEAR(first.to(at::kDouble).mean().item<double>(), 0.75, 0.005);
  EXPECT_NEAR(second.to(at::kDouble).mean().item<double>(), 0.75, 0.005);
  // Independent masks agree on 0.75^2 + 0.25^2 of their elements.
  EXPECT_NEAR(first.eq(second).to(at::kDouble).mean().item<double>(), 0.625, 0.01);
  // So do neighbours in one mask.
  EXPECT_NEAR(
      first.narrow(1, 1, 999).eq(first.narrow(1, 0, 999)).to(at::kDouble).mean().item<double>(),
      0.625, 0.01);
  EXPECT_TRUE(Mask({1000}, 0, 1).all().item<bool>());
}

}  // namespace
}  // namespace fedumm::model
