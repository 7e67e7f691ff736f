// Counts bank conflicts, sectors and instructions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "tests/cuda/machine/machine.h"

namespace fedumm::cuda_machine {

class StatisticsCollector {
 public:
  struct Site {
    std::string kernel, file, instruction;
    int line = 0;
    bool shared = false;
    bool operator<(const Site& o) const {
      return std::tie(kernel, file, line, instruction, shared) <
             std::tie(o.kernel, o.file, o.line, o.instruction, o.shared);
    }
  };
  // The addresses of the active lanes of one instruction, each of `bytes` bytes.
  void Count(const Site& site, const uint64_t* addresses, int lanes, int bytes);
  void CountInstruction(const std::string& opcode, uint64_t times) {
    instructions_[opcode] += times;
  }
  Statistics Take();

  // How often the banks are visited: different 4-byte words of one bank take turns. 8-byte
  // accesses go by half warp, 16-byte ones by quarter warp.
  static int Wavefronts(const uint64_t* addresses, int lanes, int bytes);

 private:
  struct Counts {
    uint64_t requests = 0, cost = 0, ideal = 0;
  };
  std::map<Site, Counts> accesses_;
  std::map<std::string, uint64_t> instructions_;
};

}  // namespace fedumm::cuda_machine
