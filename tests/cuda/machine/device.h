// The one emulated device of a test process: what the public API and the stand-in for the CUDA
// runtime act on.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "tests/cuda/machine/global_memory.h"
#include "tests/cuda/machine/machine.h"
#include "tests/cuda/machine/program.h"
#include "tests/cuda/machine/report.h"
#include "tests/cuda/machine/statistics.h"

namespace fedumm::cuda_machine {

struct Device {
  static Device& Get();

  int major = 8, minor = 0;
  int multiprocessors = 0;  // 0: those of A100 or H100
  uint64_t launches = 0;
  Options options;
  GlobalMemory global;
  Reporter reporter;
  StatisticsCollector statistics;
  std::map<int, std::map<std::string, std::shared_ptr<const Program>>> programs;  // by major, name

  const Program* FindProgram(const std::string& mangled) const;
  int MultiprocessorCount() const {
    return multiprocessors > 0 ? multiprocessors : major >= 9 ? 132 : 108;
  }
  // Of A100 and H100: shared memory of one block, and of one multiprocessor.
  int SharedBytesOptin() const { return major >= 9 ? 227 * 1024 : 163 * 1024; }
  int SharedBytesPerMultiprocessor() const { return major >= 9 ? 228 * 1024 : 164 * 1024; }
};

}  // namespace fedumm::cuda_machine
