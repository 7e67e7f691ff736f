// The operations that all three networks share. fp32 tensors in host memory take one fused pass,
// forward and backward; others go through ATen. Differentiable once.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace fedumm::model {

// Root-mean-square norm over the last dimension: normalised in fp32, cast back, then multiplied by
// `weight`.
at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps);

// Which two channels of a head rotate together: i and i + head_dim / 2, or 2i and 2i + 1.
enum class RotaryPairs { kHalves, kNeighbours };

// Rotates the heads of x [B, N, heads, head_dim] by angles whose cos and sin are [B or 1, N,
// head_dim / 2]. Computes in the wider dtype of the two and returns x's.
at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                  RotaryPairs pairs);

// softmax(q kᵀ / sqrt(head_dim)) v for q [B, N, heads, head_dim] and k, v [B, M, kv_heads,
// head_dim], where each kv head serves heads / kv_heads neighbouring heads. Gives [B, N, heads *
// head_dim]. `mask` (may be undefined) is boolean, true where to look, and broadcasts to [B, heads,
// N, M]; with `causal` there must be none.
at::Tensor Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal,
                  const at::Tensor& mask = {});

// silu(gate) * up.
at::Tensor SwiGlu(const at::Tensor& gate, const at::Tensor& up);

}  // namespace fedumm::model
