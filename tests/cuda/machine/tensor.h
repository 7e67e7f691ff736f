// ldmatrix, stmatrix and mma.sync.
#pragma once

#include <cstdint>

#include "tests/cuda/machine/emulator.h"

namespace fedumm::cuda_machine {

// r = {address}, list: 1, 2 or 4 registers; mode 1: .trans
void LoadMatrix(Warp& warp, const Instruction& in, uint32_t mask);
void StoreMatrix(Warp& warp, const Instruction& in, uint32_t mask);

// m16n8: list = d, list_a, list_b, list_c; mode: a MmaType; the registers of A tell k
enum class MmaType : uint8_t { kBf16, kFp16, kTf32 };
void Mma(Warp& warp, const Instruction& in, uint32_t mask);

// False, with a report, unless all 32 lanes execute the instruction.
bool RequireFullWarp(Warp& warp, const char* what, uint32_t mask);

}  // namespace fedumm::cuda_machine
