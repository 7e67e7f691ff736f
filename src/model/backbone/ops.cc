#include "model/backbone/ops.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mean.h>
#include <ATen/ops/rsqrt.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/square.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

// One copy of a loop for each generation of vector units, chosen when the program starts.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define FEDUMM_VECTORISED __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FEDUMM_VECTORISED
#endif

namespace fedumm::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool TakesFastPath(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

bool NeedsGrad(const at::Tensor& a, const at::Tensor& b = {}) {
  return at::GradMode::is_enabled() && (a.requires_grad() || (b.defined() && b.requires_grad()));
}

FEDUMM_VECTORISED
void RmsNormForward(int64_t rows, int64_t n, const float* x, const float* weight, float eps,
                    float* y, float* inverse) {
  for (int64_t row = 0; row < rows; ++row, x += n, y += n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
    inverse[row] = scale;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[i] = weight[i] * (x[i] * scale);
  }
}

// dx = r (w g - x r² mean(w g x)); dw += g x r, where r is the inverse root mean square. dx or dw
// may be null.
FEDUMM_VECTORISED
void RmsNormBackward(int64_t rows, int64_t n, const float* x, const float* weight,
                     const float* inverse, const float* g, float* dx, float* dw) {
  for (int64_t row = 0; row < rows; ++row, x += n, g += n) {
    const float r = inverse[row];
    if (dx != nullptr) {
      float dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t i = 0; i < n; ++i) dot += g[i] * weight[i] * x[i];
      const float along = dot * r * r / static_cast<float>(n);
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) dx[i] = r * (weight[i] * g[i] - x[i] * along);
      dx += n;
    }
    if (dw != nullptr) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) dw[i] += g[i] * (x[i] * r);
    }
  }
}

at::Tensor RunRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps,
                      at::Tensor& inverse) {
  const int64_t n = x.size(-1);
  at::Tensor y = at::empty_like(x);
  const int64_t rows = n == 0 ? 0 : x.numel() / n;
  inverse = at::empty({rows}, x.options());
  RmsNormForward(rows, n, x.const_data_ptr<float>(), weight.const_data_ptr<float>(),
                 static_cast<float>(eps), y.mutable_data_ptr<float>(),
                 inverse.mutable_data_ptr<float>());
  return y;
}

struct RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            double eps) {
    at::Tensor inverse;
    at::Tensor y = RunRmsNorm(x, weight, eps, inverse);
    context->save_for_backward({x, weight, inverse});
    return y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor& weight = saved[1];
    const at::Tensor g = gradients[0].contiguous();
    at::Tensor dx;
    at::Tensor dw;
    if (context->needs_input_grad(0)) dx = at::empty_like(x);
    if (context->needs_input_grad(1)) dw = at::zeros_like(weight);
    RmsNormBackward(saved[2].numel(), x.size(-1), x.const_data_ptr<float>(),
                    weight.const_data_ptr<float>(), saved[2].const_data_ptr<float>(),
                    g.const_data_ptr<float>(),
                    dx.defined() ? dx.mutable_data_ptr<float>() : nullptr,
                    dw.defined() ? dw.mutable_data_ptr<float>() : nullptr);
    return {dx, dw, at::Tensor()};
  }
};

// Rotates `heads` heads that lie side by side, by `sign` times the angles.
FEDUMM_VECTORISED
void RotateHalves(int64_t heads, int64_t half, const float* x, const float* cos, const float* sin,
                  float sign, float* y) {
  for (int64_t head = 0; head < heads; ++head, x += 2 * half, y += 2 * half) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const float s = sign * sin[i];
      y[i] = x[i] * cos[i] - x[half + i] * s;
      y[half + i] = x[half + i] * cos[i] + x[i] * s;
    }
  }
}

FEDUMM_VECTORISED
void RotateNeighbours(int64_t heads, int64_t half, const float* x, const float* cos,
                      const float* sin, float sign, float* y) {
  for (int64_t head = 0; head < heads; ++head, x += 2 * half, y += 2 * half) {
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const float s = sign * sin[i];
      y[2 * i] = x[2 * i] * cos[i] - x[2 * i + 1] * s;
      y[2 * i + 1] = x[2 * i + 1] * cos[i] + x[2 * i] * s;
    }
  }
}

at::Tensor RunRotate(const at::Tensor& input, const at::Tensor& cos, const at::Tensor& sin,
                     RotaryPairs pairs, float sign) {
  const int64_t heads = input.size(2);
  const int64_t half = input.size(3) / 2;
  const bool heads_touch = input.stride(3) == 1 && input.stride(2) == 2 * half;
  const at::Tensor x = heads_touch ? input : input.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  const auto rotate = pairs == RotaryPairs::kHalves ? RotateHalves : RotateNeighbours;
  const int64_t angle_batch = cos.size(0) == 1 ? 0 : cos.stride(0);
  float* out = y.mutable_data_ptr<float>();
  for (int64_t b = 0; b < x.size(0); ++b) {
    for (int64_t n = 0; n < x.size(1); ++n, out += 2 * half * heads) {
      const int64_t angle = b * angle_batch + n * half;
      rotate(heads, half, x.const_data_ptr<float>() + b * x.stride(0) + n * x.stride(1),
             cos.const_data_ptr<float>() + angle, sin.const_data_ptr<float>() + angle, sign, out);
    }
  }
  return y;
}

struct RotateFunction : public torch::autograd::Function<RotateFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin, int64_t pairs) {
    context->save_for_backward({cos, sin});
    context->saved_data["pairs"] = pairs;
    return RunRotate(x, cos, sin, static_cast<RotaryPairs>(pairs), 1.0f);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const auto pairs = static_cast<RotaryPairs>(context->saved_data["pairs"].toInt());
    return {RunRotate(gradients[0], saved[0], saved[1], pairs, -1.0f), at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  TORCH_CHECK(x.size(-1) == weight.numel(), "RmsNorm: ", x.size(-1), " channels, ", weight.numel(),
              " weights");
  if (!TakesFastPath(x) || !TakesFastPath(weight)) {
    const at::Tensor wide = x.to(at::kFloat);
    const at::Tensor scaled =
        wide * at::rsqrt(at::mean(at::square(wide), -1, /*keepdim=*/true) + eps);
    return weight * scaled.to(x.scalar_type());
  }
  const at::Tensor rows = x.contiguous();
  if (NeedsGrad(x, weight)) return RmsNormFunction::apply(rows, weight.contiguous(), eps);
  at::Tensor inverse;
  return RunRmsNorm(rows, weight.contiguous(), eps, inverse);
}

at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                  RotaryPairs pairs) {
  TORCH_CHECK(x.dim() == 4 && cos.dim() == 3 && cos.sizes() == sin.sizes() &&
                  cos.size(1) == x.size(1) && 2 * cos.size(2) == x.size(3) &&
                  (cos.size(0) == 1 || cos.size(0) == x.size(0)),
              "Rotate: heads ", x.sizes(), " against angles ", cos.sizes());
  if (!TakesFastPath(x) || !TakesFastPath(cos)) {
    const at::Tensor c = cos.unsqueeze(2);
    const at::Tensor s = sin.unsqueeze(2);
    const int64_t half = x.size(3) / 2;
    const bool halves = pairs == RotaryPairs::kHalves;
    const at::Tensor a = halves ? x.slice(3, 0, half) : x.slice(3, 0, 2 * half, 2);
    const at::Tensor b = halves ? x.slice(3, half, 2 * half) : x.slice(3, 1, 2 * half, 2);
    const at::Tensor first = a * c - b * s;
    const at::Tensor second = b * c + a * s;
    const at::Tensor joined =
        halves ? at::cat({first, second}, 3) : at::stack({first, second}, 4).flatten(3);
    return joined.to(x.scalar_type());
  }
  const at::Tensor c = cos.contiguous();
  const at::Tensor s = sin.contiguous();
  if (NeedsGrad(x)) return RotateFunction::apply(x, c, s, static_cast<int64_t>(pairs));
  return RunRotate(x, c, s, pairs, 1.0f);
}

at::Tensor Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, bool causal,
                  const at::Tensor& mask) {
  if (q.size(1) == 1 && !causal && k.size(2) < q.size(2)) {
    // The heads that share a key head become its queries: no copy of keys and values.
    const int64_t repeat = q.size(2) / k.size(2);
    const at::Tensor grouped = q.reshape({q.size(0), k.size(2), repeat, q.size(3)});
    return at::scaled_dot_product_attention(
               grouped, k.transpose(1, 2), v.transpose(1, 2),
               mask.defined() ? std::make_optional(mask) : std::nullopt)
        .reshape({q.size(0), 1, q.size(2) * q.size(3)});
  }
  const auto spread = [&](const at::Tensor& x) {
    if (x.size(2) == q.size(2)) return x.transpose(1, 2);
    const int64_t repeat = q.size(2) / x.size(2);
    return x.unsqueeze(3)
        .expand({x.size(0), x.size(1), x.size(2), repeat, x.size(3)})
        .reshape({x.size(0), x.size(1), q.size(2), x.size(3)})
        .transpose(1, 2);
  };
  const std::optional<at::Tensor> attention_mask =
      mask.defined() ? std::make_optional(mask) : std::nullopt;
  return at::scaled_dot_product_attention(q.transpose(1, 2), spread(k), spread(v), attention_mask,
                                          /*dropout_p=*/0.0, causal)
      .transpose(1, 2)
      .flatten(2);
}

at::Tensor SwiGlu(const at::Tensor& gate, const at::Tensor& up) { return at::silu(gate) * up; }

}  // namespace fedumm::model
