#include "model/backbone/dit.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/addcmul.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tanh.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "model/backbone/ops.h"

namespace fedumm::model {
namespace {

// Fixed in the reference, not in the config.
constexpr double kQkNormEps = 1e-5;
constexpr double kCaptionNormEps = 1e-5;
constexpr double kOutNormEps = 1e-6;
constexpr double kTheta = 10000.0;
constexpr int64_t kTimeFrequencies = 128;

}  // namespace

DiffusionTransformer::DiffusionTransformer(const DitConfig& config)
    : config_(config), layers_(config.n_layers) {
  // Pair 2j of a head turns with the row, pair 2j + 1 with the column, both at frequency j.
  const int64_t size = config_.input_size;
  const int64_t half = config_.head_dim() / 2;
  const at::Tensor steps = at::arange(0, half, 2, at::kFloat) / static_cast<double>(half);
  const at::Tensor frequencies = at::reciprocal(at::pow(kTheta, steps));
  const at::Tensor line =
      at::arange(size, at::kFloat).unsqueeze(1) * frequencies;  // [size, half / 2]
  const at::Tensor rows = line.unsqueeze(1).expand({size, size, half / 2});
  const at::Tensor columns = line.unsqueeze(0).expand({size, size, half / 2});
  const at::Tensor angles = at::stack({rows, columns}, 3).reshape({1, size * size, half});
  cos_ = at::cos(angles);
  sin_ = at::sin(angles);
  time_frequencies_ = at::exp(at::arange(kTimeFrequencies, at::kFloat) * -std::log(kTheta) /
                              static_cast<double>(kTimeFrequencies));
}

void DiffusionTransformer::VisitAttention(const std::string& name, Attention& attention,
                                          ModuleVisitor& visitor) {
  visitor.VisitLinear(name + "to_q", attention.q);
  visitor.VisitLinear(name + "to_k", attention.k);
  visitor.VisitLinear(name + "to_v", attention.v);
  visitor.VisitTensor(name + "norm_q.weight", attention.norm_q_weight);
  visitor.VisitTensor(name + "norm_q.bias", attention.norm_q_bias);
  visitor.VisitTensor(name + "norm_k.weight", attention.norm_k_weight);
  visitor.VisitTensor(name + "norm_k.bias", attention.norm_k_bias);
}

void DiffusionTransformer::Visit(ModuleVisitor& visitor) {
  const std::string root = "model.dit.model.";
  visitor.VisitLinear(root + "caption_projection.linear_1", caption_in_);
  visitor.VisitLinear(root + "caption_projection.linear_2", caption_out_);
  visitor.VisitLinear(root + "patch_embedder.proj", patch_);
  visitor.VisitLinear(root + "time_caption_embed.timestep_embedder.linear_1", time_in_);
  visitor.VisitLinear(root + "time_caption_embed.timestep_embedder.linear_2", time_out_);
  visitor.VisitTensor(root + "time_caption_embed.caption_embedder.0.weight", caption_norm_weight_);
  visitor.VisitTensor(root + "time_caption_embed.caption_embedder.0.bias", caption_norm_bias_);
  visitor.VisitLinear(root + "time_caption_embed.caption_embedder.1", caption_to_time_);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const std::string name = absl::StrCat(root, "layers.", i, ".");
    Layer& layer = layers_[i];
    visitor.VisitTensor(name + "gate", layer.gate);
    VisitAttention(name + "attn1.", layer.self, visitor);
    VisitAttention(name + "attn2.", layer.cross, visitor);
    visitor.VisitLinear(name + "attn2.to_out.0", layer.out);
    visitor.VisitLinear(name + "feed_forward.linear_1", layer.ffn_gate);
    visitor.VisitLinear(name + "feed_forward.linear_2", layer.ffn_down);
    visitor.VisitLinear(name + "feed_forward.linear_3", layer.ffn_up);
    visitor.VisitLinear(name + "norm1.linear", layer.modulation);
    visitor.VisitTensor(name + "norm1.norm.weight", layer.norm1);
    visitor.VisitTensor(name + "norm2.weight", layer.norm2);
    visitor.VisitTensor(name + "ffn_norm1.weight", layer.ffn_norm1);
    visitor.VisitTensor(name + "ffn_norm2.weight", layer.ffn_norm2);
    visitor.VisitTensor(name + "norm1_context.weight", layer.norm1_context);
  }
  visitor.VisitLinear(root + "norm_out.linear_1", out_scale_);
  visitor.VisitLinear(root + "norm_out.linear_2", out_);
  const at::Device device = patch_.weight.device();
  cos_ = cos_.to(device);
  sin_ = sin_.to(device);
  time_frequencies_ = time_frequencies_.to(device);
}

at::Tensor DiffusionTransformer::TimeEmbedding(const at::Tensor& t,
                                               const at::Tensor& context) const {
  const at::Tensor angles = t.to(at::kFloat).unsqueeze(1) * time_frequencies_;
  const at::Tensor waves =
      at::cat({at::cos(angles), at::sin(angles)}, 1).to(time_in_.weight.scalar_type());
  const at::Tensor time = time_out_(at::silu(time_in_(waves)));
  const at::Tensor pooled =
      at::layer_norm(at::mean(context, 1), {config_.dim}, caption_norm_weight_, caption_norm_bias_,
                     kCaptionNormEps);
  return time + caption_to_time_(pooled);
}

at::Tensor DiffusionTransformer::RunAttention(const Attention& attention, const Projected& x,
                                              bool rotate_keys) const {
  const auto heads = [&](const at::Tensor& rows) {
    return rows.unflatten(2, {config_.n_heads, config_.head_dim()});
  };
  const at::Tensor q = at::layer_norm(x.q, {config_.dim}, attention.norm_q_weight,
                                      attention.norm_q_bias, kQkNormEps);
  const at::Tensor k = at::layer_norm(x.k, {config_.dim}, attention.norm_k_weight,
                                      attention.norm_k_bias, kQkNormEps);
  const at::Tensor rotated_q = Rotate(heads(q), cos_, sin_, RotaryPairs::kNeighbours);
  const at::Tensor rotated_k =
      rotate_keys ? Rotate(heads(k), cos_, sin_, RotaryPairs::kNeighbours) : heads(k);
  return Attend(rotated_q, rotated_k, heads(x.v), /*causal=*/false);
}

at::Tensor DiffusionTransformer::RunLayer(const Layer& layer, const at::Tensor& x,
                                          const at::Tensor& context,
                                          const at::Tensor& modulation) const {
  const std::vector<at::Tensor> parts = layer.modulation(modulation).unsqueeze(1).chunk(4, 2);
  const at::Tensor normed = RmsNorm(x, layer.norm1, config_.norm_eps) * (1 + parts[0]);
  const at::Tensor normed_context = RmsNorm(context, layer.norm1_context, config_.norm_eps);
  const std::vector<at::Tensor> own =
      ForwardGroup(normed, {&layer.self.q, &layer.self.k, &layer.self.v, &layer.cross.q});
  const std::vector<at::Tensor> other =
      ForwardGroup(normed_context, {&layer.cross.k, &layer.cross.v});
  const at::Tensor self =
      RunAttention(layer.self, {.q = own[0], .k = own[1], .v = own[2]}, /*rotate_keys=*/true);
  const at::Tensor cross =
      RunAttention(layer.cross, {.q = own[3], .k = other[0], .v = other[1]}, /*rotate_keys=*/false);
  const at::Tensor gates = at::tanh(layer.gate).repeat_interleave(config_.head_dim());
  const at::Tensor attended = layer.out(at::addcmul(self, cross, gates));
  const at::Tensor y =
      at::addcmul(x, at::tanh(parts[1]), RmsNorm(attended, layer.norm2, config_.norm_eps));
  const at::Tensor hidden = RmsNorm(y, layer.ffn_norm1, config_.norm_eps) * (1 + parts[2]);
  const std::vector<at::Tensor> inner = ForwardGroup(hidden, {&layer.ffn_gate, &layer.ffn_up});
  const at::Tensor fed = layer.ffn_down(SwiGlu(inner[0], inner[1]));
  return at::addcmul(y, at::tanh(parts[3]), RmsNorm(fed, layer.ffn_norm2, config_.norm_eps));
}

at::Tensor DiffusionTransformer::Run(const at::Tensor& x, const at::Tensor& t, const at::Tensor& z,
                                     Trace* trace) const {
  const int64_t size = config_.input_size;
  TORCH_CHECK(
      x.dim() == 4 && x.size(1) == config_.in_channels && x.size(2) == size && x.size(3) == size,
      "Dit: latents of ", x.sizes());
  TORCH_CHECK(z.dim() == 3 && z.size(0) == x.size(0) &&
                  z.size(2) == config_.latent_embedding_size && t.dim() == 1 &&
                  t.size(0) == x.size(0),
              "Dit: latents of ", x.sizes(), " with times of ", t.sizes(), " and a condition of ",
              z.sizes());
  const at::Tensor context = caption_out_(at::gelu(caption_in_(z), "tanh"));
  const at::Tensor time_embedding = TimeEmbedding(t, context);
  const at::Tensor modulation = at::silu(time_embedding);
  if (trace != nullptr) *trace = {context, time_embedding, {}};
  at::Tensor h = patch_(x.flatten(2).transpose(1, 2));
  for (const Layer& layer : layers_) {
    h = RunLayer(layer, h, context, modulation);
    if (trace != nullptr) trace->layers.push_back(h);
  }
  h = at::layer_norm(h, {config_.dim}, {}, {}, kOutNormEps) *
      (1 + out_scale_(modulation)).unsqueeze(1);
  return out_(h).transpose(1, 2).reshape(x.sizes());
}

}  // namespace fedumm::model
