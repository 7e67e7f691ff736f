#include "model/scenes/scene_steps.h"

#include <ATen/TensorOperators.h>

#include <utility>

#include "base/status_macros.h"
#include "fedumm/model/tokenizer.h"
#include "model/tasks/flow_draws.h"
#include "model/tasks/prompt_rows.h"

namespace fedumm::model {

absl::StatusOr<PromptFormat> LoadSceneFormat(const std::string& folder,
                                             const BackboneConfig& config) {
  FEDUMM_ASSIGN_OR_RETURN(Tokenizer tokenizer, Tokenizer::Load(folder));
  return PromptFormat::Create(std::move(tokenizer), config, "plain", /*instruction=*/"");
}

absl::StatusOr<Sequence> SceneSequence(const PromptFormat& format, const std::string& question,
                                       const std::string& answer) {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> asked, format.Question(question));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> answered, format.Answer(answer));
  Sequence sequence;
  sequence.ids = format.Prompt(asked, /*image_tokens=*/0);
  sequence.num_prompt = std::ssize(sequence.ids);
  sequence.ids.insert(sequence.ids.end(), answered.begin(), answered.end());
  return sequence;
}

Batch SceneDrawBatch(std::span<const std::vector<int64_t>* const> prompts, at::Tensor latents,
                     int64_t n_query, double prompt_dropout, Random& random) {
  Batch batch;
  AddPromptRows(prompts, n_query, batch);
  batch["noise"] = Normal(random, latents.sizes());
  batch["latents"] = std::move(latents);
  AddTimesAndKeeps(std::ssize(prompts), prompt_dropout, TimeSampling::kStratified, random, batch);
  return batch;
}

at::Tensor SceneDrawLoss(const UnifiedModel& model, const Batch& batch) {
  return model.FlowLoss(batch.at("latents"), HiddenOfPromptRows(model, batch), batch.at("noise"),
                        batch.at("time"), batch.at("keep"));
}

}  // namespace fedumm::model
