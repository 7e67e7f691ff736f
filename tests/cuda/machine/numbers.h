// The 16-bit and tf32 formats, with the rounding of the PTX ISA.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace fedumm::cuda_machine {

inline float FromBf16(uint16_t h) { return std::bit_cast<float>(uint32_t{h} << 16); }

inline uint16_t ToBf16(float f) {  // nearest, ties to even
  const auto u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fff;
  return static_cast<uint16_t>((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

inline uint16_t ToBf16TowardZero(float f) {
  const auto u = std::bit_cast<uint32_t>(f);
  return (u & 0x7fffffff) > 0x7f800000 ? 0x7fff : static_cast<uint16_t>(u >> 16);
}

inline float FromFp16(uint16_t h) {
  const uint32_t sign = uint32_t{h & 0x8000u} << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000 | mantissa << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | mantissa << 13);
  const float f = static_cast<float>(mantissa) * 0x1p-24f;
  return sign != 0 ? -f : f;
}

inline uint16_t ToFp16(float f) {  // nearest, ties to even
  const uint16_t sign = std::signbit(f) ? 0x8000 : 0;
  const float a = std::fabs(f);
  if (std::isnan(f)) return 0x7fff;
  if (a >= 65520) return sign | 0x7c00;
  if (a < 0x1p-14f) return sign | static_cast<uint16_t>(std::nearbyint(a * 0x1p24f));
  const auto u = std::bit_cast<uint32_t>(a);
  return sign | static_cast<uint16_t>((u - (112u << 23) + 0xfff + ((u >> 13) & 1)) >> 13);
}

// What the tensor cores read of an fp32 register: the low 13 bits are ignored.
inline float FromTf32(uint32_t u) { return std::bit_cast<float>(u & 0xffffe000); }

inline uint32_t ToTf32(float f) {  // cvt.rna: nearest, ties away from zero
  const auto u = std::bit_cast<uint32_t>(f);
  if ((u & 0x7fffffff) > 0x7f800000) return 0x7fffffff;
  return (u + 0x1000) & 0xffffe000;
}

// A double as a float that rounds to the same 16-bit number: inexact values become odd.
inline float RoundToOdd(double d) {
  const auto f = static_cast<float>(d);
  if (static_cast<double>(f) == d || std::isnan(d) || std::isinf(f)) return f;
  auto u = std::bit_cast<uint32_t>(f);
  if (std::fabs(static_cast<double>(f)) > std::fabs(d)) --u;  // truncate
  return std::bit_cast<float>(u | 1);
}

}  // namespace fedumm::cuda_machine
