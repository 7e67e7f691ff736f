#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "fedumm/model/backbone.h"
#include "fedumm/model/config.h"
#include "fedumm/model/linear.h"
#include "model/backbone/module_visitor.h"

namespace fedumm::model {

// Lumina's Next-DiT with cross attention, as BLIP-3o configures it ("model.dit."). Thread-safe once
// filled.
class DiffusionTransformer {
 public:
  // Intermediate values, for those who compare them.
  struct Trace {
    at::Tensor context;  // caption_projection's output
    at::Tensor time_embedding;
    std::vector<at::Tensor> layers;  // each layer's output
  };

  explicit DiffusionTransformer(const DitConfig& config);

  void Visit(ModuleVisitor& visitor);
  // See UnifiedModel::Dit, FlowLoss and Sample.
  at::Tensor Run(const at::Tensor& x, const at::Tensor& t, const at::Tensor& z,
                 Trace* trace = nullptr) const;
  at::Tensor FlowLoss(const at::Tensor& latents, const at::Tensor& z, const at::Tensor& noise,
                      const at::Tensor& u, const at::Tensor& keep, double shift = 1.0) const;
  at::Tensor Sample(const at::Tensor& z, const at::Tensor& noise,
                    const SampleOptions& options) const;
  // cos and sin of the latents' rotary angles, [1, input_size², head_dim / 2].
  const at::Tensor& cos() const { return cos_; }
  const at::Tensor& sin() const { return sin_; }

 private:
  struct Attention {
    Linear q;
    Linear k;
    Linear v;
    at::Tensor norm_q_weight;
    at::Tensor norm_q_bias;
    at::Tensor norm_k_weight;
    at::Tensor norm_k_bias;
  };
  struct Projected {  // what attention works on: [B, N, dim] each
    at::Tensor q;
    at::Tensor k;
    at::Tensor v;
  };
  struct Layer {
    at::Tensor gate;  // [heads]: how much of the cross attention each head lets in
    Attention self;
    Attention cross;
    Linear out;
    Linear ffn_gate;
    Linear ffn_down;
    Linear ffn_up;
    Linear modulation;
    at::Tensor norm1;
    at::Tensor norm2;
    at::Tensor ffn_norm1;
    at::Tensor ffn_norm2;
    at::Tensor norm1_context;
  };

  static void VisitAttention(const std::string& name, Attention& attention, ModuleVisitor& visitor);
  at::Tensor TimeEmbedding(const at::Tensor& t, const at::Tensor& context) const;
  // softmax attention of the queries to the keys, before the output matrix: [B, N, dim].
  at::Tensor RunAttention(const Attention& attention, const Projected& x, bool rotate_keys) const;
  at::Tensor RunLayer(const Layer& layer, const at::Tensor& x, const at::Tensor& context,
                      const at::Tensor& modulation) const;

  const DitConfig config_;
  at::Tensor cos_;
  at::Tensor sin_;
  at::Tensor time_frequencies_;
  Linear caption_in_;
  Linear caption_out_;
  Linear patch_;
  Linear time_in_;
  Linear time_out_;
  at::Tensor caption_norm_weight_;
  at::Tensor caption_norm_bias_;
  Linear caption_to_time_;
  std::vector<Layer> layers_;
  Linear out_scale_;
  Linear out_;
};

}  // namespace fedumm::model
