#include "model/demo/pretrain_stage.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/sha256.h"
#include "base/status_macros.h"
#include "fedumm/model/safetensors.h"
#include "fedumm/model/train.h"
#include "model/demo/steps.h"

namespace fedumm::model {
namespace {

constexpr int64_t kProgressSteps = 50;
constexpr int64_t kEncodedAtOnce = 250;

}  // namespace

absl::Status RunStage(UnifiedModel& model, const NamedStage& named,
                      std::initializer_list<std::string_view> prefixes,
                      std::vector<at::Tensor> parameters, const BatchLoss& loss,
                      const PretrainProgressFn& progress) {
  const PretrainStage& stage = named.stage;
  for (const auto& [path, tensor] : model.Parameters()) {
    for (const std::string_view prefix : prefixes) {
      if (std::string_view(path).starts_with(prefix)) parameters.push_back(*tensor);
    }
  }
  FEDUMM_ASSIGN_OR_RETURN(FlatParameters flat, FlatParameters::Create(std::move(parameters)));
  TrainOptions train{.steps = stage.steps,
                     .learning_rate = {.value = stage.learning_rate,
                                       .warmup_steps = stage.warmup_steps,
                                       .cosine = true,
                                       .final_value = 0.03 * stage.learning_rate,
                                       .total_steps = stage.steps},
                     .beta1 = 0.9,
                     .beta2 = 0.98,
                     .weight_decay = stage.weight_decay,
                     .max_grad_norm = 1};
  double mean = 0;
  const auto reported = [&](int64_t step) -> absl::StatusOr<at::Tensor> {
    FEDUMM_ASSIGN_OR_RETURN(at::Tensor value, loss());
    const double keep = step == 0 ? 0 : 0.95;
    mean = keep * mean + (1 - keep) * value.item<double>();
    if ((step + 1) % kProgressSteps == 0 || step + 1 == stage.steps) {
      progress({named.name, step + 1, stage.steps, mean});
    }
    return value;
  };
  FEDUMM_RETURN_IF_ERROR(Train(flat, reported, train).status());
  model.SetRequiresGrad(false);
  return absl::OkStatus();
}

absl::StatusOr<at::Tensor> ScaledTokens(UnifiedModel& model, std::span<const uint8_t> pixels,
                                        double token_std) {
  const at::NoGradGuard no_grad;
  const at::Tensor pictures = PicturesOver(pixels);
  std::vector<at::Tensor> parts;
  for (int64_t i = 0; i < pictures.size(0); i += kEncodedAtOnce) {
    const int64_t count = std::min(kEncodedAtOnce, pictures.size(0) - i);
    FEDUMM_ASSIGN_OR_RETURN(at::Tensor tokens, EncodePictures(model, pictures.narrow(0, i, count)));
    parts.push_back(std::move(tokens));
  }
  const at::Tensor tokens = at::cat(parts);
  const double scale = token_std / tokens.std().item<double>();
  const std::map<std::string, at::Tensor*> parameters = model.Parameters();
  for (const char* name : {"visual.merger.mlp.2.weight", "visual.merger.mlp.2.bias"}) {
    parameters.at(name)->mul_(scale);
  }
  return tokens * scale;
}

absl::Status SavePretrained(const std::string& path, const StateDict& state,
                            const std::string& recipe) {
  std::vector<at::Tensor> owned;
  std::vector<SafetensorsTensor> tensors;
  for (const auto& [name, tensor] : state) {
    const at::Tensor& bytes = owned.emplace_back(tensor.detach().to(at::kFloat).contiguous());
    tensors.push_back(
        {name, SafetensorsDType::kF32, bytes.sizes().vec(),
         std::string_view(static_cast<const char*>(bytes.const_data_ptr()), bytes.nbytes())});
  }
  return WriteSafetensors(
      path, tensors, {{"format", "pt"}, {"recipe", recipe}, {"recipe_sha256", Sha256Hex(recipe)}});
}

}  // namespace fedumm::model
