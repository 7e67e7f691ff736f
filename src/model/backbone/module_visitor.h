#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "fedumm/model/linear.h"

namespace fedumm::model {

// Walks a module's tensors under their names in a checkpoint. Each module has one Visit function,
// which serves to fill it, to list its parameters and to list its linears.
class ModuleVisitor {
 public:
  virtual ~ModuleVisitor() = default;
  virtual void VisitTensor(const std::string& name, at::Tensor& tensor) = 0;
  // `path` is a Linear's name without ".weight" and ".bias".
  virtual void VisitLinear(const std::string& path, Linear& linear) = 0;
};

}  // namespace fedumm::model
