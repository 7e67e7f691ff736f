#include "model/lora/lora_linear.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

namespace fedumm::model {
namespace {

struct Shape {
  std::vector<int64_t> batch;
  int64_t in, out, r;
  bool bias;
};

std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.batch << " " << shape.in << "->" << shape.out << " r " << shape.r;
}

// A frozen linear, an adapter on it, an input, and what the output's gradient is to be.
struct Case {
  explicit Case(const Shape& shape, at::ScalarType dtype = at::kFloat,
                std::optional<at::ScalarType> base = std::nullopt) {
    at::manual_seed(1);  // LibTorch's own seed differs from run to run
    const at::ScalarType base_dtype = base.value_or(dtype);
    std::vector<int64_t> sizes = shape.batch;
    sizes.push_back(shape.in);
    x = at::randn(sizes, base_dtype).set_requires_grad(true);
    weight = at::randn({shape.out, shape.in}, base_dtype);
    if (shape.bias) bias = at::randn({shape.out}, base_dtype);
    a = at::randn({shape.r, shape.in}, dtype).set_requires_grad(true);
    b = at::randn({shape.out, shape.r}, dtype).set_requires_grad(true);
    a.mutable_grad() = at::zeros_like(a);
    b.mutable_grad() = at::zeros_like(b);
    sizes.back() = shape.out;
    dy = at::randn(sizes, base_dtype);
  }

  // PEFT's forward, from ordinary operations.
  at::Tensor Reference(const at::Tensor& mask = {}) const {
    at::Tensor input = x.to(a.scalar_type());
    if (mask.defined()) input = input * mask;
    const at::Tensor update = at::matmul(at::matmul(input, a.t()), b.t()) * kScale;
    const at::Tensor base = at::linear(x, weight, bias);
    return (base + update).to(base.scalar_type());
  }

  static constexpr double kScale = 0.75;
  at::Tensor x, weight, bias, a, b, dy;
};

struct Gradients {
  at::Tensor x, a, b;
};

Gradients TakeGradients(Case& c, const at::Tensor& y) {
  y.backward(c.dy);
  Gradients gradients{c.x.grad().clone(), c.a.grad().clone(), c.b.grad().clone()};
  c.x.mutable_grad().reset();
  c.a.mutable_grad().zero_();
  c.b.mutable_grad().zero_();
  return gradients;
}

void ExpectClose(const at::Tensor& actual, const at::Tensor& expected, double tolerance) {
  ASSERT_EQ(actual.sizes(), expected.sizes());
  ASSERT_EQ(actual.scalar_type(), expected.scalar_type());
  const at::Tensor difference = (actual - expected).to(at::kDouble);
  EXPECT_LE(difference.norm().item<double>(),
            tolerance * expected.to(at::kDouble).norm().item<double>());
}

void ExpectSameGradients(const Gradients& actual, const Gradients& expected, double tolerance) {
  ExpectClose(actual.x, expected.x, tolerance);
  ExpectClose(actual.a, expected.a, tolerance);
  ExpectClose(actual.b, expected.b, tolerance);
}

class LoraLinearTest : public ::testing::TestWithParam<Shape> {};

TEST_P(LoraLinearTest, OutputAndGradientsEqualThoseOfComposedOperations) {
  Case c(GetParam());
  const LoraLinear lora(c.a, c.b, Case::kScale);
  const at::Tensor expected = c.Reference();
  const at::Tensor actual = lora.Forward(c.x, c.weight, c.bias);
  ExpectClose(actual, expected, 1e-6);
  const Gradients expected_gradients = TakeGradients(c, expected);
  ExpectSameGradients(TakeGradients(c, actual), expected_gradients, 1e-6);
}

TEST_P(LoraLinearTest, ABFloat16BaseIsAdaptedInFloat32AsPeftDoes) {
  Case c(GetParam(), at::kFloat, at::kBFloat16);
  const LoraLinear lora(c.a, c.b, Case::kScale);
  const at::Tensor expected = c.Reference();
  const at::Tensor actual = lora.Forward(c.x, c.weight, c.bias);
  constexpr double kOneUnit = 0x1p-7;  // in the last place of bfloat16: the sums round differently
  ExpectClose(actual, expected, kOneUnit);
  const Gradients expected_gradients = TakeGradients(c, expected);
  ExpectSameGradients(TakeGradients(c, actual), expected_gradients, kOneUnit);
}

TEST_P(LoraLinearTest, GradientsEqualFiniteDifferences) {
  Case c(GetParam(), at::kDouble);
  const LoraLinear lora(c.a, c.b, Case::kScale);
  const Gradients gradients = TakeGradients(c, lora.Forward(c.x, c.weight, c.bias));
  const at::NoGradGuard no_grad;
  const auto loss = [&] {
    return (lora.Forward(c.x, c.weight, c.bias) * c.dy).sum().item<double>();
  };
  constexpr double kStep = 1e-5;
  for (const auto& [tensor, gradient] :
       {std::pair{c.x, gradients.x}, {c.a, gradients.a}, {c.b, gradients.b}}) {
    const at::Tensor direction = at::randn(tensor.sizes(), at::kDouble);
    tensor.add_(direction, kStep);
    const double above = loss();
    tensor.add_(direction, -2 * kStep);
    const double below = loss();
    tensor.add_(direction, kStep);
    const double expected = (gradient * direction).sum().item<double>();
    EXPECT_NEAR((above - below) / (2 * kStep), expected, 1e-6 * (1 + std::abs(expected)));
  }
}

INSTANTIATE_TEST_SUITE_P(
    OddSizes, LoraLinearTest,
    ::testing::Values(Shape{{19}, 33, 17, 3, true}, Shape{{19}, 33, 17, 3, false},
                      Shape{{2, 5}, 7, 111, 1, true}, Shape{{3, 1, 4}, 16, 16, 4, false},
                      Shape{{1}, 1, 1, 1, true}, Shape{{8, 26}, 96, 256, 8, false}));

TEST(LoraLinearRuleTest, AnInputWithoutGradientStillTrainsTheAdapter) {
  Case c({{6}, 5, 4, 2, true});
  c.x = c.x.detach();
  const LoraLinear lora(c.a, c.b, Case::kScale);
  c.Reference().backward(c.dy);
  const at::Tensor a_gradient = c.a.grad().clone();
  const at::Tensor b_gradient = c.b.grad().clone();
  c.a.mutable_grad().zero_();
  c.b.mutable_grad().zero_();
  lora.Forward(c.x, c.weight, c.bias).backward(c.dy);
  ExpectClose(c.a.grad(), a_gradient, 1e-6);
  ExpectClose(c.b.grad(), b_gradient, 1e-6);
}

TEST(LoraLinearRuleTest, GradientsAddUpOverCalls) {
  Case c({{6}, 5, 4, 2, false});
  const LoraLinear lora(c.a, c.b, Case::kScale);
  lora.Forward(c.x, c.weight, c.bias).backward(c.dy);
  const at::Tensor once = c.a.grad().clone();
  lora.Forward(c.x, c.weight, c.bias).backward(c.dy);
  ExpectClose(c.a.grad(), once * 2, 1e-6);
}

TEST(LoraLinearRuleTest, AFrozenAdapterStillPassesTheInputsGradient) {
  Case c({{6}, 5, 4, 2, true});
  const at::Tensor expected = TakeGradients(c, c.Reference()).x;
  c.a.set_requires_grad(false);
  c.b.set_requires_grad(false);
  const LoraLinear lora(c.a, c.b, Case::kScale);
  lora.Forward(c.x, c.weight, c.bias).backward(c.dy);
  ExpectClose(c.x.grad(), expected, 1e-6);
  EXPECT_EQ(c.a.grad().abs().sum().item<float>(), 0);
}

TEST(LoraLinearRuleTest, WithoutGradientsNothingIsRecorded) {
  const Case c({{6}, 5, 4, 2, true});
  const at::NoGradGuard no_grad;
  EXPECT_FALSE(LoraLinear(c.a, c.b, 1).Forward(c.x, c.weight, c.bias).requires_grad());
}

TEST(LoraLinearRuleTest, TheFrozenWeightGetsNoGradient) {
  Case c({{6}, 5, 4, 2, true});
  c.weight.set_requires_grad(true);
  LoraLinear(c.a, c.b, 1).Forward(c.x, c.weight, c.bias).backward(c.dy);
  EXPECT_FALSE(c.weight.grad().defined());
}

TEST(LoraLinearRuleTest, AnInputChangedBeforeTheBackwardPassIsAnError) {
  Case c({{2, 3}, 5, 4, 2, true});
  const at::Tensor x = c.x * 1;
  const at::Tensor y = LoraLinear(c.a, c.b, 1).Forward(x, c.weight, c.bias);
  {
    const at::NoGradGuard no_grad;
    x.mul_(2);
  }
  EXPECT_THROW(y.backward(c.dy), c10::Error);
}

TEST(LoraLinearRuleTest, DropoutKeepsTheMeanAndItsOwnMask) {
  Case c({{64}, 256, 8, 256, false});
  {
    const at::NoGradGuard no_grad;  // y shows the masked input: A = B = I in effect
    c.weight.zero_();
    c.a.copy_(at::eye(256));
  }
  LoraLinear lora(c.a, c.b, Case::kScale);
  lora.SetDropout(0.25, Random(7));
  // S is scale / (1 - p) * mask * x; B picks its first eight columns.
  {
    const at::NoGradGuard no_grad;
    c.b.copy_(at::eye(8, 256));
  }
  const at::Tensor y = lora.Forward(c.x, c.weight, c.bias);
  const at::Tensor seen = y.detach() / c.x.detach().narrow(1, 0, 8);
  const at::Tensor kept = seen != 0;
  EXPECT_NEAR(kept.to(at::kFloat).mean().item<float>(), 0.75, 0.06);
  ExpectClose(seen, kept * (Case::kScale / 0.75), 1e-5);
}

TEST(LoraLinearRuleTest, GradientsUnderDropoutEqualThoseOfTheSameMask) {
  constexpr double kDropout = 0.5;
  const Shape shape{{9, 7}, 31, 13, 3, true};
  Case c(shape);
  LoraLinear lora(c.a, c.b, Case::kScale);
  // The mask is found by an adapter that shows it: the same numbers, A = I and B = I.
  const at::Tensor eye = at::eye(31);
  LoraLinear probe(eye, eye, 1);
  probe.SetDropout(kDropout, Random(3));
  at::Tensor mask;
  {
    const at::NoGradGuard no_grad;
    mask = probe.Forward(at::ones_like(c.x), at::zeros({31, 31}), {});
  }
  EXPECT_GT(mask.std().item<float>(), 0.5);
  lora.SetDropout(kDropout, Random(3));
  const at::Tensor expected = c.Reference(mask);
  const at::Tensor actual = lora.Forward(c.x, c.weight, c.bias);
  ExpectClose(actual, expected, 1e-6);
  const Gradients expected_gradients = TakeGradients(c, expected);
  ExpectSameGradients(TakeGradients(c, actual), expected_gradients, 1e-6);
}

TEST(LoraLinearRuleTest, EqualSeedsDropTheSameElements) {
  const Case c({{32}, 64, 8, 4, false});
  LoraLinear lora(c.a, c.b, 1);
  const auto forward = [&](uint64_t seed) {
    lora.SetDropout(0.1, Random(seed));
    return lora.Forward(c.x, c.weight, c.bias).detach();
  };
  EXPECT_TRUE(at::equal(forward(1), forward(1)));
  EXPECT_FALSE(at::equal(forward(1), forward(2)));
}

// q, k and v on one x, or with gaps: rank 0 means no adapter.
class LoraGroupTest : public ::testing::TestWithParam<std::vector<int64_t>> {
 protected:
  struct Group {
    std::vector<Case> cases;  // of which the first's x counts
    std::vector<Linear> linears;

    std::vector<at::Tensor> Run() const {
      std::vector<const Linear*> pointers;
      for (const Linear& linear : linears) pointers.push_back(&linear);
      return ForwardGroup(cases[0].x, pointers);
    }
  };
  static constexpr int64_t kIn = 37;

  static Group Make(int64_t rows, at::ScalarType base, double dropout) {
    Group group;
    int64_t out = 24;
    for (const int64_t r : GetParam()) {
      const int64_t rank = std::max<int64_t>(r, 1);
      Case c({{2, rows}, kIn, out += 11, rank, group.cases.empty()}, at::kFloat, base);
      Linear linear{.weight = c.weight, .bias = c.bias, .hook = nullptr};
      if (r > 0) {
        auto lora = std::make_shared<LoraLinear>(c.a, c.b, Case::kScale * static_cast<double>(r));
        lora->SetDropout(dropout, Random(5));
        linear.hook = lora;
      }
      group.linears.push_back(linear);
      group.cases.push_back(std::move(c));
    }
    return group;
  }

  // The group against one linear after the other, each with the same mask.
  static void Compare(int64_t rows, at::ScalarType base, double dropout, double tolerance) {
    Group group = Make(rows, base, dropout);
    Group alone = Make(rows, base, dropout);
    const std::vector<at::Tensor> outputs = group.Run();
    ASSERT_EQ(outputs.size(), group.cases.size());
    at::Tensor loss;
    at::Tensor alone_loss;
    for (size_t i = 0; i < outputs.size(); ++i) {
      const at::Tensor output = alone.linears[i](alone.cases[0].x);
      ExpectClose(outputs[i], output, tolerance);
      const at::Tensor part = (outputs[i] * group.cases[i].dy).sum();
      const at::Tensor alone_part = (output * group.cases[i].dy).sum();
      loss = loss.defined() ? loss + part : part;
      alone_loss = alone_loss.defined() ? alone_loss + alone_part : alone_part;
    }
    loss.backward();
    alone_loss.backward();
    ExpectClose(group.cases[0].x.grad(), alone.cases[0].x.grad(), tolerance);
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (group.linears[i].hook == nullptr) continue;
      ExpectClose(group.cases[i].a.grad(), alone.cases[i].a.grad(), tolerance);
      ExpectClose(group.cases[i].b.grad(), alone.cases[i].b.grad(), tolerance);
    }
  }
};

TEST_P(LoraGroupTest, EqualsOneLinearAfterTheOther) { Compare(20, at::kFloat, 0, 2e-6); }
TEST_P(LoraGroupTest, EqualsOneLinearAfterTheOtherWithDropout) {
  Compare(20, at::kFloat, 0.3, 2e-6);
}
TEST_P(LoraGroupTest, FewRowsGiveTheSame) { Compare(2, at::kFloat, 0.3, 2e-6); }
TEST_P(LoraGroupTest, ABFloat16BaseGivesTheSame) { Compare(20, at::kBFloat16, 0.3, 0x1p-7); }
TEST_P(LoraGroupTest, AHalfBaseGivesTheSame) { Compare(20, at::kHalf, 0, 0x1p-10); }

TEST_P(LoraGroupTest, AnOutputThatIsNotUsedGetsNoGradient) {
  Group group = Make(20, at::kFloat, 0.3);
  const std::vector<at::Tensor> outputs = group.Run();
  outputs.back().sum().backward();
  EXPECT_GT(group.cases[0].x.grad().abs().sum().item<float>(), 0);
  EXPECT_EQ(group.cases[0].a.grad().abs().sum().item<float>() > 0, outputs.size() == 1);
}

INSTANTIATE_TEST_SUITE_P(Ranks, LoraGroupTest,
                         ::testing::Values(std::vector<int64_t>{4, 4, 4},
                                           std::vector<int64_t>{3, 0, 17},
                                           std::vector<int64_t>{0, 2},
                                           std::vector<int64_t>{1, 40, 5, 2}));

// Rows in every path, against LibTorch's own operations, and repeated.
TEST(LoraLinearRuleTest, TheNumberOfThreadsDoesNotMatter) {
  const int before = at::get_num_threads();
  std::vector<at::Tensor> results[2];
  for (const int threads : {1, 4}) {
    at::set_num_threads(threads);
    Case c({{700}, 300, 260, 16, true});
    LoraLinear lora(c.a, c.b, Case::kScale);
    lora.SetDropout(0.2, Random(9));
    const at::Tensor y = lora.Forward(c.x, at::zeros_like(c.weight), {});
    const Gradients gradients = TakeGradients(c, y);
    results[threads > 1] = {y, gradients.a, gradients.b};
  }
  at::set_num_threads(before);
  for (size_t i = 0; i < results[0].size(); ++i) {
    EXPECT_TRUE(at::equal(results[0][i], results[1][i])) << i;
  }
}

}  // namespace
}  // namespace fedumm::model
