#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "fedumm/model/backbone.h"
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

// Gives a module its tensors, all of which `state` must hold (biases where it has them).
class StateBinder final : public ModuleVisitor {
 public:
  explicit StateBinder(const StateDict& state) : state_(state) {}
  void VisitTensor(const std::string& name, at::Tensor& tensor) override {
    tensor = state_.at(name);
  }
  void VisitLinear(const std::string& path, Linear& linear) override {
    linear.weight = state_.at(path + ".weight");
    const auto bias = state_.find(path + ".bias");
    if (bias != state_.end()) linear.bias = bias->second;
  }

 private:
  const StateDict& state_;
};

}  // namespace fedumm::model
