#pragma once

#include <memory>

namespace fedumm::model {

// Shapes of operations that LibTorch can work out in Python alone, for tensors of the meta device.
// In force for the whole process while one lives.
class MetaKernels {
 public:
  MetaKernels();
  ~MetaKernels();
  MetaKernels(const MetaKernels&) = delete;
  MetaKernels& operator=(const MetaKernels&) = delete;

 private:
  struct Registered;
  std::unique_ptr<Registered> registered_;
};

}  // namespace fedumm::model
