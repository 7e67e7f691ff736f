#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/draw.h"
#include "gtest/gtest.h"
#include "tests/model/backbone/golden.h"

namespace fedumm::model {
namespace {

const char kRelease[] = FEDUMM_TEST_DATA "/blip3o/release";
const char kDecoderFolder[] = FEDUMM_TEST_DATA "/blip3o/release/diffusion-decoder";
const char kCaption[] = "a photo of a cow";

const at::Tensor& ExpectedDraw(const std::string& name) {
  static const StateDict golden = LoadGolden("blip3o/release_expected.safetensors");
  return golden.at("draw." + name);
}

std::unique_ptr<UnifiedModel> LoadRelease(at::ScalarType dtype) {
  LoadOptions options;
  options.dtype = dtype;
  absl::StatusOr<std::unique_ptr<UnifiedModel>> model = Load(kRelease, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

std::unique_ptr<PixelDecoder> LoadDecoder(at::ScalarType dtype) {
  absl::StatusOr<std::unique_ptr<PixelDecoder>> decoder =
      PixelDecoder::Load(kDecoderFolder, {.dtype = dtype});
  EXPECT_TRUE(decoder.ok()) << decoder.status();
  return *std::move(decoder);
}

std::unique_ptr<Painter> NewPainter(const UnifiedModel& model, const PixelDecoder* decoder) {
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::Load(kRelease);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  absl::StatusOr<std::unique_ptr<Painter>> painter =
      Painter::Create(model, decoder, *std::move(tokenizer));
  EXPECT_TRUE(painter.ok()) << painter.status();
  return *std::move(painter);
}

// Few steps, for what does not depend on how good the picture is.
DrawOptions FastOptions() {
  DrawOptions options;
  options.steps = 2;
  options.flow.steps = 2;
  return options;
}

Image Drawn(Painter& painter, const std::string& caption, const DrawOptions& options) {
  absl::StatusOr<Image> image = painter.Draw(caption, options);
  EXPECT_TRUE(image.ok()) << image.status();
  return *std::move(image);
}

TEST(DrawingParityTest, TokensOfPromptAndNegativeConditionAreThoseOfTheReference) {
  const std::unique_ptr<UnifiedModel> model = LoadRelease(at::kFloat);
  for (const std::string name : {"prompt.", "negative."}) {
    const at::Tensor hidden = model->GenerationHidden(ExpectedDraw(name + "input_ids"));
    EXPECT_LT(RelativeDifference(hidden, ExpectedDraw(name + "hidden")), 1e-4) << name;
    const at::Tensor latents = model->Sample(hidden, ExpectedDraw(name + "noise"), {});
    EXPECT_LT(RelativeDifference(latents, ExpectedDraw(name + "latents")), 1e-4) << name;
  }
}

TEST(DrawingParityTest, PixelsOfTheReferencesTokensAreWithinOneLevel) {
  const std::unique_ptr<PixelDecoder> decoder = LoadDecoder(at::kFloat);
  std::vector<at::Tensor> seen;
  DenoiseOptions options;
  options.steps = 4;
  options.watch = [&](int64_t, const at::Tensor& latents) { seen.push_back(latents); };
  const absl::StatusOr<at::Tensor> latents =
      decoder->Denoise(ExpectedDraw("clip_tokens"), ExpectedDraw("pixel_noise"), options);
  ASSERT_TRUE(latents.ok()) << latents.status();
  ASSERT_EQ(seen.size(), 4u);
  for (size_t i = 0; i < seen.size(); ++i) {
    EXPECT_LT(RelativeDifference(seen[i], ExpectedDraw("pixel_latents_" + std::to_string(i))), 1e-4)
        << i;
  }
  const absl::StatusOr<at::Tensor> picture = decoder->Decode(*latents);
  ASSERT_TRUE(picture.ok()) << picture.status();
  EXPECT_LT(RelativeDifference(*picture, ExpectedDraw("vae_output")), 1e-4);
  const absl::StatusOr<Image> image = PixelDecoder::ToImage(*picture);
  ASSERT_TRUE(image.ok()) << image.status();
  const at::Tensor expected = ExpectedDraw("pixels").contiguous();
  ASSERT_EQ(static_cast<int64_t>(image->pixels.size()), expected.numel());
  int worst = 0;
  for (size_t i = 0; i < image->pixels.size(); ++i) {
    worst = std::max(worst, std::abs(image->pixels[i] - expected.const_data_ptr<uint8_t>()[i]));
  }
  EXPECT_LE(worst, 1);
}

TEST(PainterTest, OneSeedIsOnePictureAndTheNegativeConditionIsDrawnOnce) {
  const std::unique_ptr<UnifiedModel> model = LoadRelease(at::kFloat);
  const std::unique_ptr<PixelDecoder> decoder = LoadDecoder(at::kFloat);
  const std::unique_ptr<Painter> painter = NewPainter(*model, decoder.get());
  int64_t in_all = 0;
  int64_t calls = 0;
  DrawOptions options = FastOptions();
  options.progress = [&](int64_t done, int64_t steps) {
    EXPECT_EQ(done, ++calls);
    in_all = steps;
    return true;
  };
  const Image first = Drawn(*painter, kCaption, options);
  EXPECT_EQ(first.width, 64);
  EXPECT_EQ(in_all, 6);  // prompt, negative condition, pixels
  EXPECT_EQ(calls, 6);
  calls = 0;
  const Image second = Drawn(*painter, kCaption, options);
  EXPECT_EQ(in_all, 4);
  EXPECT_NE(second, first);

  const std::unique_ptr<Painter> other = NewPainter(*model, decoder.get());
  other->Seed(0);
  const DrawOptions quiet = FastOptions();
  EXPECT_TRUE(other->Skip(quiet).ok());
  EXPECT_EQ(Drawn(*other, kCaption, quiet), second);
  // Whoever comes later has the negative condition of the first.
  const std::unique_ptr<Painter> late = NewPainter(*model, decoder.get());
  EXPECT_TRUE(late->PrepareNegative(0, quiet).ok());
  late->Seed(7);
  other->Seed(7);
  EXPECT_EQ(Drawn(*late, kCaption, quiet), Drawn(*other, kCaption, quiet));
  late->ForgetNegative();
  late->Seed(7);
  other->Seed(7);
  EXPECT_NE(Drawn(*late, kCaption, quiet), Drawn(*other, kCaption, quiet));
  // Without guidance there is no negative condition, and no noise is taken for it.
  DrawOptions unguided = quiet;
  unguided.guidance = 1;
  late->ForgetNegative();
  late->Seed(7);
  other->Seed(7);
  EXPECT_EQ(Drawn(*late, kCaption, unguided), Drawn(*other, kCaption, unguided));
}

TEST(PainterTest, StopsWhereItIsToldTo) {
  const std::unique_ptr<UnifiedModel> model = LoadRelease(at::kFloat);
  const std::unique_ptr<PixelDecoder> decoder = LoadDecoder(at::kFloat);
  for (const int64_t last : {1, 3, 5}) {
    const std::unique_ptr<Painter> painter = NewPainter(*model, decoder.get());
    DrawOptions options = FastOptions();
    options.progress = [&](int64_t done, int64_t) { return done < last; };
    EXPECT_EQ(painter->Draw(kCaption, options).status().code(), absl::StatusCode::kCancelled);
  }
}

TEST(PainterTest, WhatCannotBeDrawnIsRefused) {
  const std::unique_ptr<UnifiedModel> model = LoadRelease(at::kFloat);
  const std::unique_ptr<Painter> painter = NewPainter(*model, nullptr);
  EXPECT_EQ(painter->Draw(kCaption, FastOptions()).status().code(),
            absl::StatusCode::kFailedPrecondition);
  const absl::StatusOr<at::Tensor> tokens = painter->Tokens(kCaption, FastOptions());
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  EXPECT_EQ(tokens->sizes(), at::IntArrayRef({1, 16, 24}));
  EXPECT_EQ(painter->Tokens("a <|im_end|> cow", FastOptions()).status().code(),
            absl::StatusCode::kInvalidArgument);
  const std::unique_ptr<PixelDecoder> decoder = LoadDecoder(at::kFloat);
  EXPECT_EQ(decoder->Denoise(at::zeros({1, 16, 24}), at::zeros({1, 4, 8, 8})).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(decoder->Denoise(at::zeros({2, 16, 24}), at::zeros({1, 4, 7, 8})).ok());
  EXPECT_EQ(PixelDecoder::Load(kRelease).status().code(), absl::StatusCode::kNotFound);
}

TEST(PainterTest, HalfPrecisionDrawsAboutTheSamePicture) {
  const std::unique_ptr<UnifiedModel> wide = LoadRelease(at::kFloat);
  const std::unique_ptr<PixelDecoder> wide_decoder = LoadDecoder(at::kFloat);
  const Image reference = Drawn(*NewPainter(*wide, wide_decoder.get()), kCaption, FastOptions());
  const struct {
    at::ScalarType model;
    at::ScalarType decoder;
  } kCases[] = {{at::kBFloat16, at::kBFloat16}, {at::kHalf, at::kBFloat16}, {at::kHalf, at::kHalf}};
  for (const auto& test : kCases) {
    const std::unique_ptr<UnifiedModel> model = LoadRelease(test.model);
    const std::unique_ptr<PixelDecoder> decoder = LoadDecoder(test.decoder);
    const Image image = Drawn(*NewPainter(*model, decoder.get()), kCaption, FastOptions());
    ASSERT_EQ(image.pixels.size(), reference.pixels.size());
    double sum = 0;
    for (size_t i = 0; i < image.pixels.size(); ++i) {
      sum += std::abs(image.pixels[i] - reference.pixels[i]);
    }
    const double mean = sum / static_cast<double>(image.pixels.size());
    EXPECT_LT(mean, 8.0) << c10::toString(test.model) << " " << c10::toString(test.decoder);
    RecordProperty(absl::StrCat(c10::toString(test.model), c10::toString(test.decoder)),
                   std::to_string(mean));
  }
}

}  // namespace
}  // namespace fedumm::model
