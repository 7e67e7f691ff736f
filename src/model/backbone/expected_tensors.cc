#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/printable.h"
#include "fedumm/model/config.h"

namespace fedumm::model {
namespace {

void AddLinear(TensorShapes& shapes, const std::string& path, int64_t out, int64_t in, bool bias) {
  shapes[path + ".weight"] = {out, in};
  if (bias) shapes[path + ".bias"] = {out};
}

void AddVision(TensorShapes& shapes, const VisionConfig& config) {
  const int64_t width = config.hidden_size;
  const int64_t merged = width * config.merge_area();
  shapes["visual.patch_embed.proj.weight"] = {width, config.in_channels, config.temporal_patch_size,
                                              config.patch_size, config.patch_size};
  for (int64_t i = 0; i < config.depth; ++i) {
    const std::string block = absl::StrCat("visual.blocks.", i, ".");
    shapes[block + "norm1.weight"] = {width};
    shapes[block + "norm2.weight"] = {width};
    AddLinear(shapes, block + "attn.qkv", 3 * width, width, true);
    AddLinear(shapes, block + "attn.proj", width, width, true);
    AddLinear(shapes, block + "mlp.gate_proj", config.intermediate_size, width, true);
    AddLinear(shapes, block + "mlp.up_proj", config.intermediate_size, width, true);
    AddLinear(shapes, block + "mlp.down_proj", width, config.intermediate_size, true);
  }
  shapes["visual.merger.ln_q.weight"] = {width};
  AddLinear(shapes, "visual.merger.mlp.0", merged, merged, true);
  AddLinear(shapes, "visual.merger.mlp.2", config.out_hidden_size, merged, true);
}

void AddText(TensorShapes& shapes, const TextConfig& config) {
  const int64_t width = config.hidden_size;
  const int64_t kv = config.num_key_value_heads * config.head_dim();
  shapes["model.embed_tokens.weight"] = {config.vocab_size, width};
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i, ".");
    shapes[layer + "input_layernorm.weight"] = {width};
    shapes[layer + "post_attention_layernorm.weight"] = {width};
    AddLinear(shapes, layer + "self_attn.q_proj", width, width, true);
    AddLinear(shapes, layer + "self_attn.k_proj", kv, width, true);
    AddLinear(shapes, layer + "self_attn.v_proj", kv, width, true);
    AddLinear(shapes, layer + "self_attn.o_proj", width, width, false);
    AddLinear(shapes, layer + "mlp.gate_proj", config.intermediate_size, width, false);
    AddLinear(shapes, layer + "mlp.up_proj", config.intermediate_size, width, false);
    AddLinear(shapes, layer + "mlp.down_proj", width, config.intermediate_size, false);
  }
  shapes["model.norm.weight"] = {width};
  if (!config.tie_word_embeddings) AddLinear(shapes, "lm_head", config.vocab_size, width, false);
}

void AddDit(TensorShapes& shapes, const DitConfig& config) {
  const std::string root = "model.dit.model.";
  const int64_t width = config.dim;
  const int64_t time = config.time_embedding_size();
  AddLinear(shapes, root + "caption_projection.linear_1", width, config.latent_embedding_size,
            true);
  AddLinear(shapes, root + "caption_projection.linear_2", width, width, true);
  AddLinear(shapes, root + "patch_embedder.proj", width, config.in_channels, true);
  AddLinear(shapes, root + "time_caption_embed.timestep_embedder.linear_1", time, 256, true);
  AddLinear(shapes, root + "time_caption_embed.timestep_embedder.linear_2", time, time, true);
  shapes[root + "time_caption_embed.caption_embedder.0.weight"] = {width};
  shapes[root + "time_caption_embed.caption_embedder.0.bias"] = {width};
  AddLinear(shapes, root + "time_caption_embed.caption_embedder.1", time, width, true);
  AddLinear(shapes, root + "norm_out.linear_1", width, time, true);
  AddLinear(shapes, root + "norm_out.linear_2", config.in_channels, width, true);
  for (int64_t i = 0; i < config.n_layers; ++i) {
    const std::string layer = absl::StrCat(root, "layers.", i, ".");
    shapes[layer + "gate"] = {config.n_heads};
    for (const char* attn : {"attn1.", "attn2."}) {
      for (const char* norm : {"norm_q.", "norm_k."}) {
        shapes[layer + attn + norm + "weight"] = {width};
        shapes[layer + attn + norm + "bias"] = {width};
      }
      for (const char* to : {"to_q", "to_k", "to_v"}) {
        AddLinear(shapes, layer + attn + to, width, width, false);
      }
    }
    AddLinear(shapes, layer + "attn2.to_out.0", width, width, false);
    AddLinear(shapes, layer + "feed_forward.linear_1", config.ffn_hidden_size, width, false);
    AddLinear(shapes, layer + "feed_forward.linear_2", width, config.ffn_hidden_size, false);
    AddLinear(shapes, layer + "feed_forward.linear_3", config.ffn_hidden_size, width, false);
    AddLinear(shapes, layer + "norm1.linear", 4 * width, time, true);
    for (const char* norm : {"norm1.norm", "norm2", "ffn_norm1", "ffn_norm2", "norm1_context"}) {
      shapes[layer + norm + ".weight"] = {width};
    }
  }
}

constexpr size_t kMaxNamesInError = 5;

std::string FirstNames(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMaxNamesInError);
  return absl::StrCat(
      absl::StrJoin(names.begin(), names.begin() + static_cast<ptrdiff_t>(shown), ", "),
      names.size() > shown ? absl::StrCat(" and ", names.size() - shown, " more") : "");
}

}  // namespace

TensorShapes ExpectedTensors(const BackboneConfig& config) {
  TensorShapes shapes;
  AddVision(shapes, config.vision);
  AddText(shapes, config.text);
  if (config.dit.has_value()) {
    shapes["model.latent_queries"] = {1, config.n_query, config.text.hidden_size};
    AddDit(shapes, *config.dit);
  }
  return shapes;
}

TensorShapes ExpectedTensors(const DitConfig& config) {
  TensorShapes shapes;
  AddDit(shapes, config);
  return shapes;
}

absl::Status CheckShapes(const TensorShapes& expected, const TensorShapes& found) {
  std::vector<std::string> missing, unexpected, wrong;
  for (const auto& [name, shape] : expected) {
    const auto it = found.find(name);
    if (it == found.end()) {
      missing.push_back(name);
    } else if (it->second != shape) {
      wrong.push_back(absl::StrCat(name, " is [", absl::StrJoin(it->second, ", "), "], not [",
                                   absl::StrJoin(shape, ", "), "]"));
    }
  }
  for (const auto& [name, shape] : found) {
    if (!expected.contains(name)) unexpected.push_back(ValidUtf8(name, 200));
  }
  std::vector<std::string> errors;
  if (!missing.empty()) errors.push_back("missing: " + FirstNames(missing));
  if (!unexpected.empty()) errors.push_back("unexpected: " + FirstNames(unexpected));
  if (!wrong.empty()) errors.push_back("unfit: " + FirstNames(wrong));
  if (errors.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the checkpoint does not fit the config: ", absl::StrJoin(errors, "; ")));
}

}  // namespace fedumm::model
