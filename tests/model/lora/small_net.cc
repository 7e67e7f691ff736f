#include "tests/model/lora/small_net.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/embedding.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/tanh.h>

#include "fedumm/model/safetensors.h"

namespace fedumm::model {

std::string DataPath(const std::string& name) {
  return std::string(FEDUMM_TEST_DATA "/adapter/") + name;
}

Tensors ReadTensorFile(const std::string& path) {
  const SafetensorsFile file = SafetensorsFile::Open(path).value();
  Tensors tensors;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    const bool integers = tensor.dtype == SafetensorsDType::kI64;
    tensors[tensor.name] = at::from_blob(const_cast<char*>(tensor.bytes.data()), tensor.shape,
                                         integers ? at::kLong : at::kFloat)
                               .clone();
  }
  return tensors;
}

SmallNet::SmallNet() : tensors_(ReadTensors("base.safetensors")) {
  for (const auto& [name, tensor] : tensors_) {
    if (tensor.dim() != 2 || name == "model.embed_tokens.weight") continue;
    const std::string path = name.substr(0, name.rfind(".weight"));
    const auto bias = tensors_.find(path + ".bias");
    linears_[path].weight = tensor;
    if (bias != tensors_.end()) linears_[path].bias = bias->second;
  }
}

std::vector<NamedLinear> SmallNet::Linears() {
  std::vector<NamedLinear> named;
  for (auto& [path, linear] : linears_) named.push_back({path, &linear});
  return named;
}

at::Tensor SmallNet::operator()(const at::Tensor& ids) {
  at::Tensor x = at::embedding(tensors_.at("model.embed_tokens.weight"), ids);
  for (const std::string layer : {"model.layers.0.", "model.layers.1."}) {
    const at::Tensor n = at::layer_norm(x, {16}, tensors_.at(layer + "norm.weight"),
                                        tensors_.at(layer + "norm.bias"));
    const auto linear = [&](const char* name) -> Linear& {
      return linears_.at(layer + "self_attn." + name);
    };
    x = x + linear("o_proj")(at::tanh(linear("k_proj")(n)) * at::sigmoid(linear("v_proj")(n))) +
        at::tanh(linear("q_proj")(n));
  }
  return linears_.at("lm_head")(x);
}

std::map<std::string, at::Tensor*> SmallNet::Parameters() {
  std::map<std::string, at::Tensor*> parameters;
  for (auto& [path, linear] : linears_) parameters[path + ".weight"] = &linear.weight;
  return parameters;
}

}  // namespace fedumm::model
