// wgmma: asynchronous matrix products of a warp group, m64nNk16 with bf16 or fp16 operands.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "tests/cuda/machine/emulator.h"

namespace fedumm::cuda_machine {

struct Wgmma {
  const Instruction* in = nullptr;
  uint64_t descriptor_a = 0, descriptor_b = 0;
  bool accumulate = false;
  uint32_t time = 0;
};

struct WarpGroup {
  struct Accumulator {
    std::vector<float> values;  // 64 x n
    int users = 0;
  };

  Agent agent = kNoAgent;
  Block* block = nullptr;
  Warp* warps = nullptr;  // 4 of them
  int gathered = 0;       // warps that have arrived at the next wgmma
  Wgmma next;
  std::vector<Wgmma> open;                       // not committed
  std::vector<std::vector<Wgmma>> groups;        // committed, not waited for
  std::map<uint32_t, Accumulator> accumulators;  // by the first register's row
  uint32_t committed = 0;
};

void WgmmaFence(Warp& warp, const Instruction& in, uint32_t mask);
void WgmmaCommit(Warp& warp, const Instruction& in, uint32_t mask);
void WgmmaWait(Warp& warp, const Instruction& in, uint32_t mask);
void WgmmaIssue(Warp& warp, const Instruction& in, uint32_t mask);

// Byte address of element (mn, k) of the operand that a descriptor points to.
uint32_t WgmmaAddress(uint64_t descriptor, bool mn_major, uint32_t mn, uint32_t k);

}  // namespace fedumm::cuda_machine
