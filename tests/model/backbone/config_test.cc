#include "fedumm/model/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <numeric>
#include <sstream>

#include "nlohmann/json.hpp"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using fedumm::testing::IsOk;
using fedumm::testing::StatusIs;
using ::testing::HasSubstr;
using Json = nlohmann::json;

std::string ReadTestFile(const std::string& name) {
  std::ifstream file(FEDUMM_TEST_DATA "/" + name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TensorShapes ShapesFrom(const std::string& name) {
  return Json::parse(ReadTestFile(name)).get<TensorShapes>();
}

int64_t Count(const TensorShapes& shapes, const std::string& prefix = "") {
  int64_t total = 0;
  for (const auto& [name, shape] : shapes) {
    if (!name.starts_with(prefix)) continue;
    total += std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  }
  return total;
}

// The config.json of the published 3B model, with BLIP-3o's DiT and vocabulary.
Json Published3B() {
  return Json::parse(R"({
    "architectures": ["Qwen2_5_VLForConditionalGeneration"], "attention_dropout": 0.0,
    "bos_token_id": 151643, "eos_token_id": 151645, "vision_start_token_id": 151652,
    "vision_end_token_id": 151653, "vision_token_id": 151654, "image_token_id": 151655,
    "video_token_id": 151656, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 128000,
    "max_window_layers": 70, "model_type": "qwen2_5_vl", "num_attention_heads": 16,
    "num_hidden_layers": 36, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "sliding_window": 32768, "tie_word_embeddings": true,
    "torch_dtype": "bfloat16", "use_cache": true, "use_sliding_window": false,
    "vision_config": {"depth": 32, "hidden_act": "silu", "hidden_size": 1280,
      "intermediate_size": 3420, "num_heads": 16, "in_chans": 3, "out_hidden_size": 2048,
      "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14, "window_size": 112,
      "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
      "temporal_patch_size": 2},
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 151936})");
}

Json PublishedDit(int64_t hidden) {
  return {{"input_size", 8},      {"patch_size", 1},
          {"in_channels", 1792},  {"dim", 1792},
          {"n_layers", 24},       {"n_heads", 28},
          {"n_kv_heads", 28},     {"multiple_of", 256},
          {"norm_eps", 1e-5},     {"latent_embedding_size", hidden},
          {"learn_sigma", false}, {"qk_norm", true}};
}

TEST(BackboneConfigTest, ThePublished3BHasTheDocumentedTensors) {
  Json json = Published3B();
  json["n_query"] = 64;
  json["dit"] = PublishedDit(2048);
  ASSERT_OK_AND_ASSIGN(const BackboneConfig config, BackboneConfig::FromJson(json.dump()));
  const TensorShapes shapes = ExpectedTensors(config);
  EXPECT_EQ(Count(shapes, "model.dit."), 1'362'257'824);
  EXPECT_EQ(Count(ExpectedTensors(*config.dit)), 1'362'257'824);
  EXPECT_EQ(ExpectedTensors(*config.dit).size(), 642u);
  EXPECT_EQ(shapes.at("model.dit.model.layers.23.feed_forward.linear_1.weight"),
            (std::vector<int64_t>{4864, 1792}));
  EXPECT_EQ(shapes.at("model.latent_queries"), (std::vector<int64_t>{1, 64, 2048}));
  EXPECT_EQ(shapes.at("visual.patch_embed.proj.weight"),
            (std::vector<int64_t>{1280, 3, 2, 14, 14}));
  EXPECT_EQ(shapes.at("visual.merger.mlp.0.weight"), (std::vector<int64_t>{5120, 5120}));
  EXPECT_EQ(shapes.at("model.layers.35.self_attn.k_proj.weight"),
            (std::vector<int64_t>{256, 2048}));
  EXPECT_FALSE(shapes.contains("lm_head.weight"));
  // 12 tensors a layer, embedding and norm; 12 a block, patches, and 5 of the merger.
  EXPECT_EQ(shapes.size(), 36u * 12 + 2 + 32 * 12 + 6 + 1 + 642);
  // V h + L (2 h² + 2 h kv + 3 h f + (h + 2 kv) + 2 h) + h.
  EXPECT_EQ(Count(shapes, "model.layers.") + Count(shapes, "model.embed_tokens.") +
                Count(shapes, "model.norm."),
            int64_t{151936} * 2048 +
                int64_t{36} * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 11008 + 2560 + 4096) +
                2048);
  EXPECT_EQ(Count(shapes, "visual."),
            1280 * 1176 +
                int64_t{32} *
                    (4 * 1280 * 1280 + 4 * 1280 + 3 * 1280 * 3420 + 2 * 3420 + 1280 + 2 * 1280) +
                1280 + 5120 * 5120 + 5120 + 5120 * 2048 + 2048);
}

TEST(BackboneConfigTest, ThePublished7BHasTheDocumentedTensors) {
  Json json = Published3B();
  json.update({{"hidden_size", 3584},
               {"intermediate_size", 18944},
               {"num_hidden_layers", 28},
               {"num_attention_heads", 28},
               {"num_key_value_heads", 4},
               {"vocab_size", 152064},
               {"tie_word_embeddings", false},
               {"n_query", 64},
               {"dit", PublishedDit(3584)}});
  json["vision_config"]["out_hidden_size"] = 3584;
  ASSERT_OK_AND_ASSIGN(const BackboneConfig config, BackboneConfig::FromJson(json.dump()));
  const TensorShapes shapes = ExpectedTensors(config);
  EXPECT_EQ(Count(shapes, "model.dit."), 1'365'010'336);
  EXPECT_EQ(shapes.at("lm_head.weight"), (std::vector<int64_t>{152064, 3584}));
  EXPECT_EQ(shapes.at("model.layers.27.self_attn.v_proj.bias"), (std::vector<int64_t>{512}));
  // 8.29 billion without the generation branch, as published.
  EXPECT_EQ(Count(shapes) - Count(shapes, "model.dit.") - Count(shapes, "model.latent_queries"),
            8'292'166'656);
}

TEST(BackboneConfigTest, TheNestedSpellingReadsAsTheFlatOne) {
  const Json flat = Published3B();
  Json nested = {{"vision_config", flat["vision_config"]}, {"text_config", Json::object()}};
  for (const auto& [key, value] : flat.items()) {
    (key.ends_with("_token_id") ? nested : nested["text_config"])[key] = value;
  }
  nested["text_config"].erase("rope_scaling");
  nested["text_config"].erase("rope_theta");
  nested["text_config"].erase("vision_config");
  nested["text_config"]["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 1e6}, {"mrope_section", {16, 24, 24}}};
  ASSERT_OK_AND_ASSIGN(const BackboneConfig a, BackboneConfig::FromJson(flat.dump()));
  ASSERT_OK_AND_ASSIGN(const BackboneConfig b, BackboneConfig::FromJson(nested.dump()));
  EXPECT_EQ(a.ToJson(), b.ToJson());
}

TEST(BackboneConfigTest, ToJsonIsReadBack) {
  Json json = Published3B();
  json["n_query"] = 64;
  json["dit"] = PublishedDit(2048);
  ASSERT_OK_AND_ASSIGN(const BackboneConfig config, BackboneConfig::FromJson(json.dump()));
  ASSERT_OK_AND_ASSIGN(const BackboneConfig again, BackboneConfig::FromJson(config.ToJson()));
  EXPECT_EQ(config.ToJson(), again.ToJson());
  EXPECT_EQ(ExpectedTensors(config), ExpectedTensors(again));
}

TEST(BackboneConfigTest, ADitMayBeSpelledAtTheRoot) {
  Json json = Published3B();
  json["n_query"] = 64;
  json.update(PublishedDit(2048));
  json.erase("patch_size");
  ASSERT_OK_AND_ASSIGN(const BackboneConfig config, BackboneConfig::FromJson(json.dump()));
  ASSERT_TRUE(config.dit.has_value());
  EXPECT_EQ(config.dit->ffn_hidden_size, 4864);
}

TEST(BackboneConfigTest, TheReferenceModelsHaveExactlyTheExpectedTensors) {
  ASSERT_OK_AND_ASSIGN(const BackboneConfig qwen,
                       BackboneConfig::FromJson(ReadTestFile("qwen25vl/model/config.json")));
  EXPECT_EQ(ExpectedTensors(qwen), ShapesFrom("qwen25vl/tensor_names.json"));
  ASSERT_OK_AND_ASSIGN(const DitConfig dit, DitConfigFromJson(ReadTestFile("dit/config.json")));
  EXPECT_EQ(ExpectedTensors(dit), ShapesFrom("dit/tensor_names.json"));
}

TEST(BackboneConfigTest, EveryRequiredFieldIsAskedForByName) {
  Json full = Published3B();
  full["n_query"] = 64;
  full["dit"] = PublishedDit(2048);
  const auto expect_named = [](const Json& json, const std::string& name) {
    EXPECT_THAT(BackboneConfig::FromJson(json.dump()),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(name)));
  };
  for (const char* name :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "rms_norm_eps", "rope_theta", "rope_scaling",
        "tie_word_embeddings", "image_token_id", "video_token_id", "vision_start_token_id",
        "vision_end_token_id", "vision_config", "n_query"}) {
    Json json = full;
    json.erase(name);
    expect_named(json, name);
    json[name] = "text";
    expect_named(json, name);
  }
  for (const char* name : {"depth", "hidden_size", "intermediate_size", "num_heads", "in_chans",
                           "patch_size", "temporal_patch_size", "spatial_merge_size", "window_size",
                           "out_hidden_size", "fullatt_block_indexes"}) {
    Json json = full;
    json["vision_config"].erase(name);
    expect_named(json, name);
  }
  for (const char* name : {"dim", "n_layers", "n_heads", "in_channels", "input_size",
                           "latent_embedding_size", "norm_eps"}) {
    Json json = full;
    json["dit"].erase(name);
    expect_named(json, name);
  }
  Json json = full;
  json["dit"].erase("multiple_of");
  expect_named(json, "ffn_hidden_size");
}

struct Refusal {
  const char* pointer;
  Json value;
  const char* named;
};

TEST(BackboneConfigTest, WhatTheBackboneCannotDoIsRefused) {
  const Refusal refusals[] = {
      {"/use_sliding_window", true, "use_sliding_window"},
      {"/rope_scaling/type", "yarn", "type"},
      {"/rope_scaling/rope_type", "dynamic", "rope_type"},
      {"/rope_scaling/mrope_section", {16, 24}, "mrope_section"},
      {"/rope_scaling/mrope_section", {16, 24, 25}, "mrope_section"},
      {"/rope_scaling/mrope_section", {16, 24, -1}, "mrope_section"},
      {"/hidden_act", "gelu", "hidden_act"},
      {"/vision_config/hidden_act", "quick_gelu", "hidden_act"},
      {"/hidden_size", 2049, "hidden_size"},
      {"/hidden_size", -2048, "hidden_size"},
      {"/hidden_size", 2048.0, "hidden_size"},
      {"/hidden_size", 18446744073709551615u, "hidden_size"},
      {"/num_hidden_layers", 1000000, "num_hidden_layers"},
      {"/num_key_value_heads", 3, "num_key_value_heads"},
      {"/num_attention_heads", 0, "num_attention_heads"},
      {"/rms_norm_eps", 0, "rms_norm_eps"},
      {"/image_token_id", 151936, "image_token_id"},
      {"/vision_config/window_size", 27, "window_size"},
      {"/vision_config/fullatt_block_indexes", {32}, "fullatt_block_indexes"},
      {"/vision_config/out_hidden_size", 2049, "out_hidden_size"},
      {"/vision_config", {1, 2}, "vision_config"},
      {"/dit/patch_size", 2, "patch_size"},
      {"/dit/learn_sigma", true, "learn_sigma"},
      {"/dit/n_kv_heads", 14, "n_kv_heads"},
      {"/dit/multiple_of", 0, "multiple_of"},
      {"/dit/latent_embedding_size", 2047, "latent_embedding_size"},
      {"/n_query", 0, "n_query"},
  };
  for (const Refusal& refusal : refusals) {
    Json json = Published3B();
    json["n_query"] = 64;
    json["dit"] = PublishedDit(2048);
    json[Json::json_pointer(refusal.pointer)] = refusal.value;
    EXPECT_THAT(BackboneConfig::FromJson(json.dump()),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(refusal.named)))
        << refusal.pointer << " = " << refusal.value;
  }
  Json queries_alone = Published3B();
  queries_alone["n_query"] = 64;
  EXPECT_THAT(BackboneConfig::FromJson(queries_alone.dump()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("dit")));
}

TEST(BackboneConfigTest, AnythingButAJsonObjectIsRefused) {
  for (const char* text : {"", "{", "[]", "3", "null", "{\"hidden_size\": }", "\xff\xfe"}) {
    EXPECT_THAT(BackboneConfig::FromJson(text), StatusIs(absl::StatusCode::kInvalidArgument));
    EXPECT_THAT(DitConfigFromJson(text), StatusIs(absl::StatusCode::kInvalidArgument));
  }
}

TEST(BackboneConfigTest, DeepNestingIsRefusedWithoutRecursion) {
  std::string text = Published3B().dump();
  const std::string deep = std::string(1'000'000, '[') + std::string(1'000'000, ']');
  text.replace(text.find("\"silu\""), 6, deep);
  EXPECT_THAT(BackboneConfig::FromJson(text),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("hidden_act")));
}

TEST(BackboneConfigTest, AModelWithoutDitIsComplete) {
  ASSERT_OK_AND_ASSIGN(const BackboneConfig config, BackboneConfig::FromJson(Published3B().dump()));
  EXPECT_FALSE(config.dit.has_value());
  EXPECT_THAT(config.Validate(), IsOk());
  EXPECT_FALSE(ExpectedTensors(config).contains("model.latent_queries"));
}

}  // namespace
}  // namespace fedumm::model
