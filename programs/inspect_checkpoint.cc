#include "programs/inspect_checkpoint.h"

#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "model/checkpoint/checkpoint_folder.h"
#include "model/checkpoint/mapped_tensor.h"
#include "model/guarded.h"
#include "programs/report/format.h"

namespace fedumm::programs {
namespace {

constexpr int64_t kElementsAtOnce = int64_t{1} << 22;

// The longest prefix comes first.
constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kParts = {{
    {"model.dit.", "DiT"},
    {"model.latent_queries", "latent queries"},
    {"visual.", "vision tower"},
    {"lm_head.", "head"},
    {"model.", "decoder"},
}};

std::string_view PartOf(std::string_view name) {
  for (const auto& [prefix, part] : kParts) {
    if (name.starts_with(prefix)) return part;
  }
  return "other";
}

absl::Status CheckFinite(const model::CheckpointFolder& files) {
  for (const auto& [name, place] : files.tensors()) {
    const model::SafetensorsFile& file = files.files()[place.file];
    FEDUMM_RETURN_IF_ERROR(file.CheckUnchanged());
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tensor, model::MappedTensor(file, *place.data));
    if (!tensor.is_floating_point()) continue;
    for (const at::Tensor& part : tensor.flatten().split(kElementsAtOnce)) {
      if (at::isfinite(part).all().item<bool>()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("checkpoint: ", ValidUtf8(name, 200), " holds a number that is not finite"));
    }
    file.Forget(place.data->bytes);
  }
  return files.CheckUnchanged();
}

// The last part of each path, which is how a config of an adapter names modules; a number with the
// part before it.
std::string Targets(model::UnifiedModel& unified) {
  std::set<std::string> names;
  for (const model::NamedLinear& linear : unified.Linears()) {
    size_t begin = linear.path.rfind('.');
    if (begin != linear.path.npos && absl::ascii_isdigit(linear.path[begin + 1])) {
      begin = linear.path.rfind('.', begin - 1);
    }
    names.insert(linear.path.substr(begin + 1));
  }
  return absl::StrJoin(names, ", ");
}

void PrintSizes(const model::BackboneConfig& config) {
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  std::printf("  decoder: %lld layers, width %lld, heads %lld (keys %lld), vocabulary %lld%s\n",
              number(config.text.num_hidden_layers), number(config.text.hidden_size),
              number(config.text.num_attention_heads), number(config.text.num_key_value_heads),
              number(config.text.vocab_size),
              config.text.tie_word_embeddings ? ", head tied to the embedding" : "");
  std::printf("  vision tower: %lld blocks, width %lld, patches of %lld pixels\n",
              number(config.vision.depth), number(config.vision.hidden_size),
              number(config.vision.patch_size));
  if (!config.dit.has_value()) return;
  std::printf("  DiT: %lld layers, width %lld, heads %lld, feed-forward %lld, latents %s\n",
              number(config.dit->n_layers), number(config.dit->dim), number(config.dit->n_heads),
              number(config.dit->ffn_hidden_size),
              absl::StrCat("[", config.dit->in_channels, ", ", config.dit->input_size, ", ",
                           config.dit->input_size, "]; ", config.n_query, " latent queries")
                  .c_str());
}

void PrintTensors(const model::CheckpointFolder& files) {
  std::map<std::string_view, int64_t> parameters;
  std::map<std::string, size_t> bytes;
  for (const auto& [name, place] : files.tensors()) {
    const model::SafetensorsTensor& tensor = *place.data;
    int64_t count = 1;
    for (const int64_t dim : tensor.shape) count *= dim;
    parameters[PartOf(name)] += count;
    bytes[std::string(SafetensorsDTypeName(tensor.dtype))] += tensor.bytes.size();
  }
  int64_t all = 0;
  for (const auto& [part, count] : parameters) {
    std::printf("  parameters of %s: %s\n", std::string(part).c_str(), Thousands(count).c_str());
    all += count;
  }
  std::printf("  parameters in all: %s\n", Thousands(all).c_str());
  for (const auto& [dtype, size] : bytes) {
    std::printf("  %s: %s\n", dtype.c_str(), HumanBytes(static_cast<double>(size)).c_str());
  }
  if (files.num_left_out() > 0) {
    std::printf("  %lld tensors of the target encoder or computed ones, not read\n",
                static_cast<long long>(files.num_left_out()));
  }
  for (const auto& [name, place] : files.tensors()) {
    std::printf("  %-6s %-20s %s\n", std::string(SafetensorsDTypeName(place.data->dtype)).c_str(),
                absl::StrCat("[", absl::StrJoin(place.data->shape, ", "), "]").c_str(),
                ValidUtf8(name, 200).c_str());
  }
}

}  // namespace

absl::Status InspectCheckpoint(const std::string& folder, bool check) {
  return model::Guarded([&]() -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<model::UnifiedModel> unified,
                            model::Load(folder, {.extra_prefix = "pixel_codec."}));
    FEDUMM_ASSIGN_OR_RETURN(const model::CheckpointFolder files,
                            model::CheckpointFolder::Open(folder));
    const model::BackboneConfig& config = unified->config();
    std::printf(
        "%s: %s, %zu tensors in %zu file%s\n", folder.c_str(),
        config.dit.has_value() ? "model that answers and draws" : "model that answers (no DiT)",
        files.tensors().size(), files.files().size(), files.files().size() == 1 ? "" : "s");
    PrintSizes(config);
    std::error_code error;
    for (const char* name : {"tokenizer.json", "generation_config.json", "diffusion-decoder"}) {
      std::printf("  %s: %s\n", name,
                  std::filesystem::exists(std::filesystem::path(folder) / name, error) ? "there"
                                                                                       : "missing");
    }
    std::printf("  an adapter can name: %s\n", Targets(*unified).c_str());
    PrintTensors(files);
    if (!check) return absl::OkStatus();
    FEDUMM_RETURN_IF_ERROR(CheckFinite(files));
    std::printf("  all numbers are finite\n");
    return absl::OkStatus();
  });
}

}  // namespace fedumm::programs
