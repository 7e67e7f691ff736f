#include "model/tasks/caption_drawing.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "model/checkpoint/mapped_tensor.h"
#include "model/data/picture_loader.h"
#include "model/guarded.h"
#include "model/tasks/batch.h"
#include "model/tasks/batches.h"
#include "model/tasks/flow_draws.h"
#include "model/tasks/prompt_rows.h"

namespace fedumm::model {
namespace {

constexpr double kPromptDropout = 0.1;  // keeps classifier-free guidance in tune
constexpr int64_t kEvaluationBatch = 16;
constexpr float kTrainTimesteps = 1000;
constexpr std::array<double, 4> kTimesToJudge = {0.2, 0.4, 0.6, 0.8};
constexpr uint64_t kJudgingSeed = 1;
constexpr int64_t kMaxLength = 512;  // of prompt, [IMG] and queries: BLIP3o's training

at::Tensor Normal(Random& random, at::IntArrayRef shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  float* const values = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = static_cast<float>(random.Normal());
  return tensor;
}

// The latents of pictures that are made anew from the files.
class CodecLatents final : public LatentSource {
 public:
  CodecLatents(const PixelCodec& codec, const ImageReadOptions& reading, int threads)
      : codec_(codec), reading_(reading), threads_(threads) {}

  absl::StatusOr<at::Tensor> Load(const VqaFolder& folder,
                                  std::span<const int64_t> images) const override {
    std::vector<std::string> paths;
    for (const int64_t id : images) paths.push_back(folder.PicturePath(id));
    FEDUMM_ASSIGN_OR_RETURN(
        const std::vector<Image> loaded,
        LoadResized(paths, PixelCodec::kSize, PixelCodec::kSize, reading_, threads_));
    at::Tensor pixels =
        at::empty({std::ssize(loaded), PixelCodec::kSize, PixelCodec::kSize, 3}, at::kByte);
    uint8_t* out = pixels.mutable_data_ptr<uint8_t>();
    for (const Image& image : loaded) {
      out = std::copy(image.pixels.begin(), image.pixels.end(), out);
    }
    return codec_.Encode(pixels);
  }

 private:
  const PixelCodec& codec_;
  const ImageReadOptions reading_;
  const int threads_;
};

// Latents that were made once, by `fedumm encode`.
class StoredLatents final : public LatentSource {
 public:
  explicit StoredLatents(const LatentFolder& latents) : latents_(latents) {}

  absl::StatusOr<at::Tensor> Load(const VqaFolder& folder,
                                  std::span<const int64_t> images) const override {
    std::vector<int64_t> shape = latents_.shape();
    shape.insert(shape.begin(), std::ssize(images));
    at::Tensor all = at::empty(shape, at::kFloat);
    for (size_t i = 0; i < images.size(); ++i) {
      FEDUMM_ASSIGN_OR_RETURN(const SafetensorsTensor* stored, Find(folder.PicturePath(images[i])));
      at::Tensor raw = at::empty(latents_.shape(), *ScalarTypeOf(stored->dtype));
      std::memcpy(raw.mutable_data_ptr(), stored->bytes.data(), stored->bytes.size());
      all[static_cast<int64_t>(i)].copy_(raw);
    }
    return all;
  }

 private:
  // By the path's last parts: the folder that was encoded may be any one above the picture. Where
  // several names fit, the longest is that of this picture; "1.jpg" may be another subset's.
  absl::StatusOr<const SafetensorsTensor*> Find(const std::string& path) const {
    for (size_t begin = 0;;) {
      const std::string_view name = std::string_view(path).substr(begin);
      if (latents_.contains(name)) return latents_.Find(name);
      const size_t slash = path.find('/', begin);
      if (slash == path.npos) return latents_.Find(path);
      begin = slash + 1;
    }
  }

  const LatentFolder& latents_;
};

std::vector<int64_t> ImagesOf(CaptionSource source, std::span<const int64_t> indices) {
  std::vector<int64_t> images;
  for (const int64_t i : indices) {
    images.push_back(source.folder.captions()[static_cast<size_t>(i)].image_id);
  }
  return images;
}

// The prompts at `indices`.
void AddPrompts(CaptionSource source, std::span<const int64_t> indices, int64_t n_query,
                Batch& batch) {
  std::vector<const std::vector<int64_t>*> prompts;
  for (const int64_t i : indices) prompts.push_back(&source.prompts[static_cast<size_t>(i)]);
  AddPromptRows(prompts, n_query, batch);
}

// Each row's flow matching loss at one time, [n].
at::Tensor LossAt(const UnifiedModel& model, const at::Tensor& latents, const at::Tensor& z,
                  const at::Tensor& noise, double u) {
  const double t = kTrainTimesteps - std::floor(u * kTrainTimesteps);
  const double sigma = t / kTrainTimesteps;
  const at::Tensor noisy = (1 - sigma) * latents + sigma * noise;
  const at::Tensor times = at::empty({latents.size(0)}, latents.options()).fill_(t);
  const at::Tensor velocity = model.Dit(noisy.to(z.scalar_type()), times, z);
  return (velocity.to(at::kFloat) - (noise - latents)).square().mean({1, 2, 3});
}

class CaptionDrawingTask final : public Task {
 public:
  CaptionDrawingTask(const UnifiedModel& model, std::unique_ptr<LatentSource> latents,
                     CaptionSource train, std::vector<int64_t> shard, CaptionSource test,
                     std::vector<int64_t> judged, int64_t batches_by_length)
      : model_(model),
        latents_(std::move(latents)),
        train_(train),
        test_(test),
        batches_(std::move(shard)),
        judged_(std::move(judged)) {
    batches_.SortByLength(batches_by_length, [this](int64_t example) {
      return std::ssize(train_.prompts[static_cast<size_t>(example)]);
    });
  }

  std::string name() const override { return "draw"; }
  TaskDefaults defaults() const override { return kCaptionDrawingDefaults; }
  bool Trains(std::string_view module_path) const override {
    return !module_path.starts_with("visual.") && module_path != "lm_head";
  }
  int64_t num_examples() const override { return batches_.size(); }
  bool TakesMetaTensors() const override { return true; }
  void Seed(uint64_t seed) override { batches_.Seed(seed); }

  absl::StatusOr<Batch> NextBatch(int64_t batch_size) override {
    FEDUMM_ASSIGN_OR_RETURN(const std::vector<int64_t> chosen, batches_.Next(batch_size));
    return Guarded([&]() -> absl::StatusOr<Batch> {
      FEDUMM_ASSIGN_OR_RETURN(at::Tensor latents,
                              latents_->Load(train_.folder, ImagesOf(train_, chosen)));
      Random& random = batches_.random();
      Batch batch;
      batch["noise"] = Normal(random, latents.sizes());
      AddTimesAndKeeps(latents.size(0), kPromptDropout, TimeSampling::kStratified, random, batch);
      batch["latents"] = std::move(latents);
      AddPrompts(train_, chosen, model_.config().n_query, batch);
      return batch;
    });
  }

  absl::StatusOr<at::Tensor> Loss(const Batch& on_host) override {
    return Guarded([&]() -> absl::StatusOr<at::Tensor> {
      const Batch batch = ToDevice(on_host, model_.device());
      return model_.FlowLoss(batch.at("latents"), HiddenOfPromptRows(model_, batch),
                             batch.at("noise"), batch.at("time"), batch.at("keep"));
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
    FEDUMM_ASSIGN_OR_RETURN(const at::Tensor loaded,
                            latents_->Load(test_.folder, ImagesOf(test_, captions)));
    const at::Tensor latents = loaded.to(model_.device());
    std::vector<int64_t> others;
    for (const int64_t i : captions) others.push_back(OtherCaption(i));
    const auto hidden = [&](std::span<const int64_t> indices) {
      Batch batch;
      AddPrompts(test_, indices, model_.config().n_query, batch);
      return HiddenOfPromptRows(model_, ToDevice(batch, model_.device()));
    };
    const at::Tensor own = hidden(captions);
    const at::Tensor other = hidden(others);
    at::Tensor gain = at::zeros({latents.size(0)}, latents.options());
    for (const double u : kTimesToJudge) {
      const at::Tensor noise = Normal(random, latents.sizes()).to(latents.device());
      gain += LossAt(model_, latents, other, noise, u) - LossAt(model_, latents, own, noise, u);
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

  const UnifiedModel& model_;
  const std::unique_ptr<LatentSource> latents_;
  const CaptionSource train_;
  const CaptionSource test_;
  Batches batches_;
  const std::vector<int64_t> judged_;
};

}  // namespace

absl::StatusOr<std::vector<std::vector<int64_t>>> TokenizeCaptions(
    const PromptFormat& format, int64_t n_query, std::span<const PictureCaption> captions) {
  std::vector<std::vector<int64_t>> prompts;
  for (const PictureCaption& caption : captions) {
    absl::StatusOr<std::vector<int64_t>> prompt =
        format.DrawTrainingPrompt(caption.text, kMaxLength - n_query - 1);
    if (!prompt.ok()) {
      return absl::Status(
          prompt.status().code(),
          absl::StrCat("caption of picture ", caption.image_id, ": ", prompt.status().message()));
    }
    prompts.push_back(*std::move(prompt));
  }
  return prompts;
}

std::unique_ptr<LatentSource> NewCodecLatents(const PixelCodec& codec,
                                              const ImageReadOptions& reading, int threads) {
  return std::make_unique<CodecLatents>(codec, reading, threads);
}

std::unique_ptr<LatentSource> NewStoredLatents(const LatentFolder& latents) {
  return std::make_unique<StoredLatents>(latents);
}

std::unique_ptr<Task> NewCaptionDrawingTask(const UnifiedModel& model,
                                            std::unique_ptr<LatentSource> latents,
                                            CaptionSource train, std::vector<int64_t> shard,
                                            CaptionSource test, std::vector<int64_t> judged,
                                            int64_t batches_by_length) {
  return std::make_unique<CaptionDrawingTask>(model, std::move(latents), train, std::move(shard),
                                              test, std::move(judged), batches_by_length);
}

absl::StatusOr<Image> DrawPicture(Drawer drawer, std::span<const int64_t> prompt, uint64_t seed,
                                  const SampleOptions& options) {
  return Guarded([&]() -> absl::StatusOr<Image> {
    const at::NoGradGuard no_grad;
    const DitConfig& dit = *drawer.model.config().dit;
    Random random(seed);
    const at::Tensor z =
        drawer.model.GenerationHidden(IndexTensor(prompt).to(drawer.model.device()).view({1, -1}));
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
