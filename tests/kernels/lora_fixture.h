// Inputs of every LoRA product at one size, and the products worked out by plain loops in double.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>
#include <vector>

#include "base/random.h"

namespace fedumm::testing {

struct LoraSize {
  int64_t m, k, n, r;
  friend std::ostream& operator<<(std::ostream& out, const LoraSize& size) {
    return out << "m" << size.m << "_k" << size.k << "_n" << size.n << "_r" << size.r;
  }
};

inline std::vector<float> RandomFloats(int64_t n, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(n);
  for (float& value : values) value = static_cast<float>(random.Normal());
  return values;
}

// factor * x * y, the elements of both given by functions.
inline std::vector<float> Product(int64_t rows, int64_t columns, int64_t inner, double factor,
                                  const std::function<double(int64_t, int64_t)>& x,
                                  const std::function<double(int64_t, int64_t)>& y) {
  std::vector<float> result(rows * columns);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < inner; ++t) sum += x(i, t) * y(t, j);
      result[i * columns + j] = static_cast<float>(factor * sum);
    }
  }
  return result;
}

struct LoraCase {
  explicit LoraCase(const LoraSize& size)
      : m(size.m),
        k(size.k),
        n(size.n),
        r(size.r),
        x(RandomFloats(m * k, 1)),
        a(RandomFloats(r * k, 2)),
        b(RandomFloats(n * r, 3)),
        s(RandomFloats(m * r, 4)),
        ds(RandomFloats(m * r, 5)),
        dy(RandomFloats(m * n, 6)),
        y(RandomFloats(m * n, 7)),
        dx(RandomFloats(m * k, 8)) {}

  static auto At(const std::vector<float>& v, int64_t row, int64_t column) {
    return [&v, row, column](int64_t i, int64_t j) { return double{v[i * row + j * column]}; };
  }
  static std::vector<float> Sum(std::vector<float> v, const std::vector<float>& w) {
    for (size_t i = 0; i < v.size(); ++i) v[i] += w[i];
    return v;
  }
  std::vector<float> WantS() const { return Product(m, r, k, scale, At(x, k, 1), At(a, 1, k)); }
  std::vector<float> WantY() const { return Sum(Product(m, n, r, 1, At(s, r, 1), At(b, 1, r)), y); }
  std::vector<float> WantGradS() const {
    return Product(m, r, n, scale, At(dy, n, 1), At(b, r, 1));
  }
  std::vector<float> WantGradB() const { return Product(n, r, m, 1, At(dy, 1, n), At(s, r, 1)); }
  std::vector<float> WantGradA() const { return Product(r, k, m, 1, At(ds, 1, r), At(x, k, 1)); }
  std::vector<float> WantGradX() const {
    return Sum(Product(m, k, r, 1, At(ds, r, 1), At(a, k, 1)), dx);
  }

  int64_t m, k, n, r;
  float scale = 0.75f;
  std::vector<float> x, a, b, s, ds, dy, y, dx;
};

inline constexpr LoraSize kLoraSizes[] = {
    {1, 1, 1, 1},     {3, 19, 5, 2}, {19, 99, 111, 7}, {16, 32, 48, 16},
    {33, 65, 17, 64}, {0, 4, 4, 2},  {5, 6, 7, 0},     {257, 40, 31, 4},
};

}  // namespace fedumm::testing
