// The C++ half of peft_round_trip.py.
//   peft_round_trip write FOLDER   makes an adapter, saves it there, with the output under it
//   peft_round_trip check FOLDER   loads the adapter there and compares with the output there
#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

#include <cstdio>
#include <string>

#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/lora.h"
#include "tests/model/lora/small_net.h"

namespace fedumm::model {
namespace {

constexpr char kOutput[] = "/output.safetensors";
constexpr double kTolerance = 2e-6;

at::Tensor Ids() { return ReadTensors("input.safetensors").at("input_ids"); }

absl::Status Write(const std::string& folder) {
  SmallNet net;
  LoraConfig config;
  config.r = 4;
  config.lora_alpha = 6;
  config.use_rslora = true;
  config.target_modules.names = {"q_proj", "k_proj", "o_proj"};
  config.exclude_modules.pattern = ".*layers\\.0\\..*k_proj";
  config.rank_pattern = {{"layers.1.self_attn.q_proj", 2}};
  config.alpha_pattern = {{"o_proj", 2.5}};
  FEDUMM_ASSIGN_OR_RETURN(const auto adapter, LoraAdapter::Attach(net.Linears(), config, 1));
  Random random(2);
  float* values = adapter->parameters().values().data_ptr<float>();
  for (int64_t i = 0; i < adapter->parameters().size(); ++i) {
    values[i] = static_cast<float>(0.2 * random.Normal());
  }
  FEDUMM_RETURN_IF_ERROR(adapter->Save(folder));
  return SaveStateDict({{"output", net(Ids())}}, folder + kOutput);
}

absl::Status Check(const std::string& folder) {
  SmallNet net;
  FEDUMM_ASSIGN_OR_RETURN(const auto adapter, LoraAdapter::Load(net.Linears(), folder));
  const at::Tensor expected = ReadTensorFile(folder + kOutput).at("output");
  const double difference = (net(Ids()) - expected).abs().max().item<double>();
  std::printf("largest difference from PEFT's output: %g\n", difference);
  if (difference <= kTolerance) return absl::OkStatus();
  return absl::InternalError("the outputs differ");
}

}  // namespace
}  // namespace fedumm::model

int main(int argc, char** argv) {
  const std::string mode = argc == 3 ? argv[1] : "";
  if (mode != "write" && mode != "check") {
    std::fprintf(stderr, "usage: peft_round_trip write|check FOLDER\n");
    return 2;
  }
  const at::NoGradGuard no_grad;
  const absl::Status status =
      mode == "write" ? fedumm::model::Write(argv[2]) : fedumm::model::Check(argv[2]);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
