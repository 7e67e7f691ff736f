// Tensor maps: what cuTensorMapEncodeTiled makes and TMA copies read.
#pragma once

#include <cstdint>

namespace fedumm::cuda_machine {

// Lies in the 128 bytes of a CUtensorMap.
struct TensorMap {
  uint32_t magic;
  uint32_t rank;
  uint8_t* base;
  uint64_t size[5];
  uint64_t stride[5];  // bytes; [0] is the element's size
  uint16_t box[5];
  uint8_t swizzle;  // 0 none, 1: 32 bytes, 2: 64, 3: 128
  uint8_t element_bytes;
  uint8_t nan_fill;

  static constexpr uint32_t kMagic = 0x54454e53;
  uint32_t BoxBytes() const {
    uint32_t n = element_bytes;
    for (uint32_t d = 0; d < rank; ++d) n *= box[d];
    return n;
  }
};
static_assert(sizeof(TensorMap) <= 128);

// Swizzling exchanges 16-byte pieces: address bits 4.. by bits 7.., `mode` of them.
inline uint32_t SwizzleAddress(uint32_t address, uint32_t mode) {
  return address ^ (((address >> 7) & ((1u << mode) - 1)) << 4);
}

}  // namespace fedumm::cuda_machine
