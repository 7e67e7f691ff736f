#include "fedumm/model/checkpoint.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/ones.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "base/file.h"
#include "nlohmann/json.hpp"
#include "tests/model/backbone/golden.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

namespace fs = std::filesystem;
using fedumm::testing::IsOk;
using fedumm::testing::StatusIs;
using ::testing::HasSubstr;
using ::testing::SizeIs;
using Json = nlohmann::json;

class CheckpointTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    folder_ = fs::path(::testing::TempDir()) / "fedumm_checkpoint" / test->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string Path(const std::string& name) { return (folder_ / name).string(); }
  static void ExpectEqual(const StateDict& a, const StateDict& b) {
    ASSERT_THAT(a, SizeIs(b.size()));
    for (const auto& [name, tensor] : b) {
      ASSERT_TRUE(a.contains(name)) << name;
      EXPECT_EQ(a.at(name).scalar_type(), tensor.scalar_type()) << name;
      EXPECT_TRUE(a.at(name).equal(tensor)) << name;
    }
  }

  fs::path folder_;
};

TEST_F(CheckpointTest, OneFileRoundTrips) {
  const StateDict state = {{"a", at::arange(6, at::kFloat).view({2, 3})},
                           {"b", at::arange(6, at::kFloat).view({2, 3}).t()},
                           {"half", at::ones({3}, at::kHalf)},
                           {"brain", RandomTensor({5}, 1).to(at::kBFloat16)},
                           {"ids", at::arange(3, at::kLong)},
                           {"flags", at::ones({2}, at::kBool)},
                           {"scalar", at::ones({}, at::kDouble)},
                           {"empty", at::ones({0, 4}, at::kFloat)}};
  ASSERT_THAT(SaveStateDict(state, Path("state.safetensors")), IsOk());
  ASSERT_OK_AND_ASSIGN(const StateDict loaded, LoadStateDict(Path("state.safetensors")));
  ExpectEqual(loaded, state);
}

TEST_F(CheckpointTest, AModelRoundTripsInShardsAndInOneFile) {
  const StateDict state = LoadGolden("qwen25vl/model");
  ASSERT_THAT(SaveStateDict(state, Path("model"), 100'000), IsOk());
  EXPECT_TRUE(fs::exists(folder_ / "model" / "model.safetensors.index.json"));
  EXPECT_FALSE(fs::exists(folder_ / "model" / "model.safetensors"));
  ASSERT_OK_AND_ASSIGN(const StateDict sharded, LoadStateDict(Path("model")));
  ExpectEqual(sharded, state);
  // Written over it as one file, the new content wins.
  StateDict changed = state;
  changed["model.norm.weight"] = at::ones({64});
  ASSERT_THAT(SaveStateDict(changed, Path("model")), IsOk());
  ASSERT_OK_AND_ASSIGN(const StateDict single, LoadStateDict(Path("model")));
  ExpectEqual(single, changed);
}

TEST_F(CheckpointTest, TheThreeLayoutsLoadAlike) {
  const StateDict published = LoadGolden("qwen25vl/model");
  StateDict in_memory;
  for (const auto& [name, tensor] : published) {
    const std::string renamed = name.starts_with("visual.")  ? "model." + name
                                : name.starts_with("model.") ? "model.language_" + name
                                                             : name;
    in_memory[renamed] = tensor;
  }
  in_memory["model.latent_queries"] = at::ones({1, 2, 64});
  ASSERT_TRUE(in_memory.contains("model.language_model.layers.0.mlp.up_proj.weight"));
  ASSERT_THAT(SaveStateDict(in_memory, Path("new.safetensors")), IsOk());
  ASSERT_OK_AND_ASSIGN(StateDict loaded, LoadStateDict(Path("new.safetensors")));
  EXPECT_EQ(loaded.erase("model.latent_queries"), 1u);
  ExpectEqual(loaded, published);
}

TEST_F(CheckpointTest, TwoNamesForOneTensorAreRefused) {
  const StateDict state = {{"visual.a", at::ones({2})}, {"model.visual.a", at::ones({2})}};
  ASSERT_THAT(SaveStateDict(state, Path("twice.safetensors")), IsOk());
  EXPECT_THAT(LoadStateDict(Path("twice.safetensors")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("visual.a is there twice")));
}

TEST_F(CheckpointTest, AnIndexThatLiesIsRefused) {
  const StateDict state = {{"a", at::ones({2})}, {"b", at::ones({2})}};
  ASSERT_THAT(SaveStateDict(state, Path("shard.safetensors")), IsOk());
  ASSERT_THAT(SaveStateDict(state, folder_.parent_path().string() + "/outside.safetensors"),
              IsOk());
  const std::string index = Path("model.safetensors.index.json");
  const auto load = [&](const std::string& text) {
    EXPECT_THAT(WriteFileAtomically(index, text), IsOk());
    return LoadStateDict(folder_.string());
  };
  const auto map = [](const Json& weight_map) { return Json{{"weight_map", weight_map}}.dump(); };
  EXPECT_THAT(load(map({{"a", "shard.safetensors"}, {"b", "shard.safetensors"}})), IsOk());
  const std::string lies[] = {
      "not json",
      "[]",
      "{}",
      R"({"weight_map": []})",
      map({{"a", "shard.safetensors"}}),
      map({{"a", "shard.safetensors"}, {"b", "shard.safetensors"}, {"c", "shard.safetensors"}}),
      map({{"a", "../outside.safetensors"}, {"b", "../outside.safetensors"}}),
      map({{"a", "/outside.safetensors"}}),
      map({{"a", std::string("shard\0.safetensors", 18)}}),
      map({{"a", "model.safetensors.index.json"}}),
      map({{"a", 3}}),
  };
  for (const std::string& lie : lies) {
    EXPECT_THAT(load(lie), StatusIs(absl::StatusCode::kInvalidArgument)) << lie;
  }
  EXPECT_THAT(load(map({{"a", "absent.safetensors"}})), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(CheckpointTest, AMissingCheckpointIsNotFound) {
  EXPECT_THAT(LoadStateDict(Path("nothing.safetensors")), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(LoadStateDict(folder_.string()), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace fedumm::model
