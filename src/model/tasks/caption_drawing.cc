#include "model/tasks/caption_drawing.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "model/data/picture_loader.h"
#include "model/guarded.h"
#include "model/tasks/batches.h"

namespace fedumm::model {
namespace {

constexpr int64_t kPictureSize = PixelCodec::kSize;
constexpr double kPromptDropout = 0.1;  // keeps classifier-free guidance in tune
constexpr int64_t kEvaluationBatch = 16;
constexpr float kTrainTimesteps = 1000;
constexpr std::array<double, 4> kTimesToJudge = {0.2, 0.4, 0.6, 0.8};
constexpr uint64_t kJudgingSeed = 1;

at::Tensor Normal(Random& random, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* const values = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(random.Normal());
  return tensor;
}

at::Tensor ToTensor(std::span<const int64_t> values) {
  at::Tensor tensor = at::empty({static_cast<int64_t>(values.size())}, at::kLong);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<int64_t>());
  return tensor;
}

// The pictures of the captions at `indices`, as latents.
absl::StatusOr<at::Tensor> LoadLatents(const PixelCodec& codec, const ImageReadOptions& reading,
                                       int threads, CaptionSource source,
                                       std::span<const int64_t> indices) {
  std::vector<std::string> paths;
  for (const int64_t i : indices) {
    const PictureCaption& caption = source.folder.captions()[static_cast<size_t>(i)];
    paths.push_back(source.folder.PicturePath(caption.image_id));
  }
  FEDUMM_ASSIGN_OR_RETURN(
      const std::vector<Image> images,
      LoadResized(paths, PixelCodec::kSize, PixelCodec::kSize, reading, threads));
  at::Tensor pixels =
      at::empty({std::ssize(images), PixelCodec::kSize, PixelCodec::kSize, 3}, at::kByte);
  uint8_t* out = pixels.mutable_data_ptr<uint8_t>();
  for (const Image& image : images) out = std::copy(image.pixels.begin(), image.pixels.end(), out);
  return codec.Encode(pixels);
}

// Prompts of different lengths as one tensor: each row's length, then its tokens.
at::Tensor PackPrompts(CaptionSource source, std::span<const int64_t> indices) {
  size_t width = 0;
  for (const int64_t i : indices) {
    width = std::max(width, source.prompts[static_cast<size_t>(i)].size());
  }
  at::Tensor packed = at::zeros({std::ssize(indices), static_cast<int64_t>(width) + 1}, at::kLong);
  int64_t* row = packed.mutable_data_ptr<int64_t>();
  for (const int64_t i : indices) {
    const std::vector<int64_t>& prompt = source.prompts[static_cast<size_t>(i)];
    row[0] = std::ssize(prompt);
    std::copy(prompt.begin(), prompt.end(), row + 1);
    row += width + 1;
  }
  return packed;
}

// The decoder's answer to the latent queries after each prompt, [n, n_query, hidden]. Equal prompts
// go through the decoder once; those of one length go together, without padding.
at::Tensor HiddenOf(const UnifiedModel& model, const at::Tensor& packed) {
  std::map<int64_t, std::map<std::vector<int64_t>, std::vector<int64_t>>> by_length;
  const int64_t* row = packed.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < packed.size(0); ++i, row += packed.size(1)) {
    by_length[row[0]][{row + 1, row + 1 + row[0]}].push_back(i);
  }
  std::vector<at::Tensor> parts;
  std::vector<int64_t> place(static_cast<size_t>(packed.size(0)));
  int64_t next = 0;
  for (const auto& [length, prompts] : by_length) {
    std::vector<int64_t> ids;
    for (const auto& [prompt, rows] : prompts) {
      ids.insert(ids.end(), prompt.begin(), prompt.end());
      for (const int64_t i : rows) place[static_cast<size_t>(i)] = next;
      ++next;
    }
    parts.push_back(model.GenerationHidden(ToTensor(ids).view({-1, length})));
  }
  return at::cat(parts).index_select(0, ToTensor(place));
}

// Each row's flow matching loss at one time, [n].
at::Tensor LossAt(const UnifiedModel& model, const at::Tensor& latents, const at::Tensor& z,
                  const at::Tensor& noise, double u) {
  const double t = kTrainTimesteps - std::floor(u * kTrainTimesteps);
  const double sigma = t / kTrainTimesteps;
  const at::Tensor noisy = (1 - sigma) * latents + sigma * noise;
  const at::Tensor times = at::empty({latents.size(0)}, at::kFloat).fill_(t);
  const at::Tensor velocity = model.Dit(noisy.to(z.scalar_type()), times, z);
  return (velocity.to(at::kFloat) - (noise - latents)).square().mean({1, 2, 3});
}

class CaptionDrawingTask final : public Task {
 public:
  CaptionDrawingTask(Drawer drawer, const ImageReadOptions& reading, int threads,
                     CaptionSource train, std::vector<int64_t> shard, CaptionSource test,
                     std::vector<int64_t> judged)
      : drawer_(drawer),
        reading_(reading),
        threads_(threads),
        train_(train),
        test_(test),
        batches_(std::move(shard)),
        judged_(std::move(judged)) {}

  std::string name() const override { return "draw"; }
  TaskDefaults defaults() const override { return kCaptionDrawingDefaults; }
  bool Trains(std::string_view module_path) const override {
    return !module_path.starts_with("visual.") && module_path != "lm_head";
  }
  int64_t num_examples() const override { return batches_.size(); }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> chosen, batches_.Next(batch_size));
    return Guarded([&]() -> absl::StatusOr<Batch> {
      FEDUMM_ASSIGN_OR_RETURN(at::Tensor latents,
                              LoadLatents(drawer_.codec, reading_, threads_, train_, chosen));
      Random& random = batches_.random();
      const int64_t n = latents.size(0);
      Batch batch;
      batch["noise"] = Normal(random, latents.sizes());
      at::Tensor time = at::empty({n}, at::kFloat), keep = at::empty({n}, at::kFloat);
      for (int64_t i = 0; i < n; ++i) {
        // One time of each of n equal parts of [0, 1). Rounding to fp32 must not reach 1.
        const double u = (static_cast<double>(i) + random.Uniform()) / static_cast<double>(n);
        time.mutable_data_ptr<float>()[i] = std::min(static_cast<float>(u), 0x1.fffffep-1f);
        keep.mutable_data_ptr<float>()[i] = random.Uniform() < kPromptDropout ? 0 : 1;
      }
      batch["latents"] = std::move(latents);
      batch["prompts"] = PackPrompts(train_, chosen);
      batch["time"] = std::move(time);
      batch["keep"] = std::move(keep);
      return batch;
    });
  }

  absl::StatusOr<at::Tensor> Loss(const Batch& batch) override {
    return Guarded([&]() -> absl::StatusOr<at::Tensor> {
      return drawer_.model.FlowLoss(batch.at("latents"),
                                    HiddenOf(drawer_.model, batch.at("prompts")), batch.at("noise"),
                                    batch.at("time"), batch.at("keep"));
    });
  }

  absl::StatusOr<MetricRecord> Evaluate() override {
    return Guarded([&]() -> absl::StatusOr<MetricRecord> {
      const at::NoGradGuard no_grad;
      Random random(kJudgingSeed);
      int64_t right = 0;
      const int64_t count = std::ssize(judged_);
      for (int64_t begin = 0; begin < count; begin += kEvaluationBatch) {
        const std::span<const int64_t> part = std::span(judged_).subspan(
            static_cast<size_t>(begin),
            static_cast<size_t>(std::min(kEvaluationBatch, count - begin)));
        FEDUMM_ASSIGN_OR_RETURN(const int64_t more, CountExplained(part, random));
        right += more;
      }
      if (count == 0) return MetricRecord{{"draw-num-examples", count}};
      return MetricRecord{
          {"draw-accuracy", static_cast<double>(right) / static_cast<double>(count)},
          {"draw-num-examples", count}};
    });
  }

 private:
  // How many of the pictures their own caption explains better than the other one does.
  absl::StatusOr<int64_t> CountExplained(std::span<const int64_t> captions, Random& random) {
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor latents,
                            LoadLatents(drawer_.codec, reading_, threads_, test_, captions));
    std::vector<int64_t> others;
    for (const int64_t i : captions) others.push_back(OtherCaption(i));
    const at::Tensor own = HiddenOf(drawer_.model, PackPrompts(test_, captions));
    const at::Tensor other = HiddenOf(drawer_.model, PackPrompts(test_, others));
    at::Tensor gain = at::zeros({latents.size(0)}, at::kFloat);
    for (const double u : kTimesToJudge) {
      const at::Tensor noise = Normal(random, latents.sizes());
      gain += LossAt(drawer_.model, latents, other, noise, u) -
              LossAt(drawer_.model, latents, own, noise, u);
    }
    return (gain > 0).sum().item<int64_t>();
  }

  // The next caption with other words, in a circle; the caption itself if all are equal.
  int64_t OtherCaption(int64_t caption) const {
    const int64_t count = std::ssize(test_.prompts);
    for (int64_t step = 1; step < count; ++step) {
      const int64_t i = (caption + step) % count;
      if (test_.prompts[static_cast<size_t>(i)] != test_.prompts[static_cast<size_t>(caption)]) {
        return i;
      }
    }
    return caption;
  }

  const Drawer drawer_;
  const ImageReadOptions reading_;
  const int threads_;
  const CaptionSource train_;
  const CaptionSource test_;
  Batches batches_;
  const std::vector<int64_t> judged_;
};

}  // namespace

absl::StatusOr<std::vector<std::vector<int64_t>>> TokenizeCaptions(
    const PromptFormat& format, std::span<const PictureCaption> captions) {
  std::vector<std::vector<int64_t>> prompts;
  for (const PictureCaption& caption : captions) {
    absl::StatusOr<std::vector<int64_t>> prompt = format.DrawPrompt(caption.text);
    if (!prompt.ok()) {
      return absl::Status(
          prompt.status().code(),
          absl::StrCat("caption of picture ", caption.image_id, ": ", prompt.status().message()));
    }
    prompts.push_back(*std::move(prompt));
  }
  return prompts;
}

std::unique_ptr<Task> NewCaptionDrawingTask(Drawer drawer, const ImageReadOptions& reading,
                                            int threads, CaptionSource train,
                                            std::vector<int64_t> shard, CaptionSource test,
                                            std::vector<int64_t> judged) {
  return std::make_unique<CaptionDrawingTask>(drawer, reading, threads, train, std::move(shard),
                                              test, std::move(judged));
}

absl::StatusOr<Image> DrawPicture(Drawer drawer, std::span<const int64_t> prompt, uint64_t seed,
                                  const SampleOptions& options) {
  return Guarded([&]() -> absl::StatusOr<Image> {
    const at::NoGradGuard no_grad;
    const DitConfig& dit = *drawer.model.config().dit;
    Random random(seed);
    const at::Tensor z = drawer.model.GenerationHidden(ToTensor(prompt).view({1, -1}));
    const at::Tensor noise = Normal(random, {1, dit.in_channels, dit.input_size, dit.input_size});
    const at::Tensor pixels =
        drawer.codec.Decode(drawer.model.Sample(z, noise, options).to(at::kFloat)).contiguous();
    const uint8_t* const begin = pixels.const_data_ptr<uint8_t>();
    return Image{.width = PixelCodec::kSize,
                 .height = PixelCodec::kSize,
                 .pixels = {begin, begin + pixels.numel()}};
  });
}

}  // namespace fedumm::model
