#include "model/backbone/decoder.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/tril.h>

#include <algorithm>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "fedumm/model/backbone.h"
#include "model/backbone/ops.h"
#include "model/backbone/recomputed.h"

namespace fedumm::model {
namespace {

// True where a query may look: [B or 1, 1, N, M]. A padded query looks at itself, so that no row is
// empty (its output is unused).
at::Tensor AttentionMask(const at::Tensor& mask, int64_t queries, int64_t keys, at::Device device) {
  const auto options = at::TensorOptions().device(device).dtype(at::kBool);
  const at::Tensor causal = at::tril(at::ones({queries, keys}, options), keys - queries);
  if (!mask.defined()) return causal.view({1, 1, queries, keys});
  TORCH_CHECK(mask.dim() == 2 && mask.size(1) == keys, "Decode: a mask of ", mask.sizes(), " for ",
              keys, " tokens");
  if (queries == 1) {  // which is no padding and looks at itself
    return mask.to(device).to(at::kBool).view({-1, 1, 1, keys});
  }
  const at::Tensor self =
      causal & at::tril(at::ones({queries, keys}, options), keys - queries - 1).logical_not();
  const at::Tensor visible = mask.to(device).to(at::kBool).view({-1, 1, 1, keys});
  return (visible & causal) | self;
}

}  // namespace

Decoder::Decoder(const TextConfig& config) : config_(config), layers_(config.num_hidden_layers) {
  const int64_t head_dim = config_.head_dim();
  const at::Tensor steps = at::arange(0, head_dim, 2, at::kFloat) / static_cast<double>(head_dim);
  frequencies_ = at::reciprocal(at::pow(config_.rope_theta, steps));
  std::vector<int64_t> axes;
  for (size_t axis = 0; axis < config_.mrope_section.size(); ++axis) {
    axes.insert(axes.end(), config_.mrope_section[axis], static_cast<int64_t>(axis));
  }
  axes_ = at::from_blob(axes.data(), {static_cast<int64_t>(axes.size())}, at::kLong).clone();
}

void Decoder::Visit(ModuleVisitor& visitor) {
  visitor.VisitTensor("model.embed_tokens.weight", embed_tokens_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string name = absl::StrCat("model.layers.", i, ".");
    Layer& layer = layers_[i];
    visitor.VisitTensor(name + "input_layernorm.weight", layer.input_norm);
    visitor.VisitTensor(name + "post_attention_layernorm.weight", layer.post_norm);
    visitor.VisitLinear(name + "self_attn.q_proj", layer.q);
    visitor.VisitLinear(name + "self_attn.k_proj", layer.k);
    visitor.VisitLinear(name + "self_attn.v_proj", layer.v);
    visitor.VisitLinear(name + "self_attn.o_proj", layer.o);
    visitor.VisitLinear(name + "mlp.gate_proj", layer.gate);
    visitor.VisitLinear(name + "mlp.up_proj", layer.up);
    visitor.VisitLinear(name + "mlp.down_proj", layer.down);
  }
  visitor.VisitTensor("model.norm.weight", norm_);
  if (!config_.tie_word_embeddings) visitor.VisitLinear("lm_head", lm_head_);
  frequencies_ = frequencies_.to(embed_tokens_.device());
  axes_ = axes_.to(embed_tokens_.device());
}

at::Tensor Decoder::Embed(const at::Tensor& ids) const { return at::embedding(embed_tokens_, ids); }

Decoder::Angles Decoder::AnglesOf(const at::Tensor& positions, at::ScalarType dtype) const {
  TORCH_CHECK(positions.dim() == 3 && positions.size(0) == 3, "Decode: positions of ",
              positions.sizes(), ", not [3, B, N]");
  const at::Tensor angles =
      positions.to(frequencies_.device()).index_select(0, axes_).permute({1, 2, 0}) * frequencies_;
  return {at::cos(angles).to(dtype), at::sin(angles).to(dtype)};
}

at::Tensor Decoder::Run(const at::Tensor& embeds, const at::Tensor& positions,
                        const at::Tensor& mask, KeyValueCache* cache,
                        std::vector<at::Tensor>* trace) const {
  TORCH_CHECK(embeds.dim() == 3 && embeds.size(2) == config_.hidden_size, "Decode: embeddings of ",
              embeds.sizes());
  const int64_t batch = embeds.size(0);
  const int64_t length = embeds.size(1);
  const int64_t past = cache == nullptr ? 0 : cache->length();
  // A single new token looks at all that is no padding.
  const bool unmasked = !mask.defined() && (past == 0 || length == 1);
  Call call{.angles = AnglesOf(positions, embeds.scalar_type()),
            .mask = {},
            .causal = unmasked && past == 0,
            .batch = batch,
            .length = length,
            .head_dim = config_.head_dim(),
            .epsilon = config_.rms_norm_eps};
  if (!unmasked) call.mask = AttentionMask(mask, length, past + length, embeds.device());
  const bool recompute =
      cache == nullptr && GradientCheckpointing::enabled() && at::GradMode::is_enabled();

  at::Tensor x = embeds.reshape({batch * length, config_.hidden_size});
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (trace != nullptr) trace->push_back(x.view(embeds.sizes()));
    const Layer& layer = layers_[i];
    if (!recompute) {
      x = RunLayer(layer, call, x, cache, i);
      continue;
    }
    x = Recomputed(
        [layer, call](const at::Tensor& input) { return RunLayer(layer, call, input, nullptr, 0); },
        {layer.q.hook, layer.k.hook, layer.v.hook, layer.o.hook, layer.gate.hook, layer.up.hook,
         layer.down.hook},
        x);
  }
  if (cache != nullptr) cache->EndStep(length);
  return RmsNorm(x, norm_, config_.rms_norm_eps).view(embeds.sizes());
}

std::pair<at::Tensor, at::Tensor> KeyValueCache::Append(size_t layer, const at::Tensor& keys,
                                                        const at::Tensor& values) {
  const int64_t end = length_ + keys.size(1);
  if (end > capacity_) capacity_ = std::max(end, 2 * capacity_);
  const auto append = [&](const at::Tensor& tokens, std::vector<at::Tensor>& layers) {
    std::vector<int64_t> shape = tokens.sizes().vec();
    shape[1] = capacity_;
    if (layer == layers.size()) layers.push_back(at::empty(shape, tokens.options()));
    at::Tensor& all = layers[layer];
    if (all.size(1) < capacity_) {
      const at::Tensor larger = at::empty(shape, tokens.options());
      larger.narrow(1, 0, length_).copy_(all.narrow(1, 0, length_));
      all = larger;
    }
    all.narrow(1, length_, tokens.size(1)).copy_(tokens);
    return all.narrow(1, 0, end);
  };
  at::Tensor all_keys = append(keys, keys_);
  return {std::move(all_keys), append(values, values_)};
}

void KeyValueCache::KeepRows(const at::Tensor& rows) {
  for (std::vector<at::Tensor>* const layers : {&keys_, &values_}) {
    for (at::Tensor& all : *layers) all = all.index_select(0, rows);
  }
}

at::Tensor Decoder::RunLayer(const Layer& layer, const Call& call, const at::Tensor& x,
                             KeyValueCache* cache, size_t index) {
  const auto heads = [&](const at::Tensor& rows) {
    return rows.view({call.batch, call.length, -1, call.head_dim});
  };
  const auto& [cos, sin] = call.angles;
  at::Tensor normed = RmsNorm(x, layer.input_norm, call.epsilon);
  const std::vector<at::Tensor> qkv = ForwardGroup(normed, {&layer.q, &layer.k, &layer.v});
  const at::Tensor q = Rotate(heads(qkv[0]), cos, sin, RotaryPairs::kHalves);
  at::Tensor k = Rotate(heads(qkv[1]), cos, sin, RotaryPairs::kHalves);
  at::Tensor v = heads(qkv[2]);
  if (cache != nullptr) std::tie(k, v) = cache->Append(index, k, v);
  const at::Tensor attended =
      x + layer.o(Attend(q, k, v, call.causal, call.mask).view({call.batch * call.length, -1}));
  normed = RmsNorm(attended, layer.post_norm, call.epsilon);
  const std::vector<at::Tensor> inner = ForwardGroup(normed, {&layer.gate, &layer.up});
  return attended + layer.down(SwiGlu(inner[0], inner[1]));
}

at::Tensor Decoder::Logits(const at::Tensor& hidden) const {
  return config_.tie_word_embeddings ? at::linear(hidden, embed_tokens_) : lm_head_(hidden);
}

}  // namespace fedumm::model
