#include "model/diffusion/euler.h"

#include <ATen/ops/tensor.h>

#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gtest/gtest.h"
#include "tests/model/backbone/golden.h"

namespace fedumm::model {
namespace {

const char kSchedulerConfig[] = "blip3o/release/diffusion-decoder/scheduler/scheduler_config.json";

at::Tensor TensorOf(const std::vector<float>& values) {
  return at::tensor(at::ArrayRef<float>(values), at::kFloat);
}

TEST(EulerSchedulerTest, TablesAreThoseOfDiffusers) {
  const StateDict golden = LoadGolden("blip3o/release_expected.safetensors");
  const absl::StatusOr<EulerScheduler> scheduler =
      EulerScheduler::FromJson(ReadTestFile(kSchedulerConfig), "scheduler_config.json");
  ASSERT_TRUE(scheduler.ok()) << scheduler.status();
  for (const int64_t count : {4, 50}) {
    const absl::StatusOr<EulerSteps> steps = scheduler->Steps(count);
    ASSERT_TRUE(steps.ok()) << steps.status();
    const at::Tensor& timesteps = golden.at(absl::StrCat("draw.timesteps_", count));
    EXPECT_EQ(MaxDifference(TensorOf(steps->timesteps), timesteps), 0);
    EXPECT_LT(
        RelativeDifference(TensorOf(steps->sigmas), golden.at(absl::StrCat("draw.sigmas_", count))),
        1e-6);
    EXPECT_NEAR(steps->init_noise_sigma, std::sqrt(steps->sigmas[0] * steps->sigmas[0] + 1), 1e-6);
  }
  EXPECT_TRUE(scheduler->Steps(1000).ok());
  for (const int64_t count : {0, -1, 1001}) {
    EXPECT_EQ(scheduler->Steps(count).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(EulerSchedulerTest, OtherSchedulesAreRefusedByField) {
  const std::string json = ReadTestFile(kSchedulerConfig);
  const struct {
    const char* from;
    const char* to;
    const char* named;
  } kCases[] = {
      {"\"scaled_linear\"", "\"linear\"", "beta_schedule is \"linear\""},
      {"\"epsilon\"", "\"v_prediction\"", "prediction_type"},
      {"\"leading\"", "\"trailing\"", "timestep_spacing"},
      {"\"use_karras_sigmas\": false", "\"use_karras_sigmas\": true", "use_karras_sigmas"},
      {"\"steps_offset\": 1", "\"steps_offset\": -1", "steps_offset"},
      {"\"steps_offset\": 1", "\"steps_ofset\": 1", "steps_ofset"},
      {"\"beta_end\": 0.012", "\"beta_end\": 2", "beta_end"},
      {"EulerDiscrete", "EulerAncestralDiscrete", "_class_name"},
      {"\"num_train_timesteps\": 1000", "\"num_train_timesteps\": 0", "num_train_timesteps"},
  };
  for (const auto& test : kCases) {
    const std::string changed = absl::StrReplaceAll(json, {{test.from, test.to}});
    ASSERT_NE(changed, json) << test.from;
    const absl::StatusOr<EulerScheduler> scheduler = EulerScheduler::FromJson(changed, "s.json");
    EXPECT_EQ(scheduler.status().code(), absl::StatusCode::kInvalidArgument) << test.named;
    EXPECT_TRUE(absl::StrContains(scheduler.status().message(), test.named)) << scheduler.status();
  }
}

TEST(FlowShiftTest, IsReadAndWhatIsMoreIsRefused) {
  EXPECT_EQ(FlowShiftFromJson(R"({"_class_name": "FlowMatchEulerDiscreteScheduler",
                                  "num_train_timesteps": 1000, "shift": 3.0})",
                              "f")
                .value(),
            3.0);
  EXPECT_EQ(FlowShiftFromJson("{}", "f").value(), 1.0);
  const absl::Status dynamic =
      FlowShiftFromJson(R"({"use_dynamic_shifting": true})", "flow.json").status();
  EXPECT_TRUE(absl::StrContains(dynamic.message(), "flow.json: use_dynamic_shifting")) << dynamic;
}

}  // namespace
}  // namespace fedumm::model
