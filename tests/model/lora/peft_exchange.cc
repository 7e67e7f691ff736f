// The C++ half of peft_exchange.py.
//   peft_exchange new CHECKPOINT CONFIG LAYOUT FOLDER        makes an adapter by an
//       adapter_config.json, random where it says init_lora_weights = false, and saves it
//   peft_exchange logits CHECKPOINT ADAPTER INPUT OUTPUT     of one row of ids with one picture
//   peft_exchange linears CHECKPOINT ADAPTER INPUT OUTPUT    each linear of its own input
#include <ATen/TensorOperators.h>
#include <ATen/ops/ones_like.h>
#include <c10/core/GradMode.h>

#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/lora.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

using Arguments = std::vector<std::string>;

absl::StatusOr<std::unique_ptr<UnifiedModel>> LoadModel(const std::string& folder) {
  LoadOptions options;
  options.dtype = at::kFloat;
  return Load(folder, options);
}

absl::Status New(const Arguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const auto model, LoadModel(arguments[0]));
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(arguments[1]));
  FEDUMM_ASSIGN_OR_RETURN(LoraConfig config, ParsePeftConfig(json));
  const ModuleLayout layout =
      arguments[2] == "transformers-5" ? ModuleLayout::kTransformers5 : ModuleLayout::kFile;
  FEDUMM_ASSIGN_OR_RETURN(
      const auto adapter,
      LoraAdapter::Attach(model->Linears(), std::move(config), /*seed=*/1, layout));
  return adapter->Save(arguments[3]);
}

absl::StatusOr<StateDict> Logits(UnifiedModel& model, const StateDict& input) {
  const int64_t* grid = input.at("image_grid_thw").const_data_ptr<int64_t>();
  const std::vector<ImageGrid> grids = {{grid[0], grid[1], grid[2]}};
  const at::Tensor& ids = input.at("input_ids");
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor images,
                          model.EncodeImages(input.at("pixel_values"), grids));
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor embeds, model.EmbedWithImages(ids, images));
  FEDUMM_ASSIGN_OR_RETURN(const UnifiedModel::Positions positions,
                          model.PositionsOf(ids, at::ones_like(ids), grids));
  return StateDict{{"logits", model.Logits(model.Decode(embeds, positions.ids))}};
}

absl::StatusOr<StateDict> Outputs(UnifiedModel& model, const StateDict& input) {
  std::map<std::string, const Linear*> linears;
  for (const NamedLinear& named : model.Linears()) linears[named.path] = named.linear;
  StateDict output;
  for (const auto& [path, x] : input) {
    const auto linear = linears.find(path);
    if (linear == linears.end()) return absl::NotFoundError(path);
    output[path] = (*linear->second)(x);
  }
  return output;
}

template <typename Compute>
absl::Status Run(const Arguments& arguments, const Compute& compute) {
  FEDUMM_ASSIGN_OR_RETURN(const auto model, LoadModel(arguments[0]));
  FEDUMM_ASSIGN_OR_RETURN(const auto adapter, LoraAdapter::Load(model->Linears(), arguments[1]));
  FEDUMM_ASSIGN_OR_RETURN(const StateDict input, LoadStateDict(arguments[2]));
  return Guarded([&]() -> absl::Status {
    const at::NoGradGuard no_grad;
    FEDUMM_ASSIGN_OR_RETURN(const StateDict output, compute(*model, input));
    return SaveStateDict(output, arguments[3]);
  });
}

}  // namespace
}  // namespace fedumm::model

int main(int argc, char** argv) {
  using fedumm::model::Run;
  const std::string mode = argc == 6 ? argv[1] : "";
  const fedumm::model::Arguments arguments(argv + (argc == 6 ? 2 : argc), argv + argc);
  absl::Status status = absl::InvalidArgumentError("usage: peft_exchange new|logits|linears ...");
  if (mode == "new") status = fedumm::model::New(arguments);
  if (mode == "logits") status = Run(arguments, fedumm::model::Logits);
  if (mode == "linears") status = Run(arguments, fedumm::model::Outputs);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  return 1;
}
