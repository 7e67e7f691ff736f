#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <filesystem>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/model/draw.h"
#include "model/diffusion/euler.h"
#include "model/guarded.h"
#include "model/tasks/prompt_format.h"

namespace fedumm::model {
namespace {

// What the pixel decoder's negative condition is drawn for.
constexpr const char* kNothing = " ";
constexpr const char* kBeginOfPicture = "[IMG]";
constexpr int64_t kMaxSchedulerBytes = int64_t{1} << 20;

at::Tensor StandardNormal(Random& random, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* const values = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(random.Normal());
  return tensor;
}

}  // namespace

class Painter::Impl {
 public:
  Impl(const UnifiedModel& model, const PixelDecoder* pixels, PromptFormat format,
       std::vector<int64_t> nothing)
      : model_(model), pixels_(pixels), format_(std::move(format)), nothing_(std::move(nothing)) {}

  void Seed(uint64_t seed) { random_ = Random(seed); }
  void Forget() { negative_.reset(); }

  absl::StatusOr<at::Tensor> Tokens(const std::string& caption, const DrawOptions& options) {
    return CaptionTokens(caption, options, Progress(options, options.flow.steps));
  }

  absl::StatusOr<Image> Draw(const std::string& caption, const DrawOptions& options) {
    if (pixels_ == nullptr) {
      return absl::FailedPreconditionError("drawing pixels takes a pixel decoder");
    }
    const bool guided = options.guidance != 1.0;
    const bool with_negative = guided && !negative_.defined();
    Progress progress(options, options.flow.steps * (with_negative ? 2 : 1) + options.steps);
    FEDUMM_ASSIGN_OR_RETURN(at::Tensor tokens, CaptionTokens(caption, options, progress));
    progress.done += options.flow.steps;
    if (with_negative) {
      FEDUMM_ASSIGN_OR_RETURN(negative_, Flow(nothing_, options, progress));
      progress.done += options.flow.steps;
    }
    if (guided) tokens = at::cat({tokens, negative_});
    const at::Tensor noise = StandardNormal(random_, pixels_->latent_shape());
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor latents,
                            pixels_->Denoise(tokens, noise,
                                             {.steps = options.steps,
                                              .guidance = options.guidance,
                                              .progress = progress.Callback(),
                                              .watch = nullptr}));
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor picture, pixels_->Decode(latents));
    return PixelDecoder::ToImage(picture);
  }

  absl::Status Skip(const DrawOptions& options) {
    if (pixels_ == nullptr) {
      return absl::FailedPreconditionError("drawing pixels takes a pixel decoder");
    }
    StandardNormal(random_, FlowShape());
    if (options.guidance != 1.0 && !negative_.defined()) {
      FEDUMM_ASSIGN_OR_RETURN(negative_,
                              Flow(nothing_, options, Progress(options, options.flow.steps)));
    }
    StandardNormal(random_, pixels_->latent_shape());
    return absl::OkStatus();
  }

  absl::Status PrepareNegative(uint64_t seed, const DrawOptions& options) {
    const Random before = std::exchange(random_, Random(seed));
    StandardNormal(random_, FlowShape());  // the first picture's
    absl::StatusOr<at::Tensor> tokens =
        Flow(nothing_, options, Progress(options, options.flow.steps));
    random_ = before;
    if (!tokens.ok()) return tokens.status();
    negative_ = *std::move(tokens);
    return absl::OkStatus();
  }

 private:
  // Counts the steps of both networks as one.
  struct Progress {
    Progress(const DrawOptions& options, int64_t steps) : report(options.progress), in_all(steps) {}
    std::function<bool(int64_t, int64_t)> Callback() const {
      if (report == nullptr) return nullptr;
      return [report = report, done = done, in_all = in_all](int64_t step, int64_t) {
        return report(done + step, in_all);
      };
    }
    std::function<bool(int64_t, int64_t)> report;
    int64_t in_all;
    int64_t done = 0;
  };

  std::vector<int64_t> FlowShape() const {
    const DitConfig& dit = *model_.config().dit;
    return {1, dit.in_channels, dit.input_size, dit.input_size};
  }

  absl::StatusOr<at::Tensor> CaptionTokens(const std::string& caption, const DrawOptions& options,
                                           const Progress& progress) {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> prompt, format_.DrawPrompt(caption));
    return Flow(prompt, options, progress);
  }

  absl::StatusOr<at::Tensor> Flow(const std::vector<int64_t>& prompt, const DrawOptions& options,
                                  const Progress& progress) {
    return Guarded([&]() -> absl::StatusOr<at::Tensor> {
      const at::NoGradGuard no_grad;
      at::Tensor ids = at::empty({1, std::ssize(prompt)}, at::kLong);
      std::copy(prompt.begin(), prompt.end(), ids.mutable_data_ptr<int64_t>());
      const at::Device device = model_.latent_queries().device();
      const at::Tensor noise = StandardNormal(random_, FlowShape()).to(device);
      const at::Tensor hidden = model_.GenerationHidden(ids.to(device));
      SampleOptions flow = options.flow;
      flow.progress = progress.Callback();
      const at::Tensor latents = model_.Sample(hidden, noise, flow);
      if (!latents.defined()) return absl::CancelledError("stopped while drawing");
      return latents.flatten(2).transpose(1, 2);
    });
  }

  const UnifiedModel& model_;
  const PixelDecoder* pixels_;
  PromptFormat format_;
  std::vector<int64_t> nothing_;  // the negative condition's prompt
  Random random_{0};
  at::Tensor negative_;  // its image tokens, once drawn
};

Painter::Painter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Painter::~Painter() = default;

absl::StatusOr<std::unique_ptr<Painter>> Painter::Create(const UnifiedModel& model,
                                                         const PixelDecoder* pixels,
                                                         Tokenizer tokenizer) {
  if (!model.config().dit.has_value()) {
    return absl::InvalidArgumentError("this model has no dit: it draws no pictures");
  }
  if (pixels != nullptr && pixels->token_size() != model.config().dit->in_channels) {
    return absl::InvalidArgumentError(
        absl::StrCat("the pixel decoder takes image tokens of ", pixels->token_size(),
                     " channels, the model draws ", model.config().dit->in_channels));
  }
  FEDUMM_ASSIGN_OR_RETURN(std::vector<int64_t> nothing, tokenizer.Encode(kNothing));
  const std::optional<int64_t> begin = tokenizer.TokenId(kBeginOfPicture);
  if (!begin.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer lacks ", kBeginOfPicture, ", which begins a picture to draw"));
  }
  nothing.push_back(*begin);
  for (const int64_t id : nothing) {
    if (id < model.config().text.vocab_size) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("the tokenizer has token ", id, ", the model's vocabulary ends before"));
  }
  FEDUMM_ASSIGN_OR_RETURN(PromptFormat format,
                          PromptFormat::Create(std::move(tokenizer), model.config(), "auto", ""));
  return std::unique_ptr<Painter>(
      new Painter(std::make_unique<Impl>(model, pixels, std::move(format), std::move(nothing))));
}

void Painter::Seed(uint64_t seed) { impl_->Seed(seed); }

absl::StatusOr<at::Tensor> Painter::Tokens(const std::string& caption, const DrawOptions& options) {
  return impl_->Tokens(caption, options);
}

absl::StatusOr<Image> Painter::Draw(const std::string& caption, const DrawOptions& options) {
  return impl_->Draw(caption, options);
}

absl::Status Painter::Skip(const DrawOptions& options) { return impl_->Skip(options); }

absl::Status Painter::PrepareNegative(uint64_t seed, const DrawOptions& options) {
  return impl_->PrepareNegative(seed, options);
}

void Painter::ForgetNegative() { impl_->Forget(); }

absl::StatusOr<SampleOptions> FlowOptionsOf(const std::string& checkpoint_folder) {
  SampleOptions options;
  const std::string path = checkpoint_folder + "/scheduler/scheduler_config.json";
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return options;
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(path, kMaxSchedulerBytes));
  FEDUMM_ASSIGN_OR_RETURN(options.shift, FlowShiftFromJson(json, path));
  return options;
}

}  // namespace fedumm::model
