#include <algorithm>

#include "fedumm/kernels.h"
#include "kernels/philox.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fedumm::kernels {
namespace {

// Sets the bits of columns 32 * first_word and up of one row.
void MaskWords(uint32_t threshold, uint64_t key, int64_t row, int64_t first_word, int64_t words,
               uint32_t* kept) {
  for (int64_t word = first_word; word < words; ++word) {
    kept[word] = 0;
    for (int byte = 0; byte < 4; ++byte) {
      kept[word] |= DropoutByte(threshold, key, row, word * 4 + byte) << (8 * byte);
    }
  }
}

#if defined(__x86_64__)

// Both halves of the 64-bit products of eight 32-bit numbers with one.
__attribute__((target("avx2"))) inline void Multiply(__m256i x, __m256i factor, __m256i* high,
                                                     __m256i* low) {
  const __m256i even = _mm256_mul_epu32(x, factor);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(x, 32), factor);
  *high = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
  *low = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
}

// Eight counters at a time, which are two words of the mask. Returns the words written.
__attribute__((target("avx2"))) int64_t MaskPairsAvx2(uint32_t threshold, uint64_t key, int64_t row,
                                                      int64_t words, uint32_t* kept) {
  const __m256i factor0 = _mm256_set1_epi32(static_cast<int>(kPhiloxFactor0));
  const __m256i factor1 = _mm256_set1_epi32(static_cast<int>(kPhiloxFactor1));
  const __m256i limit = _mm256_set1_epi16(static_cast<int16_t>(threshold));
  int64_t word = 0;
  for (; word + 2 <= words; word += 2) {
    __m256i c0 = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                  _mm256_set1_epi32(static_cast<int>(word * 4)));
    __m256i c1 = _mm256_set1_epi32(static_cast<int>(row));
    __m256i c2 = _mm256_set1_epi32(static_cast<int>(row >> 32));
    __m256i c3 = _mm256_setzero_si256();
    auto k0 = static_cast<uint32_t>(key);
    auto k1 = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      __m256i high0, low0, high1, low1;
      Multiply(c0, factor0, &high0, &low0);
      Multiply(c2, factor1, &high1, &low1);
      c0 = _mm256_xor_si256(_mm256_xor_si256(high1, c1), _mm256_set1_epi32(static_cast<int>(k0)));
      c1 = low1;
      c2 = _mm256_xor_si256(_mm256_xor_si256(high0, c3), _mm256_set1_epi32(static_cast<int>(k1)));
      c3 = low0;
      k0 += kPhiloxKeyStep0;
      k1 += kPhiloxKeyStep1;
    }
    // Of each counter: the bits of its four low halves in the low half, of the high ones in the
    // high.
    __m256i bits = _mm256_setzero_si256();
    const __m256i random[4] = {c0, c1, c2, c3};
    for (int i = 0; i < 4; ++i) {
      const __m256i is_kept = _mm256_cmpeq_epi16(_mm256_max_epu16(random[i], limit), random[i]);
      const __m256i place = _mm256_set1_epi32((0x20000 | 1) << (2 * i));
      bits = _mm256_or_si256(bits, _mm256_and_si256(is_kept, place));
    }
    bits = _mm256_or_si256(bits, _mm256_srli_epi32(bits, 16));
    // The lowest byte of each counter, one after the other.
    const __m256i lowest =
        _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                         -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i bytes = _mm256_shuffle_epi8(bits, lowest);
    kept[word] = static_cast<uint32_t>(_mm256_extract_epi32(bytes, 0));
    kept[word + 1] = static_cast<uint32_t>(_mm256_extract_epi32(bytes, 4));
  }
  return word;
}

#endif

}  // namespace

void DropoutMaskCpu(double dropout, uint64_t key, int64_t first_row, int64_t rows, int64_t k,
                    uint32_t* kept) {
  const uint32_t threshold = DropoutThreshold(dropout);
  const int64_t words = DropoutWords(k);
  for (int64_t row = first_row; row < first_row + rows; ++row, kept += words) {
    int64_t done = 0;
#if defined(__x86_64__)
    static const bool avx2 = __builtin_cpu_supports("avx2");
    if (avx2) done = MaskPairsAvx2(threshold, key, row, words, kept);
#endif
    MaskWords(threshold, key, row, done, words, kept);
  }
}

}  // namespace fedumm::kernels
