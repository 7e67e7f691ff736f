// The released layout at a tiny size: tests/data/blip3o/release, and what the reference makes of
// it.
#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "fedumm/model/checkpoint.h"
#include "golden.h"
#include "model/checkpoint/checkpoint_folder.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

namespace fs = std::filesystem;

const char kRelease[] = FEDUMM_TEST_DATA "/blip3o/release";

// A copy of the release that a test may change.
class ReleaseLoadTest : public ::testing::Test {
 protected:
  ReleaseLoadTest() : folder_(fs::path(::testing::TempDir()) / "release") {
    fs::remove_all(folder_);
    fs::copy(kRelease, folder_, fs::copy_options::recursive);
  }
  ~ReleaseLoadTest() override { fs::remove_all(folder_); }

  void ReplaceInConfig(const std::string& from, const std::string& to) {
    std::string json = ReadTestFile("blip3o/release/config.json");
    const size_t at = json.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    json.replace(at, from.size(), to);
    std::ofstream(folder_ / "config.json") << json;
  }
  // Writes all tensors anew, as one file.
  void Rewrite(const std::function<void(StateDict&)>& change) {
    StateDict state = LoadStateDict(kRelease).value();
    change(state);
    ASSERT_THAT(SaveStateDict(state, folder_.string()), IsOk());
  }

  fs::path folder_;
};

TEST_F(ReleaseLoadTest, LoadsAsItIs) {
  ASSERT_OK_AND_ASSIGN(const auto model, Load(kRelease));
  const BackboneConfig& config = model->config();
  ASSERT_TRUE(config.dit.has_value());
  EXPECT_EQ(config.dit->dim, 32);
  EXPECT_EQ(config.dit->n_layers, 2);
  EXPECT_EQ(config.dit->n_heads, 4);
  EXPECT_EQ(config.dit->in_channels, 24);
  EXPECT_EQ(config.dit->input_size, 4);
  EXPECT_EQ(config.n_query, 16);
  for (const auto& [name, tensor] : model->Parameters()) {
    EXPECT_EQ(tensor->scalar_type(), at::kBFloat16) << name;
  }
}

TEST_F(ReleaseLoadTest, DrawsTheLatentsOfTheReference) {
  const StateDict want = LoadGolden("blip3o/release_expected.safetensors");
  ASSERT_OK_AND_ASSIGN(const auto model, Load(kRelease, {.dtype = at::kFloat}));
  for (const std::string name : {"draw.prompt", "draw.negative"}) {
    const at::Tensor hidden = model->GenerationHidden(want.at(name + ".input_ids"));
    EXPECT_LT(RelativeDifference(hidden, want.at(name + ".hidden")), 1e-4) << name;
    const at::Tensor latents = model->Sample(hidden, want.at(name + ".noise"), {});
    EXPECT_LT(RelativeDifference(latents, want.at(name + ".latents")), 1e-4) << name;
  }
}

TEST_F(ReleaseLoadTest, WeightsStayInTheFileAndWritingLeavesItAlone) {
  ASSERT_OK_AND_ASSIGN(const Checkpoint first, LoadCheckpoint(folder_.string()));
  at::Tensor norm = first.weights.at("model.norm.weight");
  const at::Tensor before = norm.clone();
  norm.add_(1);
  ASSERT_OK_AND_ASSIGN(const Checkpoint second, LoadCheckpoint(folder_.string()));
  EXPECT_TRUE(second.weights.at("model.norm.weight").equal(before));
  EXPECT_FALSE(norm.equal(before));
}

TEST_F(ReleaseLoadTest, ATiedHeadInTheFileMustBeTheEmbedding) {
  Rewrite([](StateDict& state) {
    state["lm_head.weight"] = state.at("model.embed_tokens.weight").clone();
  });
  EXPECT_THAT(Load(folder_.string()), IsOk());
  Rewrite([](StateDict& state) {
    state["lm_head.weight"] = state.at("model.embed_tokens.weight") + 1;
  });
  EXPECT_THAT(Load(folder_.string()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("lm_head.weight"), HasSubstr("tie_word_embeddings"))));
}

TEST_F(ReleaseLoadTest, MixedTypesBecomeTheOneThatIsAskedFor) {
  Rewrite([](StateDict& state) {
    state["model.latent_queries"] = state.at("model.latent_queries").to(at::kFloat);
    state["model.norm.weight"] = state.at("model.norm.weight").to(at::kHalf);
  });
  for (const auto asked : {std::optional<at::ScalarType>(), std::optional(at::kHalf)}) {
    ASSERT_OK_AND_ASSIGN(const auto model, Load(folder_.string(), {.dtype = asked}));
    for (const auto& [name, tensor] : model->Parameters()) {
      EXPECT_EQ(tensor->scalar_type(), asked.value_or(at::kBFloat16)) << name;
    }
  }
}

TEST_F(ReleaseLoadTest, NamesOfTheOtherLayoutsAreUnderstood) {
  Rewrite([](StateDict& state) {
    StateDict renamed;
    for (const auto& [name, tensor] : state) {
      const bool text = name.starts_with("model.layers.") || name.starts_with("model.norm.") ||
                        name.starts_with("model.embed_tokens.");
      renamed[text                          ? "model.language_model." + name.substr(6)
              : name.starts_with("visual.") ? "model." + name
                                            : name] = tensor;
    }
    renamed["model.language_model.rotary_emb.inv_freq"] = at::Tensor(state.begin()->second);
    state = std::move(renamed);
  });
  EXPECT_THAT(Load(folder_.string()), IsOk());
}

TEST_F(ReleaseLoadTest, WhatDoesNotFitIsNamedWithItsNumber) {
  Rewrite([](StateDict& state) {
    for (const char* name : {"q_proj", "k_proj", "v_proj"}) {
      for (const char* layer : {"0", "1"}) {
        state.erase(std::string("model.layers.") + layer + ".self_attn." + name + ".bias");
      }
    }
    state["model.surprise"] = state.at("model.norm.weight");
    state["model.norm.weight"] =
        at::cat({state.at("model.norm.weight"), state.at("model.norm.weight")});
  });
  EXPECT_THAT(Load(folder_.string()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("missing: model.layers.0.self_attn.k_proj.bias"),
                             HasSubstr("and 1 more"), HasSubstr("unexpected: model.surprise"),
                             HasSubstr("unfit: model.norm.weight is [64], not [32]"))));
}

TEST_F(ReleaseLoadTest, OtherModelsAreRefusedByName) {
  ReplaceInConfig("\"model_type\": \"blip3o_qwen\"", "\"model_type\": \"qwen3\"");
  EXPECT_THAT(Load(folder_.string()),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("BLIP3o-NEXT")));
  ReplaceInConfig("\"n_query\": 16", "\"n_query\": 15");
  EXPECT_THAT(Load(folder_.string()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("n_query is 15")));
  ReplaceInConfig("\"num_hidden_layers\": 2", "\"num_hidden_layers\": -2");
  EXPECT_THAT(Load(folder_.string()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("num_hidden_layers")));
}

TEST_F(ReleaseLoadTest, ProgressIsToldAndMayStopTheLoading) {
  int64_t last = 0, total = 0;
  EXPECT_THAT(Load(kRelease, {.progress =
                                  [&](int64_t done, int64_t all) {
                                    EXPECT_GT(done, last);
                                    last = done;
                                    total = all;
                                    return true;
                                  }}),
              IsOk());
  EXPECT_EQ(last, total);
  EXPECT_THAT(Load(kRelease, {.progress = [](int64_t, int64_t) { return false; }}),
              StatusIs(absl::StatusCode::kCancelled));
}

TEST_F(ReleaseLoadTest, AFileThatChangesMeanwhileIsAnError) {
  const fs::path shard = folder_ / "model-00004-of-00004.safetensors";
  const auto cut = [&](int64_t, int64_t) {
    fs::resize_file(shard, fs::file_size(shard) / 2);
    return true;
  };
  EXPECT_THAT(Load(folder_.string(), {.dtype = at::kFloat, .progress = cut}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("model-00004-of-00004")));
}

// The tensors of the released sizes, from the config and the shapes of a few of them.
TEST(ReleasedSizeTest, TheDitHasTheStatedParameters) {
  struct Size {
    const char* folder;
    int64_t hidden;
    int64_t parameters;
  };
  for (const Size& size : {Size{"4b", 2048, 1'362'257'824}, Size{"8b", 3584, 1'365'010'336}}) {
    TensorShapes shapes;
    const std::string root = "model.dit.model.";
    shapes[root + "patch_embedder.proj.weight"] = {1792, 1792};
    shapes[root + "caption_projection.linear_1.weight"] = {1792, size.hidden};
    for (int i = 0; i < 24; ++i) {
      const std::string layer = root + "layers." + std::to_string(i) + ".";
      shapes[layer + "gate"] = {28};
      shapes[layer + "feed_forward.linear_1.weight"] = {4864, 1792};
    }
    const std::string json =
        ReadTestFile(std::string("blip3o/config/") + size.folder + "/config.json");
    ASSERT_OK_AND_ASSIGN(const BackboneConfig config, BackboneConfig::FromJson(json, shapes));
    ASSERT_TRUE(config.dit.has_value());
    const TensorShapes dit = ExpectedTensors(*config.dit);
    EXPECT_EQ(dit.size(), 642);
    int64_t parameters = 0;
    for (const auto& [name, shape] : dit) {
      int64_t product = 1;
      for (const int64_t dim : shape) product *= dim;
      parameters += product;
    }
    EXPECT_EQ(parameters, size.parameters) << size.folder;
    EXPECT_THAT(BackboneConfig::FromJson(json),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("n_query")));
  }
}

}  // namespace
}  // namespace fedumm::model
