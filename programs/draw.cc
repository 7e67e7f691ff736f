// `fedumm draw`: a prompt as a picture, with a checkpoint folder or in a world.
#include "fedumm/model/draw.h"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/tokenizer.h"
#include "programs/commands.h"
#include "programs/draw_geneval.h"
#include "programs/experiment.h"
#include "programs/model_commands.h"
#include "programs/model_flags.h"
#include "programs/program.h"
#include "programs/shard.h"

namespace fedumm::programs {
namespace {

struct DrawArguments {
  std::string prompt;
  std::string out = "drawing.png";
  uint64_t seed = 0;
  int64_t steps = 50;
  double guidance = 3.0;
  int64_t flow_steps = 30;
  double flow_guidance = 3.0;
  bool latents_only = false;
  ModelFlags model;
  CommonArguments world;  // without --model
  GenevalRequest geneval;
  std::string shard = "1/1";
};

// A line on the terminal that counts the steps; nothing elsewhere.
class StepsLine {
 public:
  StepsLine() : shown_(isatty(STDERR_FILENO) == 1) {}
  ~StepsLine() { Clear(); }
  StepsLine(const StepsLine&) = delete;
  StepsLine& operator=(const StepsLine&) = delete;

  void Show(int64_t done, int64_t in_all) {
    if (!shown_) return;
    std::fprintf(stderr, "\rdrawing: step %lld of %lld\033[K", static_cast<long long>(done),
                 static_cast<long long>(in_all));
    std::fflush(stderr);
    dirty_ = true;
  }
  void Clear() {
    if (dirty_) std::fputs("\r\033[K", stderr);
    dirty_ = false;
  }

 private:
  bool shown_;
  bool dirty_ = false;
};

// Draws in a world: its own small codec makes the pixels.
absl::Status DrawInWorld(const DrawArguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, LoadConfig(arguments.world));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment, Experiment::Create(config));
  if (!arguments.model.adapter.empty()) {
    FEDUMM_RETURN_IF_ERROR(experiment->UseAdapter(arguments.model.adapter));
  }
  FEDUMM_ASSIGN_OR_RETURN(const std::string png,
                          experiment->world().Generate({.prompt = arguments.prompt,
                                                        .seed = arguments.seed,
                                                        .steps = arguments.flow_steps,
                                                        .guidance = arguments.flow_guidance}));
  FEDUMM_RETURN_IF_ERROR(WriteFileAtomically(arguments.out, png));
  PrintLine("wrote " + arguments.out);
  return absl::OkStatus();
}

absl::Status DrawWithModel(const DrawArguments& arguments) {
  const SignalStop stop;  // before LibTorch has threads, which then leave signals to it
  FEDUMM_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(arguments.model, stop.token()));
  FEDUMM_ASSIGN_OR_RETURN(model::Tokenizer tokenizer,
                          model::Tokenizer::Load(arguments.model.folder));
  std::unique_ptr<model::PixelDecoder> decoder;
  if (!arguments.latents_only) {
    // The reference has UNet and VAE in bfloat16 whatever the rest is in.
    const at::ScalarType dtype = arguments.model.dtype == "float32" ? at::kFloat : at::kBFloat16;
    FEDUMM_ASSIGN_OR_RETURN(
        decoder, model::PixelDecoder::Load(arguments.model.folder + "/diffusion-decoder",
                                           {.dtype = dtype,
                                            .device = opened.model->latent_queries().defined()
                                                          ? opened.model->latent_queries().device()
                                                          : at::Device(at::kCPU)}));
  }
  FEDUMM_ASSIGN_OR_RETURN(
      const std::unique_ptr<model::Painter> painter,
      model::Painter::Create(*opened.model, decoder.get(), std::move(tokenizer)));
  model::DrawOptions options;
  options.steps = arguments.steps;
  options.guidance = arguments.guidance;
  FEDUMM_ASSIGN_OR_RETURN(options.flow, model::FlowOptionsOf(arguments.model.folder));
  options.flow.steps = arguments.flow_steps;
  options.flow.guidance = arguments.flow_guidance;
  StepsLine line;
  options.progress = [&](int64_t done, int64_t in_all) {
    line.Show(done, in_all);
    return !stop.token().stop_requested();
  };
  if (!arguments.geneval.folder.empty()) {
    return DrawGeneval(*painter, options, arguments.geneval, [&](const std::string& done) {
      line.Clear();
      PrintLine(done);
    });
  }
  painter->Seed(arguments.seed);
  if (arguments.latents_only) {
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens, painter->Tokens(arguments.prompt, options));
    FEDUMM_RETURN_IF_ERROR(
        model::SaveStateDict({{"clip_tokens", tokens.contiguous()}}, arguments.out));
  } else {
    FEDUMM_ASSIGN_OR_RETURN(const model::Image image, painter->Draw(arguments.prompt, options));
    FEDUMM_RETURN_IF_ERROR(model::WritePng(arguments.out, image));
  }
  line.Clear();
  PrintLine("wrote " + arguments.out);
  return absl::OkStatus();
}

}  // namespace

void AddDraw(CLI::App& app, Command& command) {
  const auto arguments = std::make_shared<DrawArguments>();
  CLI::App* draw = app.add_subcommand(
      "draw",
      "Draw a prompt as a PNG, with a checkpoint folder (--model) or in a world (--config)");
  CLI::Option* prompt = draw->add_option("prompt", arguments->prompt, "What to draw");
  AddModelFlags(*draw, arguments->model);
  CLI::Option* folder = draw->get_option("--model")->required(false);
  CLI::Option* out =
      draw->add_option("-o,--out", arguments->out, "The picture")->capture_default_str();
  CLI::Option* seed =
      draw->add_option("--seed", arguments->seed, "Of the noise")->capture_default_str();
  CLI::Option* steps = draw->add_option("--steps", arguments->steps, "Steps of the pixel decoder")
                           ->check(CLI::Range(1, 1000))
                           ->capture_default_str();
  CLI::Option* guidance =
      draw->add_option("--guidance", arguments->guidance, "Guidance of the pixel decoder")
          ->capture_default_str();
  draw->add_option("--flow-steps", arguments->flow_steps,
                   "Steps from hidden states to image tokens")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  draw->add_option("--flow-guidance", arguments->flow_guidance, "Guidance of these")
      ->capture_default_str();
  CLI::Option* latents =
      draw->add_flag("--latents-only", arguments->latents_only,
                     "Write the image tokens as a safetensors file instead of a picture");
  CLI::Option* geneval =
      draw->add_option("--geneval", arguments->geneval.folder,
                       "Draw GenEval's prompts into this folder, which fedumm evaluate geneval "
                       "reads; goes on where an earlier call stopped");
  for (CLI::Option* const option :
       {draw->add_option("--prompts", arguments->geneval.prompts_file,
                         "Other prompts than GenEval's 553, as its JSON lines")
            ->check(CLI::ExistingFile),
        draw->add_option("--samples", arguments->geneval.samples, "Pictures of each prompt")
            ->check(CLI::Range(1, 1000))
            ->capture_default_str(),
        draw->add_option("--shard", arguments->shard,
                         "Draw only the i-th of n equal parts: i/n, from 1/n")
            ->capture_default_str()}) {
    option->needs(geneval);
  }
  geneval->needs(folder);
  latents->needs(folder);
  for (CLI::Option* const option : {prompt, out, seed, latents}) geneval->excludes(option);
  CLI::Option* config = draw->add_option("--config", arguments->world.config,
                                         "Settings of a world (TOML), where --model is not given")
                            ->check(CLI::ExistingFile)
                            ->capture_default_str();
  CLI::Option* data =
      draw->add_option("--data", arguments->world.data,
                       "Folder with the data (default: data.folder of the settings)")
          ->check(CLI::ExistingDirectory);
  for (CLI::Option* const option : {config, data}) option->excludes(folder);
  draw->callback([=, &command] {
    command = [=]() -> absl::Status {
      FEDUMM_ASSIGN_OR_RETURN(arguments->geneval.shard, ParseShard(arguments->shard));
      if (geneval->empty() && prompt->empty()) {
        return absl::InvalidArgumentError("draw takes a prompt, or --geneval FOLDER");
      }
      if (!folder->empty()) return DrawWithModel(*arguments);
      if (!steps->empty() || !guidance->empty()) {
        return absl::InvalidArgumentError(
            "--steps and --guidance are of the pixel decoder, which a world does not have: give "
            "--flow-steps and --flow-guidance");
      }
      return DrawInWorld(*arguments);
    };
  });
}

}  // namespace fedumm::programs
