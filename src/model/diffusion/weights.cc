#include "model/diffusion/weights.h"

#include <ATen/core/TensorBody.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "model/checkpoint/mapped_tensor.h"
#include "model/checkpoint/safetensors_index.h"

namespace fedumm::model {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStem = "diffusion_pytorch_model";
constexpr int64_t kMaxPartIndexBytes = int64_t{64} << 20;
constexpr size_t kMaxNamesShown = 5;

// Which variant to look for first.
std::array<const char*, 3> Variants(at::ScalarType dtype) {
  if (dtype == at::kHalf) return {".fp16", "", ".bf16"};
  if (dtype == at::kBFloat16) return {".bf16", "", ".fp16"};
  return {"", ".bf16", ".fp16"};
}

// Early diffusers had other names for the attention of a VAE.
std::string TodaysName(std::string name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kRenamed = {{
      {".attentions.0.query.", ".attentions.0.to_q."},
      {".attentions.0.key.", ".attentions.0.to_k."},
      {".attentions.0.value.", ".attentions.0.to_v."},
      {".attentions.0.proj_attn.", ".attentions.0.to_out.0."},
  }};
  for (const auto& [old_part, new_part] : kRenamed) {
    const size_t at = name.find(old_part);
    if (at != std::string::npos) return name.replace(at, old_part.size(), new_part);
  }
  return name;
}

using ShardNames = std::map<std::string, std::set<std::string>>;  // file -> tensors it must hold

std::string FirstOf(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMaxNamesShown);
  return absl::StrCat(
      absl::StrJoin(names.begin(), names.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
      names.size() > shown ? absl::StrCat(" and ", names.size() - shown, " more") : "");
}

}  // namespace

absl::StatusOr<PartWeights> PartWeights::Open(const std::string& folder, at::ScalarType dtype,
                                              at::Device device) {
  PartWeights weights(folder, dtype, device);
  std::error_code error;
  for (const char* const variant : Variants(dtype)) {
    const std::string single = absl::StrCat(folder, "/", kStem, variant, ".safetensors");
    if (fs::exists(single, error)) {
      FEDUMM_RETURN_IF_ERROR(weights.Add(single, nullptr));
      return weights;
    }
    const std::string index =
        absl::StrCat(folder, "/", kStem, ".safetensors.index", variant, ".json");
    if (!fs::exists(index, error)) continue;
    FEDUMM_ASSIGN_OR_RETURN(const SafetensorsIndex read,
                            ReadSafetensorsIndex(index, kMaxPartIndexBytes));
    ShardNames shards;
    for (const auto& [name, file] : read.file_of) shards[file].insert(name);
    for (const auto& [file, names] : shards) {
      FEDUMM_RETURN_IF_ERROR(weights.Add(absl::StrCat(folder, "/", file), &names));
    }
    return weights;
  }
  return absl::NotFoundError(absl::StrCat(
      folder, " holds no ", kStem, ".safetensors, no variant of it and no index of its shards"));
}

absl::Status PartWeights::Add(const std::string& path, const std::set<std::string>* expected) {
  FEDUMM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  files_.push_back(file);
  for (const SafetensorsTensor& tensor : files_.back().tensors()) {
    if (expected != nullptr && !expected->contains(tensor.name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " holds ", tensor.name, ", which the index does not put there"));
    }
    const auto [place, is_new] =
        entries_.try_emplace(TodaysName(tensor.name), Entry{files_.size() - 1, &tensor});
    if (!is_new) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", tensor.name, " is there twice"));
    }
  }
  if (expected == nullptr || expected->size() == files_.back().tensors().size()) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat(path, " lacks tensors that the index puts there"));
}

at::Tensor PartWeights::Take(const std::string& name, at::IntArrayRef shape) {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    missing_.push_back(name);
    return {};
  }
  taken_.insert(name);
  const SafetensorsTensor& tensor = *found->second.tensor;
  if (at::IntArrayRef(tensor.shape) != shape) {
    unfit_.push_back(absl::StrCat(name, " is [", absl::StrJoin(tensor.shape, ", "), "], not [",
                                  absl::StrJoin(shape, ", "), "]"));
    return {};
  }
  const absl::StatusOr<at::Tensor> mapped = MappedTensor(files_[found->second.file], tensor);
  if (!mapped.ok() || !at::isFloatingType(mapped->scalar_type())) {
    unfit_.push_back(absl::StrCat(name, " is ", std::string(SafetensorsDTypeName(tensor.dtype))));
    return {};
  }
  return mapped->to(device_, dtype_);
}

Linear PartWeights::TakeLinear(const std::string& path, int64_t in, int64_t out, bool bias) {
  Linear linear;
  linear.weight = Take(path + ".weight", {out, in});
  if (bias) linear.bias = Take(path + ".bias", {out});
  return linear;
}

Convolution PartWeights::TakeConvolution(const std::string& path, int64_t in, int64_t out,
                                         int64_t kernel, int64_t stride) {
  return {Take(path + ".weight", {out, in, kernel, kernel}), Take(path + ".bias", {out}), stride};
}

GroupNorm PartWeights::TakeGroupNorm(const std::string& path, int64_t channels, int64_t groups,
                                     double eps) {
  return {Take(path + ".weight", {channels}), Take(path + ".bias", {channels}), groups, eps};
}

ResnetBlock PartWeights::TakeResnet(const std::string& path, int64_t in, int64_t out,
                                    int64_t time_channels, int64_t groups, double eps) {
  ResnetBlock block;
  block.norm1 = TakeGroupNorm(path + ".norm1", in, groups, eps);
  block.conv1 = TakeConvolution(path + ".conv1", in, out, 3);
  if (time_channels > 0) block.time = TakeLinear(path + ".time_emb_proj", time_channels, out);
  block.norm2 = TakeGroupNorm(path + ".norm2", out, groups, eps);
  block.conv2 = TakeConvolution(path + ".conv2", out, out, 3);
  if (in != out) block.shortcut = TakeConvolution(path + ".conv_shortcut", in, out, 1);
  return block;
}

absl::Status PartWeights::Finish(std::initializer_list<std::string_view> unused) const {
  std::vector<std::string> unexpected;
  for (const auto& entry : entries_) {
    const std::string& name = entry.first;
    const bool known = std::any_of(unused.begin(), unused.end(), [&](std::string_view prefix) {
      return name.starts_with(prefix);
    });
    if (!known && !taken_.contains(name)) unexpected.push_back(name);
  }
  std::vector<std::string> errors;
  if (!missing_.empty()) errors.push_back("missing: " + FirstOf(missing_));
  if (!unexpected.empty()) errors.push_back("unexpected: " + FirstOf(unexpected));
  if (!unfit_.empty()) errors.push_back("unfit: " + FirstOf(unfit_));
  if (errors.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the weights in ", folder_,
                   " do not fit the config.json beside them: ", absl::StrJoin(errors, "; ")));
}

}  // namespace fedumm::model
