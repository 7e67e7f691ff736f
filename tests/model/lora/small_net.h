#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "fedumm/model/linear.h"

namespace fedumm::model {

using Tensors = std::map<std::string, at::Tensor>;

std::string DataPath(const std::string& name);    // of a file of the adapter goldens
Tensors ReadTensorFile(const std::string& path);  // float32 and int64; aborts on an error
inline Tensors ReadTensors(const std::string& name) { return ReadTensorFile(DataPath(name)); }

// The network that the golden adapters were made for: two attention-like layers (see
// tests/data/adapter/make_adapter_golden.py, class Net).
class SmallNet {
 public:
  SmallNet();

  std::vector<NamedLinear> Linears();
  at::Tensor operator()(const at::Tensor& ids);
  Linear& linear(const std::string& path) { return linears_.at(path); }
  // The linears' weights by name, as HashParameters takes them.
  std::map<std::string, at::Tensor*> Parameters();

 private:
  Tensors tensors_;
  std::map<std::string, Linear> linears_;
};

}  // namespace fedumm::model
