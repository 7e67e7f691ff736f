// Reads an adapter's settings and runs a tensor: what an application with the model links.
#include <ATen/ops/ones.h>
#include <ATen/ops/sum.h>

#include <cstdio>

#include "fedumm/model/lora.h"

int main() {
  const auto config = fedumm::model::ParsePeftConfig(
      R"({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]})");
  if (!config.ok()) {
    std::printf("%s\n", config.status().ToString().c_str());
    return 1;
  }
  fedumm::model::Linear linear{.weight = at::ones({3, 5})};
  auto adapter = fedumm::model::LoraAdapter::Attach({{"layers.0.q_proj", &linear}}, *config, 0);
  if (!adapter.ok()) {
    std::printf("%s\n", adapter.status().ToString().c_str());
    return 1;
  }
  const double sum = linear(at::ones({2, 5})).sum().item<double>();
  std::printf("a fresh adapter changes nothing: %g\n", sum);
  return sum == 30 ? 0 : 1;
}
