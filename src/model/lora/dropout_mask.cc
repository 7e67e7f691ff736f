#include "model/lora/dropout_mask.h"

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <c10/util/accumulate.h>

namespace fedumm::model {
namespace {

// SplitMix64's (Steele, Lea, Flood 2014).
constexpr uint64_t kIncrement = 0x9e3779b97f4a7c15u;
constexpr uint64_t kFactor1 = 0xbf58476d1ce4e5b9u;
constexpr uint64_t kFactor2 = 0x94d049bb133111ebu;
constexpr int64_t kLanes = 4;  // elements that share 64 random bits, the lowest 16 first
constexpr int64_t kGrain = 16384;

// Elements whose 16 bits are less are dropped.
int64_t ThresholdOf(double probability) { return static_cast<int64_t>(probability * 65536); }

uint64_t Word(uint64_t key, uint64_t counter) {
  uint64_t z = key + counter * kIncrement;
  z = (z ^ (z >> 30)) * kFactor1;
  z = (z ^ (z >> 27)) * kFactor2;
  return z ^ (z >> 31);
}

// z ^ (z >> bits), the shift as of unsigned numbers.
at::Tensor XorShifted(const at::Tensor& z, int64_t bits) {
  const int64_t mask = (int64_t{1} << (64 - bits)) - 1;
  return z.bitwise_xor(z.bitwise_right_shift(bits).bitwise_and_(mask));
}

int64_t Signed(uint64_t bits) { return static_cast<int64_t>(bits); }

}  // namespace

at::Tensor DropoutMaskByTensorOps(at::IntArrayRef shape, at::Device device, double probability,
                                  uint64_t key) {
  const int64_t n = c10::multiply_integers(shape);
  const int64_t words = (n + kLanes - 1) / kLanes;
  at::Tensor z = at::arange(words, at::TensorOptions(at::kLong).device(device));
  z.mul_(Signed(kIncrement)).add_(Signed(key));
  z = XorShifted(z, 30).mul_(Signed(kFactor1));
  z = XorShifted(z, 27).mul_(Signed(kFactor2));
  z = XorShifted(z, 31);
  // Unsigned 16-bit numbers compare as signed ones with the highest bit turned round.
  const at::Tensor lanes = z.view(at::kShort).narrow(0, 0, n).bitwise_xor(-32768);
  return lanes.ge(ThresholdOf(probability) - 32768).view(shape);
}

at::Tensor DropoutMask(at::IntArrayRef shape, at::Device device, double probability, uint64_t key) {
  if (device.is_meta()) return at::empty(shape, at::TensorOptions(at::kBool).device(device));
  if (!device.is_cpu()) return DropoutMaskByTensorOps(shape, device, probability, key);
  at::Tensor mask = at::empty(shape, at::kBool);
  bool* const keep = mask.mutable_data_ptr<bool>();
  const int64_t n = mask.numel();
  const auto threshold = static_cast<uint64_t>(ThresholdOf(probability));
  const int64_t whole = n / kLanes;
  at::parallel_for(0, whole, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t word = begin; word < end; ++word) {
      const uint64_t bits = Word(key, static_cast<uint64_t>(word));
      for (int64_t lane = 0; lane < kLanes; ++lane) {  // unrolled: no loop that depends on n
        keep[word * kLanes + lane] = ((bits >> (16 * lane)) & 0xffff) >= threshold;
      }
    }
  });
  uint64_t bits = whole * kLanes < n ? Word(key, static_cast<uint64_t>(whole)) : 0;
  for (int64_t i = whole * kLanes; i < n; ++i, bits >>= 16) keep[i] = (bits & 0xffff) >= threshold;
  return mask;
}

}  // namespace fedumm::model
