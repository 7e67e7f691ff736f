#include "model/backbone/ops.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/softmax.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tril.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/model/backbone/golden.h"

namespace fedumm::model {
namespace {

constexpr double kTolerance = 2e-6;

at::Tensor Leaf(at::IntArrayRef shape, uint64_t seed) {
  return RandomTensor(shape, seed).requires_grad_(true);
}

// A gradient that differs from element to element.
void Backward(const at::Tensor& y) { at::sum(y * RandomTensor(y.sizes(), 99)).backward(); }

at::Tensor PlainRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  return x * at::rsqrt(at::mean(x * x, -1, true) + eps) * weight;
}

class RmsNormTest : public ::testing::TestWithParam<int64_t> {};

TEST_P(RmsNormTest, MatchesPlainOperationsForwardAndBackward) {
  const int64_t n = GetParam();
  const at::Tensor x = Leaf({5, 3, n}, 1), w = Leaf({n}, 2);
  const at::Tensor plain_x = Leaf({5, 3, n}, 1), plain_w = Leaf({n}, 2);
  const at::Tensor y = RmsNorm(x, w, 1e-5);
  const at::Tensor plain = PlainRmsNorm(plain_x, plain_w, 1e-5);
  EXPECT_LT(MaxDifference(y, plain), kTolerance * 5);
  Backward(y);
  Backward(plain);
  EXPECT_LT(MaxDifference(x.grad(), plain_x.grad()), 1e-5);
  EXPECT_LT(RelativeDifference(w.grad(), plain_w.grad()), 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Widths, RmsNormTest, ::testing::Values(1, 7, 16, 19, 96, 111, 2048));

TEST(RmsNormTest, ReadsStridedInputAndGradient) {
  const at::Tensor x = Leaf({6, 4}, 1), plain_x = Leaf({6, 4}, 1);
  const at::Tensor w = RandomTensor({6}, 2);
  Backward(RmsNorm(x.t(), w, 1e-6).t());
  Backward(PlainRmsNorm(plain_x.t(), w, 1e-6).t());
  EXPECT_LT(RelativeDifference(x.grad(), plain_x.grad()), 1e-5);
}

TEST(RmsNormTest, HalfPrecisionIsRoundedBeforeTheWeight) {
  const at::Tensor x = RandomTensor({3, 64}, 1).to(at::kBFloat16);
  const at::Tensor w = RandomTensor({64}, 2).to(at::kBFloat16);
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scaled =
      (wide * at::rsqrt(at::mean(wide * wide, -1, true) + 1e-6)).to(at::kBFloat16);
  EXPECT_TRUE(RmsNorm(x, w, 1e-6).equal(w * scaled));
}

// What the fused operations compute, in ATen's own in the same dtype.
class NarrowTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  static at::Tensor Narrow(at::IntArrayRef shape, uint64_t seed) {
    return RandomTensor(shape, seed).to(GetParam()).requires_grad_(true);
  }
  // Of y and of the gradients: no more than one unit in the last place apart.
  static void ExpectEqual(const at::Tensor& a, const at::Tensor& b) {
    ASSERT_EQ(a.scalar_type(), GetParam());
    EXPECT_LT(RelativeDifference(a.to(at::kFloat), b.to(at::kFloat)), 0x1p-7);
  }
};

TEST_P(NarrowTest, RmsNormMatchesPlainOperations) {
  const at::Tensor x = Narrow({40, 96}, 1), w = Narrow({96}, 2);
  const at::Tensor plain_x = Narrow({40, 96}, 1), plain_w = Narrow({96}, 2);
  const at::Tensor y = RmsNorm(x, w, 1e-6);
  const at::Tensor wide = plain_x.to(at::kFloat);
  const at::Tensor plain =
      plain_w * (wide * at::rsqrt(at::mean(wide * wide, -1, true) + 1e-6)).to(GetParam());
  EXPECT_TRUE(y.equal(plain));
  Backward(y);
  Backward(plain);
  ExpectEqual(x.grad(), plain_x.grad());
  ExpectEqual(w.grad(), plain_w.grad());
}

TEST_P(NarrowTest, RotateRoundsAsPlainOperationsDo) {
  const at::Tensor angles = RandomTensor({2, 9, 4}, 3);
  for (const bool wide_angles : {false, true}) {
    const at::ScalarType dtype = wide_angles ? at::kFloat : GetParam();
    const at::Tensor cos = at::cos(angles).to(dtype), sin = at::sin(angles).to(dtype);
    const at::Tensor x = Narrow({2, 9, 3, 8}, 1), plain_x = Narrow({2, 9, 3, 8}, 1);
    const at::Tensor y = Rotate(x, cos, sin, RotaryPairs::kHalves);
    const at::Tensor c = at::cat({cos, cos}, -1).unsqueeze(2);
    const at::Tensor s = at::cat({sin, sin}, -1).unsqueeze(2);
    const at::Tensor turned = at::cat({-plain_x.slice(3, 4), plain_x.slice(3, 0, 4)}, 3);
    const at::Tensor plain = (plain_x * c + turned * s).to(GetParam());
    if (!wide_angles) {
      EXPECT_TRUE(y.equal(plain));
    }
    ExpectEqual(y, plain);
    Backward(y);
    Backward(plain);
    ExpectEqual(x.grad(), plain_x.grad());
  }
}

TEST_P(NarrowTest, SwiGluMatchesPlainOperations) {
  const at::Tensor gate = Narrow({70, 97}, 1), up = Narrow({70, 97}, 2);
  const at::Tensor plain_gate = Narrow({70, 97}, 1), plain_up = Narrow({70, 97}, 2);
  const at::Tensor y = SwiGlu(gate, up);
  const at::Tensor plain = at::silu(plain_gate) * plain_up;
  ExpectEqual(y, plain);
  Backward(y);
  Backward(plain);
  ExpectEqual(gate.grad(), plain_gate.grad());
  ExpectEqual(up.grad(), plain_up.grad());
}

INSTANTIATE_TEST_SUITE_P(Types, NarrowTest, ::testing::Values(at::kBFloat16, at::kHalf),
                         [](const auto& type) { return c10::toString(type.param); });

TEST(SwiGluTest, MatchesPlainOperationsForAllSizesOfValues) {
  for (const double size : {1e-3, 1.0, 30.0, 1e4}) {
    at::Tensor gate = (RandomTensor({3, 5001}, 1) * size).requires_grad_(true);
    at::Tensor plain_gate = gate.detach().clone().requires_grad_(true);
    const at::Tensor up = Leaf({3, 5001}, 2), plain_up = Leaf({3, 5001}, 2);
    const at::Tensor y = SwiGlu(gate, up);
    const at::Tensor plain = at::silu(plain_gate) * plain_up;
    EXPECT_LT(RelativeDifference(y, plain), 1e-6) << size;
    Backward(y);
    Backward(plain);
    EXPECT_LT(RelativeDifference(gate.grad(), plain_gate.grad()), 1e-6) << size;
    EXPECT_LT(RelativeDifference(up.grad(), plain_up.grad()), 1e-6) << size;
  }
}

TEST(SwiGluTest, KeepsWhatIsNoNumber) {
  const at::Tensor gate = at::full({3}, std::numeric_limits<float>::quiet_NaN());
  EXPECT_TRUE(SwiGlu(gate, at::ones({3})).isnan().all().item<bool>());
}

// Threads change no bit.
TEST(ThreadsTest, OneAndTwoThreadsGiveEqualBits) {
  const int before = at::get_num_threads();
  const at::Tensor x = RandomTensor({300, 1000}, 1).to(at::kBFloat16);
  const at::Tensor w = RandomTensor({1000}, 2).to(at::kBFloat16);
  std::vector<at::Tensor> results;
  for (const int threads : {1, 2}) {
    at::set_num_threads(threads);
    results.push_back(RmsNorm(x, w, 1e-6));
    results.push_back(SwiGlu(x, x));
  }
  at::set_num_threads(before);
  EXPECT_TRUE(results[0].equal(results[2]));
  EXPECT_TRUE(results[1].equal(results[3]));
}

class RotateTest : public ::testing::TestWithParam<RotaryPairs> {
 protected:
  static at::Tensor Plain(const at::Tensor& x, const at::Tensor& angles) {
    const at::Tensor c = at::cos(angles).unsqueeze(2), s = at::sin(angles).unsqueeze(2);
    const int64_t half = x.size(3) / 2;
    if (GetParam() == RotaryPairs::kHalves) {
      const at::Tensor a = x.slice(3, 0, half), b = x.slice(3, half);
      return at::cat({a * c - b * s, b * c + a * s}, 3);
    }
    const at::Tensor pairs = x.unflatten(3, {half, 2});
    const at::Tensor a = pairs.select(4, 0), b = pairs.select(4, 1);
    return at::stack({a * c - b * s, a * s + b * c}, 4).flatten(3);
  }
};

TEST_P(RotateTest, MatchesPlainOperationsForwardAndBackward) {
  for (const int64_t angle_batch : {1, 3}) {
    const at::Tensor angles = RandomTensor({angle_batch, 7, 5}, 3);
    const at::Tensor x = Leaf({3, 7, 2, 10}, 1), plain_x = Leaf({3, 7, 2, 10}, 1);
    const at::Tensor y = Rotate(x, at::cos(angles), at::sin(angles), GetParam());
    const at::Tensor plain = Plain(plain_x, angles);
    EXPECT_LT(MaxDifference(y, plain), kTolerance);
    Backward(y);
    Backward(plain);
    EXPECT_LT(MaxDifference(x.grad(), plain_x.grad()), kTolerance);
  }
}

TEST_P(RotateTest, ReadsStridedHeads) {
  const at::Tensor angles = RandomTensor({1, 7, 4}, 3);
  const at::Tensor qkv = RandomTensor({2, 7, 3, 2, 8}, 1);
  const at::Tensor transposed = RandomTensor({2, 2, 7, 8}, 4).transpose(1, 2);
  for (const at::Tensor& x : {qkv.select(2, 1), transposed}) {
    EXPECT_LT(
        MaxDifference(Rotate(x, at::cos(angles), at::sin(angles), GetParam()), Plain(x, angles)),
        kTolerance);
  }
}

TEST_P(RotateTest, OtherTypesTakeTheSlowPathToTheSameValues) {
  const at::Tensor angles = RandomTensor({1, 7, 4}, 3);
  const at::Tensor x = RandomTensor({2, 7, 3, 8}, 1);
  const at::Tensor wide = Rotate(x.to(at::kDouble), at::cos(angles), at::sin(angles), GetParam());
  EXPECT_EQ(wide.scalar_type(), at::kDouble);
  EXPECT_LT(MaxDifference(Rotate(x, at::cos(angles), at::sin(angles), GetParam()), wide),
            kTolerance);
}

INSTANTIATE_TEST_SUITE_P(Pairs, RotateTest,
                         ::testing::Values(RotaryPairs::kHalves, RotaryPairs::kNeighbours));

at::Tensor PlainAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          const at::Tensor& visible) {
  const int64_t repeat = q.size(2) / k.size(2);
  const at::Tensor kk = k.repeat_interleave(repeat, 2).transpose(1, 2);
  const at::Tensor vv = v.repeat_interleave(repeat, 2).transpose(1, 2);
  at::Tensor scores =
      at::matmul(q.transpose(1, 2), kk.transpose(2, 3)) / std::sqrt(static_cast<double>(q.size(3)));
  scores = scores.masked_fill(visible.logical_not(), -std::numeric_limits<float>::infinity());
  return at::matmul(at::softmax(scores, -1), vv).transpose(1, 2).flatten(2);
}

TEST(AttendTest, CausalGroupedHeadsMatchPlainOperations) {
  const at::Tensor q = Leaf({2, 9, 4, 6}, 1), k = Leaf({2, 9, 2, 6}, 2), v = Leaf({2, 9, 2, 6}, 3);
  const at::Tensor pq = Leaf({2, 9, 4, 6}, 1), pk = Leaf({2, 9, 2, 6}, 2),
                   pv = Leaf({2, 9, 2, 6}, 3);
  const at::Tensor y = Attend(q, k, v, /*causal=*/true);
  const at::Tensor plain = PlainAttention(pq, pk, pv, at::tril(at::ones({9, 9}, at::kBool)));
  EXPECT_LT(MaxDifference(y, plain), kTolerance);
  Backward(y);
  Backward(plain);
  EXPECT_LT(MaxDifference(q.grad(), pq.grad()), 1e-5);
  EXPECT_LT(MaxDifference(k.grad(), pk.grad()), 1e-5);
  EXPECT_LT(MaxDifference(v.grad(), pv.grad()), 1e-5);
}

TEST(AttendTest, AMaskHidesKeys) {
  const at::Tensor q = RandomTensor({2, 3, 2, 6}, 1), k = RandomTensor({2, 5, 2, 6}, 2);
  const at::Tensor visible = RandomTensor({2, 1, 3, 5}, 3) > -0.5;
  EXPECT_LT(
      MaxDifference(Attend(q, k, k, /*causal=*/false, visible), PlainAttention(q, k, k, visible)),
      kTolerance);
}

}  // namespace
}  // namespace fedumm::model
