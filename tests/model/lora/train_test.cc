#include "fedumm/model/train.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

// Two parameters, and a loss whose gradient is 2 (p - target).
struct Problem {
  at::Tensor a = at::ones({2, 2}) * 3;
  at::Tensor b = at::ones({3});
  FlatParameters flat = FlatParameters::Create({a, b}).value();

  absl::StatusOr<at::Tensor> Loss() const { return a.square().sum() + (b + 2).square().sum(); }
  absl::StatusOr<TrainStats> Run(const TrainOptions& options, AdamWState* state = nullptr) {
    return Train(
        flat, [this](int64_t) { return Loss(); }, options, state);
  }
};

TrainOptions Options(int64_t steps) {
  TrainOptions options;
  options.steps = steps;
  options.learning_rate.value = 0.1;
  options.weight_decay = 0.01;
  return options;
}

TEST(FlatParametersTest, TensorsKeepTheirIdentityAndShareOneBuffer) {
  Problem problem;
  EXPECT_EQ(problem.flat.size(), 7);
  EXPECT_TRUE(problem.a.requires_grad());
  problem.flat.values().fill_(5);
  EXPECT_EQ(problem.a.min().item<float>(), 5);
  EXPECT_EQ(problem.b.min().item<float>(), 5);
  problem.Loss()->backward();
  EXPECT_EQ(problem.flat.gradients()[0].item<float>(), 10);
  EXPECT_EQ(problem.flat.gradients()[6].item<float>(), 14);
}

TEST(FlatParametersTest, ATensorThatOccursTwiceIsOneParameter) {
  const at::Tensor tied = at::ones({4});
  EXPECT_EQ(FlatParameters::Create({tied, tied})->size(), 4);
}

TEST(FlatParametersTest, ParametersThatAreNoFloat32LeavesAreRejected) {
  EXPECT_THAT(FlatParameters::Create({}).status(), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(FlatParameters::Create({at::ones({2}), at::ones({2}, at::kDouble)}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("parameter 1")));
  EXPECT_THAT(FlatParameters::Create({at::Tensor()}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

// AdamW (Loshchilov, Hutter, arXiv 1711.05101) written out for one value.
struct ScalarAdamW {
  double value, m = 0, v = 0;
  int step = 0;
  void Step(double gradient, double rate, double decay) {
    ++step;
    value -= rate * decay * value;
    m = 0.9 * m + 0.1 * gradient;
    v = 0.999 * v + 0.001 * gradient * gradient;
    value -= rate * (m / (1 - std::pow(0.9, step))) /
             (std::sqrt(v / (1 - std::pow(0.999, step))) + 1e-8);
  }
};

TEST(TrainTest, StepsAreAdamWs) {
  Problem problem;
  ASSERT_THAT(problem.Run(Options(5)), IsOk());
  ScalarAdamW a{3}, b{1};
  for (int i = 0; i < 5; ++i) {
    a.Step(2 * a.value, 0.1, 0.01);
    b.Step(2 * (b.value + 2), 0.1, 0.01);
  }
  EXPECT_NEAR(problem.a[1][1].item<float>(), a.value, 2e-6);
  EXPECT_NEAR(problem.b[2].item<float>(), b.value, 2e-6);
}

TEST(TrainTest, AKeptStateContinuesWhereTheLastCallEnded) {
  Problem whole, parts, fresh;
  ASSERT_THAT(whole.Run(Options(6)), IsOk());
  AdamWState state;
  ASSERT_THAT(parts.Run(Options(2), &state), IsOk());
  ASSERT_THAT(parts.Run(Options(4), &state), IsOk());
  ASSERT_THAT(fresh.Run(Options(2)), IsOk());
  ASSERT_THAT(fresh.Run(Options(4)), IsOk());
  EXPECT_TRUE(whole.flat.values().equal(parts.flat.values()));
  EXPECT_FALSE(whole.flat.values().equal(fresh.flat.values()));
  EXPECT_EQ(state.step, 6);
}

TEST(TrainTest, AStateOfAnotherModelIsRejected) {
  Problem problem;
  AdamWState state;
  state.first_moment = at::ones({3});
  EXPECT_THAT(problem.Run(Options(1), &state), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(TrainTest, StatsDescribeTheLosses) {
  Problem problem;
  const double first = problem.Loss()->item<double>();
  ASSERT_OK_AND_ASSIGN(const TrainStats stats, problem.Run(Options(3)));
  EXPECT_EQ(stats.steps, 3);
  EXPECT_DOUBLE_EQ(stats.first_loss, first);
  EXPECT_LT(stats.last_loss, stats.mean_loss);
  EXPECT_LT(stats.mean_loss, first);
  EXPECT_NEAR(stats.max_grad_norm, std::sqrt(4 * 36 + 3 * 36), 1e-4);
}

// With epsilon this large a step is rate * gradient / epsilon: it shows the gradient.
TrainOptions GradientOptions() {
  TrainOptions options = Options(1);
  options.epsilon = 1e6;
  options.learning_rate.value = 1e6;
  options.weight_decay = 0;
  return options;
}

TEST(TrainTest, ClippingScalesTheWholeGradientToTheNorm) {
  Problem problem;
  TrainOptions options = GradientOptions();
  options.max_grad_norm = 1;
  const at::Tensor before = problem.flat.values().clone();
  ASSERT_THAT(problem.Run(options), IsOk());
  const at::Tensor step = before - problem.flat.values();
  EXPECT_NEAR(step.norm().item<float>(), 1, 1e-4);
  EXPECT_NEAR(step[0].item<float>(), 6 / std::sqrt(7 * 36), 1e-4);
}

TEST(TrainTest, AccumulationAveragesTheLosses) {
  Problem problem;
  TrainOptions options = GradientOptions();
  options.accumulation_steps = 3;
  std::vector<int64_t> calls;
  const at::Tensor before = problem.flat.values().clone();
  ASSERT_OK_AND_ASSIGN(const TrainStats stats, Train(
                                                   problem.flat,
                                                   [&](int64_t call) -> absl::StatusOr<at::Tensor> {
                                                     calls.push_back(call);
                                                     return problem.b.sum() *
                                                            static_cast<double>(call);
                                                   },
                                                   options));
  EXPECT_THAT(calls, ::testing::ElementsAre(0, 1, 2));
  EXPECT_DOUBLE_EQ(stats.mean_loss, 3);
  EXPECT_NEAR((before - problem.flat.values())[6].item<float>(), 1, 1e-4);
}

TEST(TrainTest, ALossThatIsNotFiniteIsAnErrorWithItsStepAndTheParametersStay) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    Problem problem;
    at::Tensor at_step_two;
    const auto loss = [&](int64_t step) -> absl::StatusOr<at::Tensor> {
      if (step < 2) return problem.Loss();
      at_step_two = problem.flat.values().clone();
      return problem.a.sum() * bad;
    };
    EXPECT_THAT(Train(problem.flat, loss, Options(4)),
                StatusIs(absl::StatusCode::kInternal, HasSubstr("step 2")));
    EXPECT_TRUE(problem.flat.values().equal(at_step_two));
  }
}

TEST(TrainTest, AGradientThatIsNotFiniteNamesItsStep) {
  Problem problem;
  const auto loss = [&](int64_t) -> absl::StatusOr<at::Tensor> {
    return (problem.b - 1).sqrt().sum();  // the slope of a root at 0
  };
  EXPECT_THAT(Train(problem.flat, loss, Options(1)),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("gradient of step 0")));
  EXPECT_EQ(problem.b[0].item<float>(), 1);
}

TEST(TrainTest, ErrorsAndExceptionsOfTheLossAreReturned) {
  Problem problem;
  EXPECT_THAT(
      Train(
          problem.flat,
          [](int64_t) -> absl::StatusOr<at::Tensor> { return absl::NotFoundError("no images"); },
          Options(1)),
      StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Train(
                  problem.flat,
                  [&](int64_t) -> absl::StatusOr<at::Tensor> { return problem.a.view({3}).sum(); },
                  Options(1)),
              StatusIs(absl::StatusCode::kInternal));
}

TEST(TrainTest, WrongOptionsAreRejected) {
  Problem problem;
  for (const auto& change : std::vector<void (*)(TrainOptions&)>{
           [](TrainOptions& o) { o.steps = -1; }, [](TrainOptions& o) { o.accumulation_steps = 0; },
           [](TrainOptions& o) { o.learning_rate.value = NAN; },
           [](TrainOptions& o) { o.weight_decay = -1; },
           [](TrainOptions& o) { o.max_grad_norm = INFINITY; }}) {
    TrainOptions options = Options(1);
    change(options);
    EXPECT_THAT(problem.Run(options), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST(TrainTest, AFailedStepChangesNeitherParametersNorStateAndLaterOnesDoNot) {
  Problem problem, reference;
  AdamWState state, expected;
  ASSERT_THAT(reference.Run(Options(2), &expected), IsOk());
  const auto loss = [&](int64_t step) -> absl::StatusOr<at::Tensor> {
    const at::Tensor value = *problem.Loss();
    return step == 2 ? value * std::numeric_limits<double>::infinity() : value;
  };
  EXPECT_THAT(Train(problem.flat, loss, Options(5), &state),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("the loss of step 2 is inf")));
  EXPECT_TRUE(problem.flat.values().equal(reference.flat.values()));
  EXPECT_TRUE(state.first_moment.equal(expected.first_moment));
  EXPECT_TRUE(state.second_moment.equal(expected.second_moment));
  EXPECT_EQ(state.step, 2);
}

TEST(TrainTest, AFailedStepIsReportedBeforeALaterError) {
  Problem problem;
  const auto loss = [&](int64_t step) -> absl::StatusOr<at::Tensor> {
    if (step == 3) return absl::NotFoundError("no images");
    const at::Tensor value = *problem.Loss();
    return step == 1 ? value * std::numeric_limits<double>::quiet_NaN() : value;
  };
  EXPECT_THAT(Train(problem.flat, loss, Options(5)),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("step 1")));
}

TEST(TrainTest, LongCallsAreOneRun) {
  Problem problem, reference;
  TrainOptions options = Options(kStepsBetweenSyncs + 7);
  options.learning_rate.value = 1e-4;
  ASSERT_OK_AND_ASSIGN(const TrainStats stats, problem.Run(options));
  EXPECT_EQ(stats.steps, kStepsBetweenSyncs + 7);
  AdamWState state;
  options.steps = kStepsBetweenSyncs;
  ASSERT_THAT(reference.Run(options, &state), IsOk());
  options.steps = 7;
  ASSERT_THAT(reference.Run(options, &state), IsOk());
  EXPECT_TRUE(problem.flat.values().equal(reference.flat.values()));
  const auto fails = [&](int64_t step) -> absl::StatusOr<at::Tensor> {
    const at::Tensor value = *problem.Loss();
    return step == kStepsBetweenSyncs + 2 ? value * INFINITY : value;
  };
  options.steps = kStepsBetweenSyncs + 7;
  EXPECT_THAT(Train(problem.flat, fails, options),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("step 1002")));
}

TEST(TrainTest, AHookChangesTheGradientBeforeClippingAndTheStep) {
  Problem problem;
  TrainOptions options = GradientOptions();
  options.max_grad_norm = 1;
  options.on_gradients = [](FlatParameters& parameters, const GradientPart& part) {
    EXPECT_EQ(part.step, 0);
    EXPECT_TRUE(part.completes_step());
    EXPECT_FLOAT_EQ(parameters.gradients()[0].item<float>(), 6);
    parameters.gradients().fill_(2);
    return absl::OkStatus();
  };
  const at::Tensor before = problem.flat.values().clone();
  ASSERT_OK_AND_ASSIGN(const TrainStats stats, problem.Run(options));
  EXPECT_NEAR(stats.max_grad_norm, 2 * std::sqrt(7), 1e-6);
  EXPECT_NEAR((before - problem.flat.values())[3].item<float>(), 1 / std::sqrt(7), 1e-4);
}

TEST(TrainTest, AHookSeesEachLossOfAStepAndItsErrorEndsTraining) {
  Problem problem;
  TrainOptions options = GradientOptions();
  options.accumulation_steps = 3;
  std::vector<float> sums;
  options.on_gradients = [&](FlatParameters& parameters, const GradientPart& part) -> absl::Status {
    sums.push_back(parameters.gradients()[6].item<float>());
    EXPECT_EQ(part.completes_step(), part.part == 2);
    if (part.step == 1) return absl::ResourceExhaustedError("privacy budget");
    return absl::OkStatus();
  };
  options.steps = 2;
  AdamWState state;
  EXPECT_THAT(
      Train(
          problem.flat, [&](int64_t) { return absl::StatusOr<at::Tensor>(problem.b.sum()); },
          options, &state),
      StatusIs(absl::StatusCode::kResourceExhausted));
  ASSERT_EQ(sums.size(), 4);
  EXPECT_FLOAT_EQ(sums[0], 1.0f / 3);
  EXPECT_FLOAT_EQ(sums[2], 1);
  EXPECT_EQ(state.step, 1);
}

TEST(TrainTest, TheProximalTermPullsTowardsWhereItBegan) {
  Problem problem;
  TrainOptions options = GradientOptions();
  options.on_gradients = ProximalTerm(0.5, problem.flat);
  const at::Tensor origin = problem.flat.values().clone();
  problem.flat.values().add_(2);
  const at::Tensor before = problem.flat.values().clone();
  ASSERT_THAT(
      Train(
          problem.flat, [&](int64_t) { return absl::StatusOr<at::Tensor>(problem.b.sum() * 0); },
          options),
      IsOk());
  EXPECT_NEAR((before - problem.flat.values())[0].item<float>(), 1, 1e-4);  // 0.5 * 2
}

TEST(LearningRateTest, WarmsUpThenDecreasesAsAHalfCosineOverAllRounds) {
  LearningRate rate{
      .value = 1, .warmup_steps = 2, .cosine = true, .final_value = 0.1, .total_steps = 12};
  EXPECT_DOUBLE_EQ(rate.At(0), 0);
  EXPECT_DOUBLE_EQ(rate.At(1), 0.5);
  EXPECT_DOUBLE_EQ(rate.At(2), 1);
  EXPECT_DOUBLE_EQ(rate.At(7), 0.55);
  EXPECT_NEAR(rate.At(12), 0.1, 1e-15);
  EXPECT_NEAR(rate.At(100), 0.1, 1e-15);
  rate.cosine = false;
  EXPECT_DOUBLE_EQ(rate.At(100), 1);
}

// The learning rates of transformers 5.23.0's get_cosine_schedule_with_warmup(optimizer, 3, 10) on
// an optimizer with lr 2e-4, step by step.
TEST(LearningRateTest, IsTransformersCosineWithWarmUp) {
  const LearningRate rate{.value = 2e-4, .warmup_steps = 3, .cosine = true, .total_steps = 10};
  const std::vector<double> want = {0,
                                    6.666666666666667e-05,
                                    0.00013333333333333334,
                                    0.0002,
                                    0.0001900968867902419,
                                    0.00016234898018587337,
                                    0.00012225209339563145,
                                    7.774790660436858e-05,
                                    3.7651019814126654e-05,
                                    9.903113209758096e-06,
                                    0};
  for (size_t step = 0; step < want.size(); ++step) {
    EXPECT_NEAR(rate.At(static_cast<int64_t>(step)), want[step], 1e-12) << step;
  }
}

TEST(TrainTest, TheScheduleStartsAtTheFirstStepOption) {
  Problem whole, parts;
  TrainOptions options = Options(4);
  options.learning_rate.cosine = true;
  options.learning_rate.total_steps = 4;
  ASSERT_THAT(whole.Run(options), IsOk());
  AdamWState state;
  options.steps = 2;
  ASSERT_THAT(parts.Run(options, &state), IsOk());
  options.first_step = 2;
  ASSERT_THAT(parts.Run(options, &state), IsOk());
  EXPECT_TRUE(whole.flat.values().equal(parts.flat.values()));
}

}  // namespace
}  // namespace fedumm::model
