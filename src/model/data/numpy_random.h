// The part of NumPy's random generator that the Python partitioners use, so that equal seeds give
// equal partitions.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace fedumm::model {

// numpy.random.default_rng(seed): SeedSequence, PCG64, ziggurat exponential and normal. Every value
// is NumPy's to the last bit, given the same exp, log and pow. Not thread-safe.
class NumpyRandom {
 public:
  explicit NumpyRandom(uint64_t seed);

  uint64_t Next64();
  uint32_t Next32();  // two calls share one Next64, the lower half first
  double Uniform();   // in [0, 1), 53 bits
  double Exponential();
  double Normal();
  double Gamma(double shape);  // shape > 0, scale 1
  double Beta(double a, double b);
  std::vector<double> Dirichlet(std::span<const double> alpha);  // every alpha > 0
  uint64_t UpTo(uint64_t max);                                   // in [0, max], unbiased

  // Generator.shuffle of a list or a one-dimensional array.
  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[UpTo(i - 1)]);
  }

 private:
  unsigned __int128 state_ = 0;
  unsigned __int128 increment_ = 0;
  bool has_upper_ = false;
  uint32_t upper_ = 0;
};

}  // namespace fedumm::model
