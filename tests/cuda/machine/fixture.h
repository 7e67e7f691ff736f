// The fixture of tests that run kernels on the emulated machine.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/cuda/machine/machine.h"

namespace fedumm::cuda_machine {

// Fails the running test if the machine saw a violation since the last report was taken.
inline void ExpectClean() {
  const Report report = TakeReport();
  EXPECT_TRUE(report.ok()) << report.ToString();
}

// Expects a violation of this kind; others may come with it.
inline void ExpectViolation(Kind kind) {
  const Report report = TakeReport();
  EXPECT_TRUE(report.Has(kind)) << "expected a violation '" << Name(kind)
                                << "', found: " << (report.ok() ? "none" : report.ToString());
}

#if defined(FEDUMM_CUDA_PTX_SM80) && defined(FEDUMM_CUDA_PTX_SM90)
// Loads the PTX that fedumm_cuda_kernels made. The environment variables of the same names
// replace the paths, so that a mutation test needs no new test binary.
inline bool LoadTestPtx() {
  const auto path = [](const char* variable, const char* built) {
    const char* replaced = std::getenv(variable);
    return replaced != nullptr ? replaced : built;
  };
  return LoadPtx(8, path("FEDUMM_CUDA_PTX_SM80", FEDUMM_CUDA_PTX_SM80)) &&
         LoadPtx(9, path("FEDUMM_CUDA_PTX_SM90", FEDUMM_CUDA_PTX_SM90));
}

// Default options, device 8.0, no violations from an earlier test. A violation that the test
// does not take is a failure.
class MachineTest : public testing::Test {
 protected:
  void SetUp() override {
    static const bool loaded = LoadTestPtx();
    ASSERT_TRUE(loaded) << "a PTX file is missing";
    SetOptions({});
    SetDevice(8);
    TakeReport();
    TakeStatistics();
  }
  void TearDown() override { ExpectClean(); }
};
#endif

}  // namespace fedumm::cuda_machine
