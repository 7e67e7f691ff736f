// Loops over one row of elements in host memory, for the fused operations in ops.cc. Computed in
// fp32; rows may not overlap unless said so.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>

namespace fedumm::model {

inline constexpr int64_t kChunk = 4096;  // elements of an elementwise loop's row

void Widen(int64_t n, const c10::BFloat16* x, float* y);
void Widen(int64_t n, const c10::Half* x, float* y);
// Rounds to the nearest, ties to even.
void Narrow(int64_t n, const float* x, c10::BFloat16* y);
void Narrow(int64_t n, const float* x, c10::Half* y);

void Multiply(int64_t n, const float* a, const float* b, float* y);  // y = a b; y may be a or b
void Add(int64_t n, const float* x, float* y);                       // y += x

// y = x r with the inverse root mean square r of x, which it returns.
float Normalise(int64_t n, const float* x, float eps, float* y);
// Its gradient: dx = r (h - x r² mean(h x)) for the gradient h of y.
void NormaliseBackward(int64_t n, const float* x, float r, const float* h, float* dx);
// sum += g x r
void AddProduct(int64_t n, const float* g, const float* x, float r, float* sum);

// Rotates `heads` heads that lie side by side by `sign` times the angles: channels i and half + i
// of a head together, or 2i and 2i + 1.
void RotateHalves(int64_t heads, int64_t half, const float* x, const float* cos, const float* sin,
                  float sign, float* y);
void RotateNeighbours(int64_t heads, int64_t half, const float* x, const float* cos,
                      const float* sin, float sign, float* y);

void Silu(int64_t n, const float* x, float* y);  // y = x / (1 + exp(-x))
// dx = g silu'(x)
void SiluBackward(int64_t n, const float* x, const float* g, float* dx);

}  // namespace fedumm::model
