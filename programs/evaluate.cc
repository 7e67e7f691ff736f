#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/model/image.h"
#include "programs/commands.h"
#include "programs/experiment.h"
#include "programs/report/format.h"

namespace fedumm::programs {
namespace {

// A world with the adapter of a folder on its model, or a fresh one, which changes nothing.
struct Setup {
  model::EasyVqa data;
  std::unique_ptr<Experiment> experiment;  // uses data
};
absl::StatusOr<std::unique_ptr<Setup>> Prepare(const CommonArguments& arguments,
                                               const std::string& adapter) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, RunConfig::Load(arguments.config));
  auto setup = std::make_unique<Setup>();
  FEDUMM_ASSIGN_OR_RETURN(setup->data,
                          model::EasyVqa::Load(arguments.data, config.Flag("data.negated")));
  FEDUMM_ASSIGN_OR_RETURN(setup->experiment, Experiment::Create(config, setup->data));
  if (!adapter.empty()) FEDUMM_RETURN_IF_ERROR(setup->experiment->UseAdapter(adapter));
  return setup;
}

// The colour and the shape that a prompt names, in any words: the demo's model draws nothing else.
absl::StatusOr<model::Concept> ParsePrompt(const std::string& prompt) {
  model::Concept wanted;
  for (const absl::string_view word : absl::StrSplit(prompt, ' ')) {
    for (size_t i = 0; i < model::kColors.size(); ++i) {
      if (word == Text(model::kColors[i])) wanted.color = static_cast<int>(i);
    }
    for (size_t i = 0; i < model::kShapes.size(); ++i) {
      if (word == Text(model::kShapes[i])) wanted.shape = static_cast<int>(i);
    }
  }
  if (wanted.known()) return wanted;
  const auto list = [](const auto& names) {
    std::string text;
    for (const std::string_view name : names)
      absl::StrAppend(&text, text.empty() ? "" : ", ", Text(name));
    return text;
  };
  return absl::InvalidArgumentError(absl::StrCat("the prompt '", prompt, "' must name a colour (",
                                                 list(model::kColors), ") and a shape (",
                                                 list(model::kShapes), ")"));
}

}  // namespace

absl::Status EvaluateCommand(const CommonArguments& arguments, const std::string& adapter) {
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Setup> setup, Prepare(arguments, adapter));
  Experiment* const experiment = setup->experiment.get();
  FEDUMM_ASSIGN_OR_RETURN(const MetricRecord metrics,
                          experiment->Evaluate(experiment->adapter().ToArrays(), 1));
  for (const std::string& task : TaskNames(experiment->config())) {
    const Score score = ScoreOf(metrics, task);
    std::printf("%-5s %s right, %s on new concepts (%lld held-out examples)\n", task.c_str(),
                Percent(score.all).c_str(), Percent(score.new_concepts).c_str(),
                static_cast<long long>(NumberOr(metrics, task + "-num-examples", 0)));
  }
  return absl::OkStatus();
}

absl::Status GenerateCommand(const GenerateArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const model::Concept wanted, ParsePrompt(arguments.prompt));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Setup> setup,
                          Prepare(arguments, arguments.adapter));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<model::Drawing> drawings,
                          setup->experiment->world().Draw({.per_prompt = 1,
                                                           .steps = arguments.steps,
                                                           .guidance = arguments.guidance,
                                                           .seed = arguments.seed}));
  for (const model::Drawing& drawing : drawings) {
    if (!(drawing.wanted == wanted)) continue;
    FEDUMM_RETURN_IF_ERROR(model::WritePng(
        arguments.out,
        {.width = model::kPictureSize, .height = model::kPictureSize, .pixels = drawing.pixels}));
    std::printf("wrote %s\n", arguments.out.c_str());
    return absl::OkStatus();
  }
  return absl::InternalError("the model's prompts lack this one");
}

}  // namespace fedumm::programs
