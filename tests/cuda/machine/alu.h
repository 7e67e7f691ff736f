// Arithmetic, comparison and conversion instructions: functions of one lane, applied to 32.
#pragma once

#include <cstdint>
#include <string>

#include "tests/cuda/machine/program.h"

namespace fedumm::cuda_machine {

// How an instruction of r[0] = f(r[1], r[2], ...) is executed.
struct AluOp {
  Handler run = nullptr;
  int sources = 0;
  bool is_compare = false;  // r[0] is a predicate
  bool wide[5] = {};        // of the destination (for moves of constants) and the sources
};

// By opcode without the suffixes that say only what the machine does anyway (.rn, .ftz, ...);
// null if it is unknown.
const AluOp* FindAluOp(const std::string& opcode);

}  // namespace fedumm::cuda_machine
