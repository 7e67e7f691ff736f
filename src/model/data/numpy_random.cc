#include "model/data/numpy_random.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

namespace fedumm::model {
namespace {

using Uint128 = unsigned __int128;

// SeedSequence(seed).generate_state(8): the seed's 32-bit words are hashed into a pool of four, the
// pool into the state.
std::array<uint32_t, 8> SeedWords(uint64_t seed) {
  const auto hash = [](uint32_t value, uint32_t& constant, uint32_t multiplier) {
    value ^= constant;
    constant *= multiplier;
    value *= constant;
    return value ^ (value >> 16);
  };
  uint32_t constant = 0x43b0d7e5;
  const auto absorb = [&](uint32_t value) { return hash(value, constant, 0x931e8875); };
  std::array<uint32_t, 4> pool = {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32), 0,
                                  0};
  for (uint32_t& word : pool) word = absorb(word);
  for (size_t from = 0; from < pool.size(); ++from) {
    for (size_t to = 0; to < pool.size(); ++to) {
      if (from == to) continue;
      const uint32_t mixed = 0xca01f9dd * pool[to] - 0x4973f715 * absorb(pool[from]);
      pool[to] = mixed ^ (mixed >> 16);
    }
  }
  std::array<uint32_t, 8> state;
  constant = 0x8b51f9dd;
  for (size_t i = 0; i < state.size(); ++i) state[i] = hash(pool[i % 4], constant, 0x58f38ded);
  return state;
}

// Marsaglia and Tsang's ziggurat of 256 strips of equal area. Strip 0 is the base with the tail.
struct Ziggurat {
  std::array<uint64_t, 256> accept;  // mantissas below it lie inside the next strip
  std::array<double, 256> width;     // of the strip, per mantissa unit
  std::array<double, 256> density;
};

// `density` falls from 1 at 0, `right` is where the tail begins, and `next` finds from the edge
// x of a strip and the density there the edge of the strip above: density(next) = density + area /
// x. Computed in Real, whose rounding decides the last bit of the entries.
template <typename Real, typename Density, typename Next>
Ziggurat MakeZiggurat(Real right, Real area, Real mantissas, Density density, Next next) {
  Ziggurat table;
  const auto set = [&](size_t strip, Real accept, Real width, Real height) {
    table.accept[strip] = static_cast<uint64_t>(accept * mantissas);
    table.width[strip] = static_cast<double>(width / mantissas);
    table.density[strip] = static_cast<double>(height);
  };
  Real x = right;
  Real height = density(255, x);
  set(0, x * height / area, area / height, 1);
  for (size_t strip = 255; strip > 0; --strip) {
    const Real above = strip > 1 ? next(x, height) : Real{0};
    set(strip, above / x, x, height);
    x = above;
    height = density(strip - 1, x);
  }
  return table;
}

constexpr double kNormalRight = 3.6541528853610087963519472518;
constexpr double kNormalArea = 0.0049286732339746519;
constexpr long double kExponentialRight = 7.69711747013104971404462804811408952L;

// NumPy's table was made in double precision. Each step of it is rounded correctly, with one
// exception: the density of strip 38 lies almost half-way between two doubles and was rounded up.
const Ziggurat& NormalZiggurat() {
  static const Ziggurat table = MakeZiggurat<double>(
      kNormalRight, kNormalArea, 0x1p52,
      [](size_t strip, double x) {
        const double y = static_cast<double>(std::exp(static_cast<long double>(-0.5 * x * x)));
        return strip == 38 ? std::nextafter(y, 1.0) : y;
      },
      [](double x, double height) {
        const long double y = kNormalArea / x + height;  // rounded to double first
        return std::sqrt(-2.0 * static_cast<double>(std::log(y)));
      });
  return table;
}

// This one was made in a higher precision; log1p keeps errors from growing from strip to strip.
const Ziggurat& ExponentialZiggurat() {
  static const long double area = (kExponentialRight + 1) * std::exp(-kExponentialRight);
  static const Ziggurat table = MakeZiggurat<long double>(
      kExponentialRight, area, 0x1p53L, [](size_t, long double x) { return std::exp(-x); },
      [](long double x, long double height) { return x - std::log1p(area / (x * height)); });
  return table;
}

}  // namespace

NumpyRandom::NumpyRandom(uint64_t seed) {
  const std::array<uint32_t, 8> words = SeedWords(seed);
  const auto word64 = [&](size_t i) {
    return (uint64_t{words[2 * i + 1]} << 32) | uint64_t{words[2 * i]};
  };
  const Uint128 initial = (Uint128{word64(0)} << 64) | word64(1);
  increment_ = (((Uint128{word64(2)} << 64) | word64(3)) << 1) | 1;
  Next64();
  state_ += initial;
  Next64();
}

uint64_t NumpyRandom::Next64() {
  constexpr Uint128 kMultiplier = (Uint128{0x2360ED051FC65DA4} << 64) | 0x4385DF649FCCF645;
  state_ = state_ * kMultiplier + increment_;
  const uint64_t folded = static_cast<uint64_t>(state_ >> 64) ^ static_cast<uint64_t>(state_);
  const int rotation = static_cast<int>(state_ >> 122);
  return (folded >> rotation) | (folded << (-rotation & 63));
}

uint32_t NumpyRandom::Next32() {
  if (std::exchange(has_upper_, !has_upper_)) return upper_;
  const uint64_t both = Next64();
  upper_ = static_cast<uint32_t>(both >> 32);
  return static_cast<uint32_t>(both);
}

double NumpyRandom::Uniform() { return static_cast<double>(Next64() >> 11) * 0x1p-53; }

double NumpyRandom::Exponential() {
  const Ziggurat& table = ExponentialZiggurat();
  while (true) {
    const uint64_t bits = Next64() >> 3;
    const size_t i = bits & 0xff;
    const uint64_t mantissa = bits >> 8;
    const double x = static_cast<double>(mantissa) * table.width[i];
    if (mantissa < table.accept[i]) return x;
    if (i == 0) return static_cast<double>(kExponentialRight) - std::log1p(-Uniform());
    if ((table.density[i - 1] - table.density[i]) * Uniform() + table.density[i] < std::exp(-x)) {
      return x;
    }
  }
}

double NumpyRandom::Normal() {
  const Ziggurat& table = NormalZiggurat();
  while (true) {
    const uint64_t bits = Next64();
    const size_t i = bits & 0xff;
    const uint64_t mantissa = (bits >> 9) & 0x000fffffffffffff;
    const double magnitude = static_cast<double>(mantissa) * table.width[i];
    const double x = (bits & 0x100) != 0 ? -magnitude : magnitude;
    if (mantissa < table.accept[i]) return x;
    if (i > 0) {
      if ((table.density[i - 1] - table.density[i]) * Uniform() + table.density[i] <
          std::exp(-0.5 * x * x)) {
        return x;
      }
      continue;
    }
    while (true) {
      const double beyond = -0.27366123732975827203338247596 * std::log1p(-Uniform());
      const double y = -std::log1p(-Uniform());
      if (y + y > beyond * beyond) {
        return ((mantissa >> 8) & 1) != 0 ? -(kNormalRight + beyond) : kNormalRight + beyond;
      }
    }
  }
}

double NumpyRandom::Gamma(double shape) {
  if (shape == 1.0) return Exponential();
  if (shape < 1.0) {
    while (true) {
      const double u = Uniform();
      const double v = Exponential();
      if (u <= 1.0 - shape) {
        const double x = std::pow(u, 1.0 / shape);
        if (x <= v) return x;
      } else {
        const double y = -std::log((1 - u) / shape);
        const double x = std::pow(1.0 - shape + shape * y, 1.0 / shape);
        if (x <= v + y) return x;
      }
    }
  }
  const double b = shape - 1.0 / 3.0;
  const double c = 1.0 / std::sqrt(9 * b);
  while (true) {
    double x;
    double v;
    do {
      x = Normal();
      v = 1.0 + c * x;
    } while (v <= 0.0);
    v = v * v * v;
    const double u = Uniform();
    if (u < 1.0 - 0.0331 * (x * x) * (x * x)) return b * v;
    if (std::log(u) < 0.5 * x * x + b * (1.0 - v + std::log(v))) return b * v;
  }
}

double NumpyRandom::Beta(double a, double b) {
  if (a > 1.0 || b > 1.0) {
    const double x = Gamma(a);
    const double y = Gamma(b);
    return x / (x + y);
  }
  while (true) {
    const double u = Uniform();
    const double v = Uniform();
    const double x = std::pow(u, 1.0 / a);
    const double y = std::pow(v, 1.0 / b);
    if (x + y > 1.0 || u + v <= 0.0) continue;
    if (x + y > 0) return x / (x + y);
    double log_x = std::log(u) / a;  // both underflowed
    double log_y = std::log(v) / b;
    const double log_max = std::max(log_x, log_y);
    log_x -= log_max;
    log_y -= log_max;
    return std::exp(log_x - std::log(std::exp(log_x) + std::exp(log_y)));
  }
}

std::vector<double> NumpyRandom::Dirichlet(std::span<const double> alpha) {
  std::vector<double> shares(alpha.size());
  if (alpha.empty()) return shares;
  if (*std::ranges::max_element(alpha) >= 0.1) {
    double sum = 0;
    for (size_t i = 0; i < alpha.size(); ++i) sum += shares[i] = Gamma(alpha[i]);
    const double inverse = 1.0 / sum;
    for (double& share : shares) share *= inverse;
    return shares;
  }
  std::vector<double> tails(alpha.size());  // alpha[i] + … + alpha.back()
  double tail = 0;
  for (size_t i = alpha.size(); i > 0; --i) tails[i - 1] = tail += alpha[i - 1];
  double rest = 1.0;
  for (size_t i = 0; i + 1 < alpha.size(); ++i) {
    const double fraction = Beta(alpha[i], tails[i + 1]);
    shares[i] = rest * fraction;
    rest *= 1.0 - fraction;
  }
  shares.back() = rest;
  return shares;
}

uint64_t NumpyRandom::UpTo(uint64_t max) {
  if (max == 0) return 0;
  const uint64_t mask = UINT64_MAX >> std::countl_zero(max);
  while (true) {
    const uint64_t value = (max <= UINT32_MAX ? uint64_t{Next32()} : Next64()) & mask;
    if (value <= max) return value;
  }
}

}  // namespace fedumm::model
