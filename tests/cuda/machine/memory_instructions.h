// ld, st, and what counts their cost.
#pragma once

#include <cstdint>

#include "tests/cuda/machine/emulator.h"

namespace fedumm::cuda_machine {

// r = {address}, list: the elements; bytes, is_signed, immediate: the offset
void Load(Warp& warp, const Instruction& in, uint32_t mask);
void Store(Warp& warp, const Instruction& in, uint32_t mask);
// ld.param of a constant address: the same for all lanes.
void LoadParam(Warp& warp, const Instruction& in, uint32_t mask);

// Adds a request to the statistics; `lanes` addresses of `bytes` bytes each.
void CountAccesses(Warp& warp, const Instruction& in, const uint64_t* addresses, int lanes,
                   int bytes, bool shared);

}  // namespace fedumm::cuda_machine
