#include <ATen/TensorOperators.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/ones.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/safetensors.h"
#include "tests/model/lora/small_net.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

using ::fedumm::testing::IsOk;
using ::fedumm::testing::StatusIs;
using ::testing::HasSubstr;

float MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<float>();
}

std::string TemporaryFolder(const std::string& name) {
  const std::string folder = ::testing::TempDir() + "lora_adapter_test_" + name;
  std::filesystem::remove_all(folder);
  return folder;
}

class GoldenAdapterTest : public ::testing::TestWithParam<const char*> {};

TEST_P(GoldenAdapterTest, LoadsAndGivesPeftsOutput) {
  const at::NoGradGuard no_grad;
  SmallNet net;
  const std::string folder = GetParam();
  const at::Tensor ids = ReadTensors("input.safetensors").at("input_ids");
  const at::Tensor expected = ReadTensors(folder + "/expected.safetensors").at("output");
  EXPECT_GT(MaxDifference(net(ids), expected), 1e-3);
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), DataPath(folder)));
  EXPECT_LT(MaxDifference(net(ids), expected), 2e-6);
  ASSERT_THAT(adapter->Merge(), IsOk());
  EXPECT_LT(MaxDifference(net(ids), expected), 2e-6);
}

TEST_P(GoldenAdapterTest, IsSavedByteForByteAsPeftDid) {
  SmallNet net;
  const std::string golden = DataPath(GetParam());
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), golden));
  const std::string folder = TemporaryFolder(GetParam());
  ASSERT_THAT(adapter->Save(folder), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string expected, ReadFile(golden + "/adapter_model.safetensors"));
  ASSERT_OK_AND_ASSIGN(const std::string actual, ReadFile(folder + "/adapter_model.safetensors"));
  EXPECT_TRUE(actual == expected);
}

INSTANTIATE_TEST_SUITE_P(Peft, GoldenAdapterTest,
                         ::testing::Values("vanilla", "no_alpha_match", "rslora", "all_linear_like",
                                           "regex", "layers_to_transform", "exclude",
                                           "rank_pattern", "rank_pattern_rs", "dropout",
                                           "gaussian"));

TEST(LoraAdapterTest, VariantsThatAreNotComputedAreRefusedByName) {
  for (const auto& [folder, name] : std::vector<std::pair<std::string, std::string>>{
           {"bias_all", "bias"},
           {"bias_lora_only", "bias"},
           {"dora", "use_dora"},
           {"embedding", "embed_tokens"},
           {"lora_bias", "lora_bias"},
           {"modules_to_save", "modules_to_save"},
           {"target_parameters", "target_parameters"},
           {"trainable_tokens", "trainable_token_indices"}}) {
    SmallNet net;
    const auto adapter = LoraAdapter::Load(net.Linears(), DataPath(folder));
    EXPECT_FALSE(adapter.ok());
    EXPECT_THAT(std::string(adapter.status().message()), HasSubstr(name));
  }
}

TEST(LoraAdapterTest, MergedWeightsEqualPefts) {
  for (const std::string folder : {"vanilla", "rslora", "rank_pattern"}) {
    SmallNet net;
    ASSERT_OK_AND_ASSIGN(const std::string before, HashParameters(net.Parameters()));
    ASSERT_OK_AND_ASSIGN(auto adapter, LoraAdapter::Load(net.Linears(), DataPath(folder)));
    ASSERT_THAT(adapter->Merge(), IsOk());
    EXPECT_THAT(adapter->Merge(), StatusIs(absl::StatusCode::kFailedPrecondition));
    const Tensors merged = ReadTensors(folder + "/merged.safetensors");
    for (const auto& [name, weight] : net.Parameters()) {
      EXPECT_LT(MaxDifference(*weight, merged.at(name)), 1e-6) << name;
    }
    EXPECT_NE(HashParameters(net.Parameters()).value(), before);
    ASSERT_THAT(adapter->Unmerge(), IsOk());
    EXPECT_EQ(HashParameters(net.Parameters()).value(), before);
    EXPECT_THAT(adapter->Unmerge(), StatusIs(absl::StatusCode::kFailedPrecondition));
  }
}

// Of a base in half precision: PEFT adds in float32 and rounds once, so every bit must agree.
class MergedHalfTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(MergedHalfTest, EqualsPeftsBitForBit) {
  const std::string name = GetParam() == at::kHalf ? "float16" : "bfloat16";
  for (const std::string folder : {"vanilla", "rslora", "rank_pattern"}) {
    SmallNet net;
    for (const auto& [path, weight] : net.Parameters()) *weight = weight->to(GetParam());
    ASSERT_OK_AND_ASSIGN(auto adapter, LoraAdapter::Load(net.Linears(), DataPath(folder)));
    ASSERT_THAT(adapter->Merge(), IsOk());
    // The goldens hold the values in float32.
    const Tensors merged = ReadTensors(folder + "/merged_" + name + ".safetensors");
    for (const auto& [path, weight] : net.Parameters()) {
      EXPECT_EQ(weight->scalar_type(), GetParam());
      EXPECT_TRUE(at::equal(weight->to(at::kFloat), merged.at(path))) << folder << " " << path;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Peft, MergedHalfTest, ::testing::Values(at::kBFloat16, at::kHalf));

LoraConfig QueryAndValue() {
  LoraConfig config;
  config.r = 4;
  config.target_modules.names = {"q_proj", "v_proj"};
  return config;
}

TEST(LoraAdapterTest, AFreshAdapterChangesNothingAndFollowsItsSeed) {
  SmallNet net;
  const at::Tensor ids = ReadTensors("input.safetensors").at("input_ids");
  const at::Tensor frozen = net(ids);
  ASSERT_OK_AND_ASSIGN(auto adapter, LoraAdapter::Attach(net.Linears(), QueryAndValue(), 1));
  EXPECT_EQ(adapter->parameters().size(), 448);
  EXPECT_EQ(MaxDifference(net(ids), frozen), 0);
  const ArrayRecord first = adapter->ToArrays();
  const auto a = first.Find("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight")
                     ->floats()
                     .value();
  EXPECT_THAT(a, ::testing::Each(::testing::AllOf(::testing::Ge(-0.25f), ::testing::Le(0.25f))));
  EXPECT_GT(*std::max_element(a.begin(), a.end()), 0.2f);
  adapter.reset();
  EXPECT_EQ(net.linear("model.layers.0.self_attn.q_proj").hook, nullptr);
  adapter = LoraAdapter::Attach(net.Linears(), QueryAndValue(), 1).value();
  EXPECT_EQ(adapter->ToArrays(), first);
  adapter.reset();
  adapter = LoraAdapter::Attach(net.Linears(), QueryAndValue(), 2).value();
  EXPECT_FALSE(adapter->ToArrays() == first);
}

TEST(LoraAdapterTest, ALinearTakesOneAdapter) {
  SmallNet net;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(net.Linears(), QueryAndValue(), 1));
  EXPECT_THAT(LoraAdapter::Attach(net.Linears(), QueryAndValue(), 1).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("q_proj")));
}

TEST(LoraAdapterTest, TargetsThatMatchNothingAreAnError) {
  SmallNet net;
  LoraConfig config;
  config.target_modules.names = {"no_such_module"};
  EXPECT_THAT(LoraAdapter::Attach(net.Linears(), config, 1).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("target_modules")));
}

TEST(LoraAdapterTest, ATargetThatMatchesNothingIsNamedThoughOthersMatch) {
  SmallNet net;
  std::vector<NamedLinear> tied = net.Linears();
  std::erase_if(tied, [](const NamedLinear& named) { return named.path == "lm_head"; });
  LoraConfig config = QueryAndValue();
  config.target_modules.names.push_back("lm_head");
  EXPECT_THAT(LoraAdapter::Attach(tied, config, 1).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::AllOf(HasSubstr("lm_head"), HasSubstr("tied"),
                                        ::testing::Not(HasSubstr("q_proj")))));
  EXPECT_THAT(LoraAdapter::Attach(net.Linears(), config, 1), IsOk());
  config.target_modules.names = {"q_proj", "vproj", "o_porj"};
  EXPECT_THAT(LoraAdapter::Attach(net.Linears(), config, 1).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("vproj, o_porj")));
}

// PEFT ignores such a name, so its users have adapters with one.
TEST(LoraAdapterTest, AFolderMayNameATargetThatNeitherModelNorFileHas) {
  SmallNet net;
  const std::string folder = TemporaryFolder("unmatched");
  ASSERT_OK_AND_ASSIGN(auto adapter, LoraAdapter::Attach(net.Linears(), QueryAndValue(), 1));
  ASSERT_THAT(adapter->Save(folder), IsOk());
  const ArrayRecord arrays = adapter->ToArrays();
  LoraConfig config = adapter->config();
  adapter.reset();
  config.target_modules.names.push_back("query_key_value");
  ASSERT_THAT(WriteFileAtomically(folder + "/adapter_config.json", FormatPeftConfig(config)),
              IsOk());
  ASSERT_OK_AND_ASSIGN(adapter, LoraAdapter::Load(net.Linears(), folder));
  EXPECT_EQ(adapter->ToArrays(), arrays);
  ASSERT_THAT(adapter->Save(folder), IsOk());
  ASSERT_OK_AND_ASSIGN(const std::string saved, ReadFile(folder + "/adapter_config.json"));
  EXPECT_EQ(saved, FormatPeftConfig(config)) << "the name is kept";
}

TEST(LoraAdapterTest, AFolderWithTensorsOfATiedHeadIsRefusedWithTheReason) {
  SmallNet net;
  const std::string folder = TemporaryFolder("tied");
  LoraConfig config = QueryAndValue();
  config.target_modules.names.push_back("lm_head");
  ASSERT_OK_AND_ASSIGN(auto adapter, LoraAdapter::Attach(net.Linears(), config, 1));
  ASSERT_THAT(adapter->Save(folder), IsOk());
  adapter.reset();
  std::vector<NamedLinear> tied = net.Linears();
  std::erase_if(tied, [](const NamedLinear& named) { return named.path == "lm_head"; });
  EXPECT_THAT(LoraAdapter::Load(tied, folder).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       ::testing::AllOf(HasSubstr("lm_head.lora_A"), HasSubstr("tied"))));
}

TEST(LoraAdapterTest, BaseWeightsThatPeftAddedAreRefusedWithARemedy) {
  SmallNet net;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(net.Linears(), QueryAndValue(), 1));
  for (const std::string name : {"lm_head.weight", "lm_head.base_layer.weight"}) {
    ArrayRecord arrays = adapter->ToArrays();
    arrays.Set("base_model.model." + name, Array::FromFloats({1}, std::vector<float>{0}));
    EXPECT_THAT(adapter->FromArrays(arrays),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("save_embedding_layers")));
  }
}

TEST(LoraAdapterTest, SavesUnderTheNamesOfEitherLayout) {
  SmallNet net;
  LoraConfig config;
  config.target_modules.pattern = "model\\.layers\\.1\\..*";
  ASSERT_OK_AND_ASSIGN(auto adapter, LoraAdapter::Attach(net.Linears(), config, 1));
  const ArrayRecord arrays = adapter->ToArrays();
  const std::string folder = TemporaryFolder("new_names");
  const std::string back = TemporaryFolder("old_names");
  ASSERT_THAT(adapter->Save(folder, ModuleLayout::kTransformers5), IsOk());
  adapter.reset();
  ASSERT_OK_AND_ASSIGN(adapter, LoraAdapter::Load(net.Linears(), folder));
  EXPECT_EQ(adapter->layout(), ModuleLayout::kTransformers5);
  ASSERT_THAT(adapter->Save(back, ModuleLayout::kFile), IsOk());
  adapter.reset();
  ASSERT_OK_AND_ASSIGN(adapter, LoraAdapter::Load(net.Linears(), back));
  EXPECT_EQ(adapter->layout(), ModuleLayout::kFile);
  EXPECT_EQ(adapter->ToArrays(), arrays);
}

TEST(LoraAdapterTest, ArraysOfEitherLayoutAndAnyOrderAreTaken) {
  SmallNet net;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(net.Linears(), QueryAndValue(), 1));
  const ArrayRecord arrays = adapter->ToArrays();
  ArrayRecord other;
  std::vector<ArrayRecord::Item> items(arrays.begin(), arrays.end());
  for (auto it = items.rbegin(); it != items.rend(); ++it) {
    std::string key = it->first;
    key.replace(key.find("model.layers"), 12, "model.language_model.layers");
    key.replace(key.rfind(".weight"), 7, ".default.weight");
    const std::vector<float> ones(it->second.num_elements(), 1.5f);
    other.Set(key, Array::FromFloats({it->second.shape().begin(), it->second.shape().end()}, ones));
  }
  ASSERT_THAT(adapter->FromArrays(other), IsOk());
  EXPECT_EQ(adapter->parameters().values().min().item<float>(), 1.5f);
  ASSERT_OK_AND_ASSIGN(const ArrayRecord like, adapter->ToArraysLike(other));
  EXPECT_EQ(like, other);
  ASSERT_THAT(adapter->FromArrays(arrays), IsOk());
  EXPECT_EQ(adapter->ToArrays(), arrays);
}

// `arrays` with `name` in each key, before "weight".
ArrayRecord Named(const ArrayRecord& arrays, const std::string& name) {
  ArrayRecord named;
  for (const auto& [key, array] : arrays) {
    named.Set(key.substr(0, key.rfind("weight")) + name + ".weight", array);
  }
  return named;
}

TEST(LoraAdapterTest, ArraysUnderAnyAdaptersNameAreTakenAndAnsweredUnderTheSameKeys) {
  SmallNet net;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), DataPath("vanilla")));
  const ArrayRecord arrays = adapter->ToArrays();
  for (const std::string name : {"vqa", "default", "weight", "lora_A", "my adapter-2"}) {
    const ArrayRecord named = Named(arrays, name);
    EXPECT_THAT(adapter->FromArrays(named), IsOk()) << name;
    EXPECT_EQ(adapter->ToArraysLike(named).value(), named);
  }
  EXPECT_EQ(adapter->ToArrays(), arrays);
}

TEST(LoraAdapterTest, ArraysOfTwoAdaptersAreRefusedByBothNames) {
  SmallNet net;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), DataPath("vanilla")));
  const ArrayRecord vqa = Named(adapter->ToArrays(), "vqa");
  const ArrayRecord draw = Named(adapter->ToArrays(), "draw");
  ArrayRecord both = vqa;
  both.Set(draw.begin()->first, draw.begin()->second);
  EXPECT_THAT(adapter->FromArrays(both),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'vqa' and 'draw'")));
  ArrayRecord mixed;  // one of each
  bool first = true;
  for (const auto& [key, array] : vqa) {
    mixed.Set(first ? key.substr(0, key.rfind("vqa")) + "weight" : key, array);
    first = false;
  }
  EXPECT_THAT(adapter->FromArrays(mixed),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'' and 'vqa'")));
}

TEST(LoraAdapterTest, AFolderWhoseKeysHoldTheAdaptersNameIsLoaded) {
  SmallNet net;
  const std::string folder = TemporaryFolder("named");
  ArrayRecord arrays;
  {
    ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), DataPath("vanilla")));
    arrays = adapter->ToArrays();
    ASSERT_THAT(adapter->Save(folder), IsOk());
  }
  std::vector<SafetensorsTensor> tensors;
  const ArrayRecord named = Named(arrays, "vqa");
  for (const auto& [key, array] : named) {
    tensors.push_back({.name = key,
                       .shape = {array.shape().begin(), array.shape().end()},
                       .bytes = array.bytes()});
  }
  ASSERT_THAT(WriteSafetensors(folder + "/adapter_model.safetensors", tensors, {}), IsOk());
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), folder));
  EXPECT_EQ(adapter->ToArrays(), arrays);
}

TEST(LoraAdapterTest, AnAnswerHasTheDtypesThatWereSent) {
  SmallNet net;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), DataPath("vanilla")));
  const ArrayRecord arrays = adapter->ToArrays();
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16, DType::kFloat32, DType::kFloat64}) {
    ArrayRecord sent;
    for (const auto& [key, array] : arrays) {
      const size_t bytes = array.num_elements() * ElementSize(dtype);
      sent.Set(key, Array::Create(dtype, {array.shape().begin(), array.shape().end()},
                                  std::string(bytes, '\0'))
                        .value());
    }
    ASSERT_OK_AND_ASSIGN(const ArrayRecord answer, adapter->ToArraysLike(sent));
    for (const auto& [key, array] : answer) {
      EXPECT_EQ(array.dtype(), dtype);
      const std::vector<double> got = array.ToDoubles();
      const std::vector<double> exact = arrays.Find(key)->ToDoubles();
      for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], exact[i], 4e-3);
    }
    ASSERT_THAT(adapter->FromArrays(sent), IsOk());
    EXPECT_EQ(adapter->ToArraysLike(sent).value(), sent);
    ASSERT_THAT(adapter->FromArrays(arrays), IsOk());
  }
}

TEST(LoraAdapterTest, AValueThatOverflowsTheDtypeThatWasSentIsAnErrorWithItsKey) {
  SmallNet net;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), DataPath("vanilla")));
  adapter->parameters().values().fill_(1e5);
  const ArrayRecord arrays = adapter->ToArrays();
  const auto& [key, array] = *arrays.begin();
  ArrayRecord sent;
  sent.Set(key, Array::Create(DType::kFloat16, {array.shape().begin(), array.shape().end()},
                              std::string(2 * array.num_elements(), '\0'))
                    .value());
  EXPECT_THAT(adapter->ToArraysLike(sent),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(key)));
}

TEST(LoraAdapterTest, ATrainedAdapterLoadsWhateverItsUnchangedBaseBeganWith) {
  for (const std::string init : {"\"orthogonal\"", "\"eva\"", "\"gaussian\"", "true", "false"}) {
    SmallNet net;
    const std::string folder = TemporaryFolder("init");
    std::filesystem::copy(DataPath("vanilla"), folder);
    ASSERT_OK_AND_ASSIGN(std::string config, ReadFile(folder + "/adapter_config.json"));
    const std::string before = "\"init_lora_weights\": true";
    config.replace(config.find(before), before.size(), "\"init_lora_weights\": " + init);
    ASSERT_THAT(WriteFileAtomically(folder + "/adapter_config.json", config), IsOk());
    ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), folder));
    const at::Tensor ids = ReadTensors("input.safetensors").at("input_ids");
    const at::NoGradGuard no_grad;
    EXPECT_LT(MaxDifference(net(ids), ReadTensors("vanilla/expected.safetensors").at("output")),
              2e-6);
    ASSERT_THAT(adapter->Save(folder + "_again"), IsOk());
    ASSERT_OK_AND_ASSIGN(const std::string saved, ReadFile(folder + "_again/adapter_config.json"));
    EXPECT_THAT(saved, HasSubstr("\"init_lora_weights\": " + init));
  }
  SmallNet net;
  LoraConfig fresh = QueryAndValue();
  fresh.init_lora_weights = LoraInit::kEva;
  EXPECT_THAT(LoraAdapter::Attach(net.Linears(), fresh, 1).status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("init_lora_weights")));
}

TEST(LoraAdapterTest, ArraysThatDoNotFitAreRefusedByKeyAndChangeNothing) {
  SmallNet net;
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Attach(net.Linears(), QueryAndValue(), 1));
  const ArrayRecord before = adapter->ToArrays();
  const std::string key = "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight";
  const auto with = [&](const Array& array) {
    ArrayRecord arrays;
    for (const auto& [name, value] : before) {
      arrays.Set(name, Array::FromFloats({value.shape().begin(), value.shape().end()},
                                         std::vector<float>(value.num_elements(), 9)));
    }
    arrays.Set(key, array);
    return arrays;
  };
  std::vector<float> values(32, 1);
  values[31] = std::numeric_limits<float>::quiet_NaN();
  std::vector<ArrayRecord> bad = {
      with(Array::FromFloats({8, 4}, values)),
      with(Array::FromFloats({4, 8}, std::vector<float>(32))),
      with(Array::FromFloats({32}, std::vector<float>(32))),
      with(Array::FromDoubles({8, 4}, std::vector<double>(32, 1e300))),
      with(Array::Create(DType::kInt32, {8, 4}, std::string(128, '\0')).value())};
  ArrayRecord missing;
  for (const auto& [name, value] : before) {
    if (name != key) missing.Set(name, value);
  }
  bad.push_back(missing);
  for (const ArrayRecord& arrays : bad) {
    EXPECT_THAT(adapter->FromArrays(arrays),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(key)));
    EXPECT_EQ(adapter->ToArrays(), before);
  }
  ArrayRecord extra = before;
  extra.Set("base_model.model.lm_head.weight", Array());
  EXPECT_THAT(adapter->FromArrays(extra),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("lm_head")));
  ArrayRecord twice = before;
  twice.Set("base_model.model.model.language_model.layers.1.self_attn.v_proj.lora_B.weight",
            *before.Find(key));
  EXPECT_THAT(adapter->FromArrays(twice),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
}

TEST(LoraAdapterTest, AFolderWhoseRanksContradictItsConfigurationIsRefused) {
  SmallNet net;
  const std::string folder = TemporaryFolder("ranks");
  std::filesystem::copy(DataPath("vanilla"), folder);
  std::filesystem::copy_file(DataPath("rank_pattern/adapter_model.safetensors"),
                             folder + "/adapter_model.safetensors",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(LoraAdapter::Load(net.Linears(), folder).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("q_proj.lora_A")));
}

TEST(LoraAdapterTest, AMissingFolderIsNotFound) {
  SmallNet net;
  EXPECT_THAT(LoraAdapter::Load(net.Linears(), DataPath("no_such_adapter")).status(),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(LoraAdapterTest, DropoutActsInTrainingOnlyAndFollowsItsSeed) {
  SmallNet net;
  const at::Tensor ids = ReadTensors("input.safetensors").at("input_ids");
  ASSERT_OK_AND_ASSIGN(const auto adapter, LoraAdapter::Load(net.Linears(), DataPath("dropout")));
  const at::Tensor without = net(ids);
  adapter->StartTraining(5);
  const at::Tensor with = net(ids);
  EXPECT_GT(MaxDifference(with, without), 1e-4);
  adapter->StartTraining(5);
  EXPECT_EQ(MaxDifference(net(ids), with), 0);
  adapter->StopTraining();
  EXPECT_EQ(MaxDifference(net(ids), without), 0);
}

TEST(HashParametersTest, EveryBitAndNameCounts) {
  at::Tensor a = at::ones({2, 3});
  at::Tensor b = a.clone();
  const std::string hash = HashParameters({{"a", &a}}).value();
  EXPECT_EQ(HashParameters({{"a", &b}}).value(), hash);
  EXPECT_NE(HashParameters({{"b", &a}}).value(), hash);
  at::Tensor reshaped = a.view({3, 2});
  EXPECT_NE(HashParameters({{"a", &reshaped}}).value(), hash);
  b.view({-1})[5] = std::nextafterf(1, 2);
  EXPECT_NE(HashParameters({{"a", &b}}).value(), hash);
}

}  // namespace
}  // namespace fedumm::model
