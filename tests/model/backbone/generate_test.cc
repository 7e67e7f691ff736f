// Generation on tests/data/blip3o: transformers' answers and its probabilities before a draw.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "fedumm/model/checkpoint.h"
#include "fedumm/model/generation.h"
#include "golden.h"
#include "model/backbone/sampling.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

std::vector<int64_t> Ids(const at::Tensor& row) {
  const at::Tensor ids = row.contiguous();
  return {ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel()};
}

TEST(SamplingTest, ProbabilitiesAreThoseOfTransformers) {
  const StateDict want = LoadGolden("blip3o/sampling_expected.safetensors");
  const auto cases = nlohmann::json::parse(ReadTestFile("blip3o/sampling.json"));
  ASSERT_EQ(cases.size(), 10);
  for (size_t i = 0; i < cases.size(); ++i) {
    GenerationSettings settings;
    settings.temperature = cases[i].value("temperature", 1.0);
    settings.top_k = cases[i].value("top_k", int64_t{0});
    settings.top_p = cases[i].value("top_p", 1.0);
    settings.min_p = cases[i].value("min_p", 0.0);
    settings.repetition_penalty = cases[i].value("repetition_penalty", 1.0);
    for (int64_t row = 0; row < 4; ++row) {
      const at::Tensor logits = want.at("logits")[row].contiguous();
      const std::vector<float> got = NextTokenProbabilities(
          {logits.const_data_ptr<float>(), static_cast<size_t>(logits.numel())},
          Ids(want.at("so_far")[row]), settings);
      const at::Tensor expected = want.at("probabilities." + std::to_string(i))[row].contiguous();
      // Which of equal logits top-p removes depends on how torch sorts on the machine: they are
      // compared as a group.
      std::map<float, std::pair<std::vector<float>, std::vector<float>>> groups;
      for (size_t token = 0; token < got.size(); ++token) {
        auto& group = groups[logits.const_data_ptr<float>()[token]];
        group.first.push_back(got[token]);
        group.second.push_back(expected.const_data_ptr<float>()[token]);
      }
      EXPECT_GT(groups.size(), 45);
      for (auto& [logit, group] : groups) {
        std::sort(group.first.begin(), group.first.end());
        std::sort(group.second.begin(), group.second.end());
        for (size_t k = 0; k < group.first.size(); ++k) {
          EXPECT_NEAR(group.first[k], group.second[k], 1e-6) << cases[i] << " row " << row;
          EXPECT_EQ(group.first[k] > 0, group.second[k] > 0) << cases[i] << " row " << row;
        }
      }
    }
  }
}

TEST(SamplingTest, PickTokenFollowsTheProbabilities) {
  const std::vector<float> p = {0, 0.25f, 0.5f, 0, 0.25f};
  EXPECT_EQ(PickToken(p, 0), 1);
  EXPECT_EQ(PickToken(p, 0.3), 2);
  EXPECT_EQ(PickToken(p, 0.75), 4);
  EXPECT_EQ(PickToken(p, 0.9999999), 4);
}

class GenerateTest : public ::testing::Test {
 protected:
  Prompt One() const { return {want_.at("answer.input_ids"), {}, Images(), {{1, 6, 6}}}; }
  Prompt Two() const {
    return {want_.at("answer.batch_ids"), want_.at("answer.batch_mask"), Images(), {{1, 6, 6}}};
  }
  at::Tensor Images() const {
    const std::vector<ImageGrid> grids = {{1, 6, 6}};
    return model_->EncodeImages(want_.at("answer.pixel_values"), grids).value();
  }

  const StateDict want_ = LoadGolden("blip3o/release_expected.safetensors");
  const std::unique_ptr<UnifiedModel> model_ =
      Load(FEDUMM_TEST_DATA "/blip3o/release", {.dtype = at::kFloat}).value();
};

TEST_F(GenerateTest, LogitsAreThoseOfTransformers) {
  const Prompt prompt = One();
  ASSERT_EQ(Ids(want_.at("answer.grid_thw").flatten()), (std::vector<int64_t>{1, 6, 6}));
  ASSERT_OK_AND_ASSIGN(const auto positions, model_->PositionsOf(prompt.ids, {}, prompt.grids));
  ASSERT_OK_AND_ASSIGN(const at::Tensor embeds,
                       model_->EmbedWithImages(prompt.ids, prompt.image_tokens));
  const at::Tensor hidden = model_->Decode(embeds, positions.ids).select(1, -1);
  EXPECT_LT(RelativeDifference(hidden, want_.at("answer.hidden_last")), 1e-4);
  EXPECT_LT(RelativeDifference(model_->Logits(hidden), want_.at("answer.logits_last")), 1e-4);
}

TEST_F(GenerateTest, GreedyIdsAreThoseOfTransformers) {
  ASSERT_OK_AND_ASSIGN(const auto one, model_->Generate(One(), {.max_new_tokens = 12}));
  EXPECT_EQ(one[0], Ids(want_.at("answer.greedy_ids")[0]));
  ASSERT_OK_AND_ASSIGN(const auto two, model_->Generate(Two(), {.max_new_tokens = 12}));
  for (int64_t row = 0; row < 2; ++row) {
    EXPECT_EQ(two[static_cast<size_t>(row)], Ids(want_.at("answer.batch_greedy_ids")[row])) << row;
  }
}

TEST_F(GenerateTest, ARowThatEndsLeavesAndTheOtherGoesOn) {
  const std::vector<int64_t> first = Ids(want_.at("answer.batch_greedy_ids")[0]);
  const std::vector<int64_t> second = Ids(want_.at("answer.batch_greedy_ids")[1]);
  const auto end_first = [](int64_t row, const std::vector<int64_t>& generated) {
    return row == 0 && generated.size() == 3;
  };
  ASSERT_OK_AND_ASSIGN(const auto rows, model_->Generate(Two(), {.max_new_tokens = 12}, end_first));
  EXPECT_EQ(rows[0], std::vector<int64_t>(first.begin(), first.begin() + 3));
  EXPECT_EQ(rows[1], second);
}

TEST_F(GenerateTest, SamplingFollowsItsSeedAndATinyTemperatureIsGreedy) {
  GenerationSettings settings{.max_new_tokens = 12, .do_sample = true, .temperature = 1e-6};
  ASSERT_OK_AND_ASSIGN(const auto cold, model_->Generate(One(), settings));
  EXPECT_EQ(cold[0], Ids(want_.at("answer.greedy_ids")[0]));
  settings.temperature = 3;
  std::set<std::vector<int64_t>> seen;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    settings.seed = seed;
    ASSERT_OK_AND_ASSIGN(const auto rows, model_->Generate(One(), settings));
    ASSERT_OK_AND_ASSIGN(const auto again, model_->Generate(One(), settings));
    EXPECT_EQ(rows, again);
    seen.insert(rows[0]);
  }
  EXPECT_GT(seen.size(), 3);
}

TEST_F(GenerateTest, APenaltyChangesGreedyTextAndBadSettingsAreNamed) {
  ASSERT_OK_AND_ASSIGN(const auto rows,
                       model_->Generate(One(), {.max_new_tokens = 12, .repetition_penalty = 1e6}));
  std::set<int64_t> distinct(rows[0].begin(), rows[0].end());
  EXPECT_EQ(distinct.size(), 12);  // nothing twice
  EXPECT_THAT(model_->Generate(One(), {.temperature = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("temperature")));
}

TEST(GenerationConfigTest, ReadsTheReleasedFiles) {
  ASSERT_OK_AND_ASSIGN(
      const GenerationSettings settings,
      ParseGenerationConfig(ReadTestFile("blip3o/config/4b/generation_config.json")));
  EXPECT_TRUE(settings.do_sample);
  EXPECT_EQ(settings.temperature, 1e-6);
  EXPECT_EQ(settings.repetition_penalty, 1.05);
  EXPECT_THAT(settings.stop_ids, ::testing::ElementsAre(151645, 151643));
  EXPECT_THAT(ParseGenerationConfig(R"({"eos_token_id": 7})").value().stop_ids,
              ::testing::ElementsAre(7));
  EXPECT_THAT(ParseGenerationConfig(R"({"num_beams": 4})"),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("num_beams")));
  EXPECT_THAT(ParseGenerationConfig(R"({"num_beams": 1, "top_p": 1.0})"), IsOk());
  EXPECT_THAT(ParseGenerationConfig(R"({"top_p": 2})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("top_p")));
  EXPECT_THAT(ParseGenerationConfig(R"({"eos_token_id": "end"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("eos_token_id")));
}

}  // namespace
}  // namespace fedumm::model
