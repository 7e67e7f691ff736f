// The syntax of PTX, as far as nvcc and inline assembly use it.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/cuda/machine/program.h"

namespace fedumm::cuda_machine {

struct PtxOperand {
  enum Kind { kNone, kRegister, kImmediate, kSymbol, kSpecial, kVector, kSink };
  Kind kind = kNone;
  bool memory = false;   // in brackets
  bool negated = false;  // !%p
  int reg = -1;          // index into PtxKernel::registers
  uint64_t immediate = 0;
  int64_t offset = 0;             // [symbol+offset]
  std::string name;               // symbol or special register
  std::vector<PtxOperand> parts;  // {a, b}, or the elements of [map, {x, y}]
  int also = -1;                  // the register after |
};

struct PtxRegister {
  int bits = 32;  // 1: predicate
};

struct PtxStatement {
  std::string opcode;              // as written
  std::vector<std::string> words;  // split at the dots
  int predicate = -1;              // register
  bool negated = false;
  std::vector<PtxOperand> operands;
  int target = -1;  // statement that a branch goes to
  uint32_t location = 0;
  bool Has(const char* word) const;
};

struct PtxVariable {
  Space space = Space::kGlobal;
  bool dynamic = false;  // extern array in shared memory
  uint32_t offset = 0, bytes = 0, align = 1;
};

struct PtxKernel {
  std::string name;
  std::vector<Param> params;
  uint32_t param_bytes = 0;
  std::map<std::string, uint32_t> param_offsets;
  std::vector<PtxRegister> registers;
  std::map<std::string, PtxVariable> variables;
  uint32_t static_shared_bytes = 0, local_bytes = 0, dynamic_align = 16;
  uint32_t cluster[3] = {0, 0, 0}, max_threads = 0;
  std::vector<PtxStatement> code;
  std::vector<SourceLocation> locations;
};

struct PtxFile {
  std::vector<std::string> files;  // by number
  std::vector<PtxKernel> kernels;
};

PtxFile ParsePtxSyntax(const std::string& text);

}  // namespace fedumm::cuda_machine
