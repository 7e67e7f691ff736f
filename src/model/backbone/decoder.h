#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "fedumm/model/config.h"
#include "fedumm/model/linear.h"
#include "model/backbone/module_visitor.h"

namespace fedumm::model {

// What earlier calls leave for a generation step: every layer's keys and values so far. Room for
// `capacity` tokens is taken at once, so that a step writes its own tokens only; more of them
// double it.
class KeyValueCache {
 public:
  explicit KeyValueCache(int64_t capacity) : capacity_(capacity) {}

  int64_t length() const { return length_; }  // tokens of whole steps
  // Adds a layer's keys and values [B, n, kv_heads, head_dim] of a step; gives those so far. Layers
  // come in their order.
  std::pair<at::Tensor, at::Tensor> Append(size_t layer, const at::Tensor& keys,
                                           const at::Tensor& values);
  void EndStep(int64_t num_tokens) { length_ += num_tokens; }
  void KeepRows(const at::Tensor& rows);  // indices [n]

 private:
  int64_t capacity_;
  int64_t length_ = 0;
  std::vector<at::Tensor> keys_;  // [B, capacity, kv_heads, head_dim]
  std::vector<at::Tensor> values_;
};

// Qwen2.5-VL's text decoder ("model." and "lm_head."). Const calls are thread-safe; a cache belongs
// to one caller.
class Decoder {
 public:
  explicit Decoder(const TextConfig& config);

  void Visit(ModuleVisitor& visitor);
  at::Tensor Embed(const at::Tensor& ids) const;
  // See UnifiedModel::Decode. With a cache, `embeds` continues what it holds and `mask` covers
  // both. Appends each layer's input to `trace` if it is given.
  at::Tensor Run(const at::Tensor& embeds, const at::Tensor& positions, const at::Tensor& mask,
                 KeyValueCache* cache = nullptr, std::vector<at::Tensor>* trace = nullptr) const;
  at::Tensor Logits(const at::Tensor& hidden) const;
  const at::Tensor& embedding() const { return embed_tokens_; }

 private:
  struct Layer {
    at::Tensor input_norm;
    at::Tensor post_norm;
    Linear q;
    Linear k;
    Linear v;
    Linear o;
    Linear gate;
    Linear up;
    Linear down;
  };
  struct Angles {
    at::Tensor cos;
    at::Tensor sin;
  };
  // What all layers of one call share.
  struct Call {
    Angles angles;
    at::Tensor mask;  // as of Attend
    bool causal;
    int64_t batch;
    int64_t length;
    int64_t head_dim;
    double epsilon;
  };
  static at::Tensor RunLayer(const Layer& layer, const Call& call, const at::Tensor& x,
                             KeyValueCache* cache, size_t index);
  Angles AnglesOf(const at::Tensor& positions, at::ScalarType dtype) const;

  const TextConfig config_;
  at::Tensor frequencies_;  // [head_dim / 2], fp32
  at::Tensor axes_;         // [head_dim / 2]: the position axis that each frequency follows
  at::Tensor embed_tokens_;
  std::vector<Layer> layers_;
  at::Tensor norm_;
  Linear lm_head_;  // unused where the embedding is tied
};

}  // namespace fedumm::model
