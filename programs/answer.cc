#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <vector>

#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/generation.h"
#include "fedumm/model/image.h"
#include "fedumm/model/tokenizer.h"
#include "model/tasks/answering.h"
#include "programs/model_commands.h"
#include "programs/model_flags.h"
#include "programs/program.h"

namespace fedumm::programs {
namespace {

struct AnswerFlags {
  ModelFlags model;
  std::string image;
  std::string question;
  std::string processor = "hub";
  std::string style = "auto";
  std::vector<std::string> stop;
  // Of the folder's generation_config.json where they are not given.
  std::optional<int64_t> max_new_tokens, top_k;
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  uint64_t seed = 0;
  bool greedy = false;
};

absl::StatusOr<model::GenerationSettings> SettingsOf(const AnswerFlags& flags) {
  model::GenerationSettings settings{.max_new_tokens = 64};
  const std::string path = flags.model.folder + "/generation_config.json";
  std::error_code error;
  if (std::filesystem::exists(path, error)) {
    FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(path));
    FEDUMM_ASSIGN_OR_RETURN(settings, model::ParseGenerationConfig(json, settings.max_new_tokens));
  }
  settings.max_new_tokens = flags.max_new_tokens.value_or(settings.max_new_tokens);
  settings.seed = flags.seed;
  const bool sampling = flags.temperature || flags.top_k || flags.top_p || flags.min_p;
  settings.do_sample = !flags.greedy && (settings.do_sample || sampling);
  settings.temperature = flags.temperature.value_or(settings.temperature);
  settings.top_k = flags.top_k.value_or(settings.top_k);
  settings.top_p = flags.top_p.value_or(settings.top_p);
  settings.min_p = flags.min_p.value_or(settings.min_p);
  settings.repetition_penalty = flags.repetition_penalty.value_or(settings.repetition_penalty);
  FEDUMM_RETURN_IF_ERROR(settings.Validate());
  return settings;
}

absl::Status AnswerOne(const AnswerFlags& flags) {
  const SignalStop stop;
  FEDUMM_ASSIGN_OR_RETURN(const model::GenerationSettings settings, SettingsOf(flags));
  // What is wrong with the picture is better known before a model is loaded.
  FEDUMM_RETURN_IF_ERROR(model::ReadImage(flags.image).status());
  FEDUMM_ASSIGN_OR_RETURN(model::Tokenizer tokenizer, model::Tokenizer::Load(flags.model.folder));
  FEDUMM_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(flags.model, stop.token()));
  const model::BackboneConfig& config = opened.model->config();
  FEDUMM_ASSIGN_OR_RETURN(
      const model::PromptFormat format,
      model::PromptFormat::Create(std::move(tokenizer), config, flags.style, ""));
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> question, format.Question(flags.question));
  FEDUMM_ASSIGN_OR_RETURN(const model::ImageProcessorOptions preset,
                          model::ProcessorPreset(flags.processor));
  model::AnsweringOptions options;
  options.processor = model::ProcessorFor(config.vision, preset);
  options.generation = settings;
  options.stop_strings = flags.stop;
  FEDUMM_ASSIGN_OR_RETURN(
      const std::vector<std::string> answers,
      model::AnswerPictures(*opened.model, format, options,
                            std::vector<model::PictureQuestion>{{flags.image, question}}));
  std::printf("%s\n", answers[0].c_str());
  return absl::OkStatus();
}

}  // namespace

void AddAnswer(CLI::App& app, Command& command) {
  const auto flags = std::make_shared<AnswerFlags>();
  CLI::App* answer = app.add_subcommand("answer", "Answer a question about a picture");
  answer->add_option("question", flags->question, "What to ask")->required();
  AddModelFlags(*answer, flags->model);
  answer->add_option("--image", flags->image, "The picture, PNG or JPEG")
      ->required()
      ->check(CLI::ExistingFile);
  answer
      ->add_option("--processor", flags->processor,
                   "Pixel limits of the picture: hub (3136 to 12845056), lmms (200704 to 1605632) "
                   "or blip3o-train (the middle 448x448)")
      ->check(CLI::IsMember(model::ProcessorPresets()))
      ->capture_default_str();
  answer
      ->add_option("--prompt-style", flags->style,
                   "chat (Qwen2.5-VL's template), plain, or auto: chat if the tokenizer knows it")
      ->check(CLI::IsMember({"auto", "chat", "plain"}))
      ->capture_default_str();
  answer->add_option("--max-new-tokens", flags->max_new_tokens, "Longest answer (default: 64)");
  answer->add_flag("--greedy", flags->greedy, "The most probable token, always");
  const char* const of_model = " (default: as generation_config.json says)";
  answer->add_option("--temperature", flags->temperature, std::string("Of sampling") + of_model);
  answer->add_option("--top-k", flags->top_k, std::string("Only the k best tokens") + of_model);
  answer->add_option("--top-p", flags->top_p,
                     std::string("Only the best tokens of so much probability") + of_model);
  answer->add_option("--min-p", flags->min_p,
                     std::string("Only tokens so probable beside the best one") + of_model);
  answer->add_option("--repetition-penalty", flags->repetition_penalty,
                     std::string("Above 1: fewer repetitions") + of_model);
  answer->add_option("--seed", flags->seed, "Of sampling")->capture_default_str();
  answer->add_option("--stop", flags->stop, "The answer ends before this text; may be repeated");
  answer->callback([flags, &command] { command = [flags] { return AnswerOne(*flags); }; });
}

}  // namespace fedumm::programs
