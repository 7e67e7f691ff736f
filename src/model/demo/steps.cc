#include "model/demo/steps.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "base/status_macros.h"

namespace fedumm::model {
namespace {

constexpr int64_t kGrid = 8;    // patches on a side
constexpr int64_t kBlocks = 4;  // merged cells on a side
constexpr int64_t kMerge = 2;
// CLIP's, of red, green and blue.
constexpr std::array<float, 3> kMean = {0.48145466f, 0.4578275f, 0.40821073f};
constexpr std::array<float, 3> kStd = {0.26862954f, 0.26130258f, 0.27577711f};

// Rows in merge-block order: [n * 64, channels * frames * patch * patch].
at::Tensor PatchRows(const VisionConfig& config, const at::Tensor& pictures) {
  const int64_t n = pictures.size(0), patch = config.patch_size;
  const at::Tensor normalised =
      (pictures.to(at::kFloat) / 255 - at::tensor(at::ArrayRef<float>(kMean))) /
      at::tensor(at::ArrayRef<float>(kStd));
  return normalised.permute({0, 3, 1, 2})
      .reshape({n, 3, kBlocks, kMerge, patch, kBlocks, kMerge, patch})
      .permute({0, 2, 5, 3, 6, 1, 4, 7})
      .unsqueeze(6)
      .expand({-1, -1, -1, -1, -1, -1, config.temporal_patch_size, -1, -1})
      .reshape({n * kGrid * kGrid, config.patch_elements()});
}

// Of rows that begin with an image, `length` tokens in all: [3, 1, length].
absl::StatusOr<at::Tensor> Positions(const BackboneConfig& config, int64_t length) {
  std::vector<int64_t> tokens(length, 0);
  tokens[0] = config.vision_start_token_id;
  std::fill_n(tokens.begin() + 1, kImageTokens, config.image_token_id);
  tokens[1 + kImageTokens] = config.vision_end_token_id;
  const ImageGrid grid{1, kGrid, kGrid};
  FEDUMM_ASSIGN_OR_RETURN(const RopePositions positions,
                          RopePositionsOf(config, tokens, std::span(&grid, 1)));
  return IndexTensor(positions.ids).view({3, 1, length});
}

}  // namespace

at::Tensor PicturesOver(std::span<const uint8_t> pixels) {
  const int64_t n = static_cast<int64_t>(pixels.size()) / kPictureBytes;
  return at::from_blob(const_cast<uint8_t*>(pixels.data()), {n, kPictureSize, kPictureSize, 3},
                       at::kByte);
}

absl::StatusOr<at::Tensor> EncodePictures(const UnifiedModel& model, const at::Tensor& pictures) {
  const std::vector<ImageGrid> grids(pictures.size(0), ImageGrid{1, kGrid, kGrid});
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor tokens,
                          model.EncodeImages(PatchRows(model.config().vision, pictures), grids));
  return tokens.view({pictures.size(0), kImageTokens, -1});
}

Batch AnswerBatch(std::span<const Sequence* const> sequences) {
  const int64_t rows = static_cast<int64_t>(sequences.size());
  int64_t width = 0;
  for (const Sequence* sequence : sequences) {
    width = std::max(width, static_cast<int64_t>(sequence->ids.size()));
  }
  // The last token of a sequence predicts nothing, so a row is one shorter. Shorter rows end in
  // token 0, which no earlier token sees.
  std::vector<int64_t> ids(rows * (width - 1)), from, targets;
  for (int64_t row = 0; row < rows; ++row) {
    const Sequence& sequence = *sequences[row];
    const int64_t length = static_cast<int64_t>(sequence.ids.size());
    std::copy_n(sequence.ids.begin(), length - 1, ids.begin() + row * (width - 1));
    for (int64_t i = sequence.num_prompt; i < length; ++i) {
      from.push_back(row * (width - 1 + kImageTokens) + kImageTokens + i - 1);
      targets.push_back(sequence.ids[i]);
    }
  }
  return {{"input_ids", IndexTensor(ids).view({rows, width - 1})},
          {"rows", IndexTensor(from)},
          {"targets", IndexTensor(targets)}};
}

absl::StatusOr<at::Tensor> AnswerLogits(const UnifiedModel& model, const Batch& batch,
                                        const at::Tensor& image_tokens) {
  const at::Tensor words = model.Embed(batch.at("input_ids"));
  const at::Tensor embeds =
      at::cat({words.narrow(1, 0, 1), image_tokens, words.narrow(1, 1, words.size(1) - 1)}, 1);
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor positions, Positions(model.config(), embeds.size(1)));
  const at::Tensor hidden = model.Decode(embeds, positions);
  return model.Logits(hidden.flatten(0, 1).index_select(0, batch.at("rows")));
}

absl::StatusOr<at::Tensor> AnswerLoss(const UnifiedModel& model, const Batch& batch,
                                      const at::Tensor& image_tokens) {
  FEDUMM_ASSIGN_OR_RETURN(const at::Tensor logits, AnswerLogits(model, batch, image_tokens));
  return at::cross_entropy_loss(logits, batch.at("targets"));
}

at::Tensor Normal(Random& random, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* values = tensor.mutable_data_ptr<float>();
  const int64_t n = tensor.numel();
  for (int64_t i = 0; i < n; i += 2) {  // Box-Muller gives two values at a time
    const double radius = std::sqrt(-2 * std::log(1 - random.Uniform()));
    const double angle = 2 * std::numbers::pi * random.Uniform();
    values[i] = static_cast<float>(radius * std::cos(angle));
    if (i + 1 < n) values[i + 1] = static_cast<float>(radius * std::sin(angle));
  }
  return tensor;
}

namespace {

// [n, L]: all prompts have one length.
at::Tensor PromptIds(const Vocabulary& vocabulary, std::span<const Concept> wanted) {
  std::vector<int64_t> ids;
  for (const Concept one : wanted) {
    const std::vector<int64_t> prompt = vocabulary.DrawPrompt(one);
    ids.insert(ids.end(), prompt.begin(), prompt.end());
  }
  return IndexTensor(ids).view({static_cast<int64_t>(wanted.size()), -1});
}

}  // namespace

at::Tensor PromptHidden(const UnifiedModel& model, const Vocabulary& vocabulary,
                        std::span<const Concept> wanted) {
  return model.GenerationHidden(PromptIds(vocabulary, wanted));
}

Batch DrawBatch(const Vocabulary& vocabulary, std::span<const Concept> wanted, at::Tensor latents,
                double prompt_dropout, TimeSampling sampling, Random& random) {
  const int64_t n = static_cast<int64_t>(wanted.size());
  std::vector<Concept> prompts;
  std::vector<int64_t> prompt_of;
  for (const Concept one : wanted) {
    const auto it = std::find(prompts.begin(), prompts.end(), one);
    prompt_of.push_back(it - prompts.begin());
    if (it == prompts.end()) prompts.push_back(one);
  }
  at::Tensor noise = Normal(random, latents.sizes());
  Batch batch = {{"prompts", PromptIds(vocabulary, prompts)},
                 {"prompt_of", IndexTensor(prompt_of)},
                 {"latents", std::move(latents)},
                 {"noise", std::move(noise)}};
  AddTimesAndKeeps(n, prompt_dropout, sampling, random, batch);
  return batch;
}

at::Tensor DrawLoss(const UnifiedModel& model, const Batch& batch) {
  const at::Tensor hidden =
      model.GenerationHidden(batch.at("prompts")).index_select(0, batch.at("prompt_of"));
  return model.FlowLoss(batch.at("latents"), hidden, batch.at("noise"), batch.at("time"),
                        batch.at("keep"));
}

}  // namespace fedumm::model
