#include "model/backbone/ops.h"

#include <ATen/Parallel.h>
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

#include <algorithm>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "model/backbone/row_loops.h"

namespace fedumm::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kGrain = 32768;  // elements that are worth a thread

bool IsFused(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf;
}

// Meta tensors take the same path without its loops, so that they show what it allocates.
bool TakesFusedPath(const at::Tensor& x) {
  return (x.is_cpu() || x.is_meta()) && IsFused(x.scalar_type());
}

bool NeedsGrad(const at::Tensor& a, const at::Tensor& b = {}) {
  return at::GradMode::is_enabled() && (a.requires_grad() || (b.defined() && b.requires_grad()));
}

// Calls f(T()) with the C++ type of a fused dtype.
template <typename F>
void WithType(at::ScalarType dtype, const F& f) {
  if (dtype == at::kFloat) {
    f(float());
  } else if (dtype == at::kBFloat16) {
    f(at::BFloat16());
  } else {
    f(at::Half());
  }
}

// Calls f(begin, end) for parts of `rows` rows of n elements, on all threads if it is worth it.
template <typename F>
void ForRows(int64_t rows, int64_t n, const F& f) {
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, n)), f);
}

// A row in fp32: `x` itself, or its copy in `buffer`.
template <typename T>
const float* Widened(int64_t n, const T* x, float* buffer) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else {
    Widen(n, x, buffer);
    return buffer;
  }
}

// Where a row of T is computed in fp32: `y` itself, or `buffer`, which Store then rounds.
template <typename T>
float* Target(T* y, float* buffer) {
  if constexpr (std::is_same_v<T, float>) {
    return y;
  } else {
    return buffer;
  }
}

template <typename T>
void Store(int64_t n, const float* x, T* y) {
  if constexpr (!std::is_same_v<T, float>) Narrow(n, x, y);
}

// Rounds to T and back.
template <typename T>
void RoundTo(int64_t n, float* x) {
  if constexpr (!std::is_same_v<T, float>) {
    std::vector<T> narrow(static_cast<size_t>(n));
    Narrow(n, x, narrow.data());
    Widen(n, narrow.data(), x);
  }
}

at::Tensor RunRmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps,
                      at::Tensor& inverse) {
  const int64_t n = x.size(-1);
  at::Tensor y = at::empty_like(x);
  const int64_t rows = n == 0 ? 0 : x.numel() / n;
  inverse = at::empty({rows}, x.options().dtype(at::kFloat));
  if (x.is_meta()) return y;
  const at::Tensor weights = weight.to(at::kFloat);
  WithType(x.scalar_type(), [&]<typename T>(T) {
    const T* const in = x.const_data_ptr<T>();
    T* const out = y.mutable_data_ptr<T>();
    const float* const w = weights.const_data_ptr<float>();
    float* const r = inverse.mutable_data_ptr<float>();
    ForRows(rows, n, [&](int64_t begin, int64_t end) {
      std::vector<float> wide(static_cast<size_t>(n)), result(static_cast<size_t>(n));
      for (int64_t row = begin; row < end; ++row) {
        const float* const values = Widened(n, in + row * n, wide.data());
        float* const normed = Target(out + row * n, result.data());
        r[row] = Normalise(n, values, static_cast<float>(eps), normed);
        RoundTo<T>(n, normed);
        Multiply(n, w, normed, normed);
        Store(n, normed, out + row * n);
      }
    });
  });
  return y;
}

// dx = r (h - x r² mean(h x)) with h = w g; dw += g x r, where r is the inverse root mean square.
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
    const at::Tensor dx = context->needs_input_grad(0) ? at::empty_like(x) : at::Tensor();
    const at::Tensor dw = context->needs_input_grad(1)
                              ? at::zeros_like(weight, weight.options().dtype(at::kFloat))
                              : at::Tensor();
    if (!x.is_meta()) Run(x, weight.to(at::kFloat), saved[2], g, dx, dw);
    return {dx, dw.defined() ? dw.to(weight.scalar_type()) : dw, at::Tensor()};
  }

 private:
  static void Run(const at::Tensor& x, const at::Tensor& weights, const at::Tensor& inverse,
                  const at::Tensor& g, const at::Tensor& dx, const at::Tensor& dw) {
    const int64_t n = x.size(-1);
    const int64_t rows = inverse.numel();
    const float* const w = weights.const_data_ptr<float>();
    const float* const r = inverse.const_data_ptr<float>();
    WithType(x.scalar_type(), [&]<typename T>(T) {
      const T* const in = x.const_data_ptr<T>();
      const T* const gradient = g.const_data_ptr<T>();
      T* const out = dx.defined() ? dx.mutable_data_ptr<T>() : nullptr;
      const auto part = [&](int64_t begin, int64_t end) {
        std::vector<float> wide(static_cast<size_t>(n)), wide_g(static_cast<size_t>(n)),
            weighted(static_cast<size_t>(n)), result(static_cast<size_t>(n));
        for (int64_t row = begin; row < end; ++row) {
          const float* const values = Widened(n, in + row * n, wide.data());
          const float* const from = Widened(n, gradient + row * n, wide_g.data());
          if (out != nullptr) {
            Multiply(n, from, w, weighted.data());
            RoundTo<T>(n, weighted.data());
            float* const target = Target(out + row * n, result.data());
            NormaliseBackward(n, values, r[row], weighted.data(), target);
            Store(n, target, out + row * n);
          }
          if (dw.defined()) {
            AddProduct(n, from, values, r[row], dw.mutable_data_ptr<float>());
          }
        }
      };
      if (dw.defined()) {
        part(0, rows);  // one sum, in one order
      } else {
        ForRows(rows, n, part);
      }
    });
  }
};

// Each rounding of the composition x cos + partner sin in a narrow dtype, for one row.
template <typename T>
void RotateRounding(RotaryPairs pairs, int64_t heads, int64_t half, const float* x,
                    const float* cos, const float* sin, float sign, float* y) {
  const bool halves = pairs == RotaryPairs::kHalves;
  const auto round = [](float value) { return static_cast<float>(static_cast<T>(value)); };
  for (int64_t head = 0; head < heads; ++head, x += 2 * half, y += 2 * half) {
    for (int64_t i = 0; i < half; ++i) {
      const int64_t a = halves ? i : 2 * i;
      const int64_t b = halves ? half + i : 2 * i + 1;
      const float s = sign * sin[i];
      y[a] = round(x[a] * cos[i]) - round(x[b] * s);
      y[b] = round(x[b] * cos[i]) + round(x[a] * s);
    }
  }
}

// Rotates by `sign` times the angles. Products are rounded to the angles' dtype if that is x's.
at::Tensor RunRotate(const at::Tensor& input, const at::Tensor& cos, const at::Tensor& sin,
                     RotaryPairs pairs, float sign) {
  const int64_t heads = input.size(2);
  const int64_t half = input.size(3) / 2;
  const bool heads_touch = input.stride(3) == 1 && input.stride(2) == 2 * half;
  const at::Tensor x = heads_touch ? input : input.contiguous();
  at::Tensor y = at::empty(x.sizes(), x.options());
  if (x.is_meta()) return y;
  const at::Tensor wide_cos = cos.to(at::kFloat), wide_sin = sin.to(at::kFloat);
  const int64_t angle_batch = cos.size(0) == 1 ? 0 : cos.stride(0);
  const int64_t length = x.size(1);
  const int64_t n = 2 * half * heads;
  const bool rounds = x.scalar_type() != at::kFloat && cos.scalar_type() == x.scalar_type();
  WithType(x.scalar_type(), [&]<typename T>(T) {
    const T* const in = x.const_data_ptr<T>();
    T* const out = y.mutable_data_ptr<T>();
    const float* const c = wide_cos.const_data_ptr<float>();
    const float* const s = wide_sin.const_data_ptr<float>();
    const auto rotate = [&](const float* row, int64_t angle, float* to) {
      if (rounds) return RotateRounding<T>(pairs, heads, half, row, c + angle, s + angle, sign, to);
      const auto loop = pairs == RotaryPairs::kHalves ? RotateHalves : RotateNeighbours;
      loop(heads, half, row, c + angle, s + angle, sign, to);
    };
    ForRows(x.size(0) * length, n, [&](int64_t begin, int64_t end) {
      std::vector<float> wide(static_cast<size_t>(n)), result(static_cast<size_t>(n));
      for (int64_t row = begin; row < end; ++row) {
        const int64_t b = row / length;
        const int64_t place = row % length;
        float* const target = Target(out + row * n, result.data());
        rotate(Widened(n, in + b * x.stride(0) + place * x.stride(1), wide.data()),
               b * angle_batch + place * half, target);
        Store(n, target, out + row * n);
      }
    });
  });
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

at::Tensor RunSwiGlu(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor y = at::empty_like(gate);
  if (gate.is_meta()) return y;
  WithType(gate.scalar_type(), [&]<typename T>(T) {
    const T* const g = gate.const_data_ptr<T>();
    const T* const u = up.const_data_ptr<T>();
    T* const out = y.mutable_data_ptr<T>();
    ForRows(gate.numel() / kChunk + 1, kChunk, [&](int64_t begin, int64_t end) {
      std::vector<float> wide(kChunk), wide_u(kChunk), result(kChunk);
      const int64_t last = std::min(gate.numel(), end * kChunk);
      for (int64_t i = begin * kChunk; i < last; i += kChunk) {
        const int64_t n = std::min(kChunk, last - i);
        float* const target = Target(out + i, result.data());
        Silu(n, Widened(n, g + i, wide.data()), target);
        RoundTo<T>(n, target);
        Multiply(n, Widened(n, u + i, wide_u.data()), target, target);
        Store(n, target, out + i);
      }
    });
  });
  return y;
}

// Saves its two inputs alone.
struct SwiGluFunction : public torch::autograd::Function<SwiGluFunction> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate,
                            const at::Tensor& up) {
    context->save_for_backward({gate, up});
    return RunSwiGlu(gate, up);
  }
  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& gate = saved[0];
    const at::Tensor gradient = gradients[0].contiguous();
    const at::Tensor dgate = at::empty_like(gate), dup = at::empty_like(gate);
    if (!gate.is_meta()) Run(gate, saved[1], gradient, dgate, dup);
    return {dgate, dup};
  }

 private:
  static void Run(const at::Tensor& gate, const at::Tensor& up, const at::Tensor& gradient,
                  const at::Tensor& dgate, const at::Tensor& dup) {
    WithType(gate.scalar_type(), [&]<typename T>(T) {
      const T* const g = gate.const_data_ptr<T>();
      const T* const u = up.const_data_ptr<T>();
      const T* const dy = gradient.const_data_ptr<T>();
      T* const dg = dgate.mutable_data_ptr<T>();
      T* const du = dup.mutable_data_ptr<T>();
      ForRows(gate.numel() / kChunk + 1, kChunk, [&](int64_t begin, int64_t end) {
        std::vector<float> wide(kChunk), wide_u(kChunk), wide_dy(kChunk), silu(kChunk),
            along(kChunk), result(kChunk);
        const int64_t last = std::min(gate.numel(), end * kChunk);
        for (int64_t i = begin * kChunk; i < last; i += kChunk) {
          const int64_t n = std::min(kChunk, last - i);
          const float* const gates = Widened(n, g + i, wide.data());
          const float* const from = Widened(n, dy + i, wide_dy.data());
          Silu(n, gates, silu.data());
          RoundTo<T>(n, silu.data());
          float* const to_up = Target(du + i, result.data());
          Multiply(n, from, silu.data(), to_up);
          Store(n, to_up, du + i);
          Multiply(n, from, Widened(n, u + i, wide_u.data()), along.data());
          RoundTo<T>(n, along.data());
          float* const to_gate = Target(dg + i, result.data());
          SiluBackward(n, gates, along.data(), to_gate);
          Store(n, to_gate, dg + i);
        }
      });
    });
  }
};

// What the CPU's attention allocates and saves, without its values.
struct MetaAttention : public torch::autograd::Function<MetaAttention> {
  static at::Tensor forward(AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::optional<at::Tensor>& mask) {
    at::Tensor y = RowMajor(q);
    variable_list saved = {
        q, k, v, y, at::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(at::kFloat))};
    if (mask.has_value()) saved.push_back(at::empty(mask->sizes(), q.options()));
    context->save_for_backward(std::move(saved));
    return y;
  }
  static variable_list backward(AutogradContext* context, const variable_list& /*gradients*/) {
    const variable_list saved = context->get_saved_variables();
    return {RowMajor(saved[0]), RowMajor(saved[1]), RowMajor(saved[2]), at::Tensor()};
  }

 private:
  // Of x's shape [B, heads, N, head_dim], with the heads of a token side by side.
  static at::Tensor RowMajor(const at::Tensor& x) {
    return at::empty({x.size(0), x.size(2), x.size(1), x.size(3)}, x.options()).transpose(1, 2);
  }
};

// q, k and v are [B, heads, N or M, head_dim].
at::Tensor DotProductAttention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               bool causal, const at::Tensor& mask) {
  const std::optional<at::Tensor> visible =
      mask.defined() ? std::make_optional(mask) : std::nullopt;
  if (q.is_meta()) return MetaAttention::apply(q, k, v, visible);
  return at::scaled_dot_product_attention(q, k, v, visible, /*dropout_p=*/0.0, causal);
}

}  // namespace

at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  TORCH_CHECK(x.size(-1) == weight.numel(), "RmsNorm: ", x.size(-1), " channels, ", weight.numel(),
              " weights");
  if (!TakesFusedPath(x) || weight.scalar_type() != x.scalar_type()) {
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
  const bool known_angles = cos.scalar_type() == at::kFloat || cos.scalar_type() == x.scalar_type();
  if (!TakesFusedPath(x) || !known_angles) {
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
    return DotProductAttention(grouped, k.transpose(1, 2), v.transpose(1, 2), /*causal=*/false,
                               mask)
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
  return DotProductAttention(q.transpose(1, 2), spread(k), spread(v), causal, mask)
      .transpose(1, 2)
      .flatten(2);
}

at::Tensor SwiGlu(const at::Tensor& gate, const at::Tensor& up) {
  if (!TakesFusedPath(gate) || gate.scalar_type() != up.scalar_type() ||
      gate.sizes() != up.sizes()) {
    return at::silu(gate) * up;
  }
  const at::Tensor g = gate.contiguous();
  const at::Tensor u = up.contiguous();
  return NeedsGrad(g, u) ? SwiGluFunction::apply(g, u) : RunSwiGlu(g, u);
}

}  // namespace fedumm::model
