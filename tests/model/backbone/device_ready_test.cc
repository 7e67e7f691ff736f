// Runs the model on meta tensors, which have no values: an operation that reads one on the host
// fails, and an observer of all operations finds those that are given, or make, a tensor in host
// memory.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "fedumm/model/checkpoint.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/pixel_decoder.h"
#include "model/backbone/decoder.h"
#include "model/backbone/module_visitor.h"
#include "model/train/meta_kernels.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::model {
namespace {

const char kRelease[] = FEDUMM_TEST_DATA "/blip3o/release";

// Names of operations that met a tensor in host memory while it lived, on this thread. Single
// numbers are arguments of kernels and do not count.
class HostTraffic {
 public:
  HostTraffic() {
    found_.clear();
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&Start, &End)
                                             .needsInputs(true)
                                             .needsOutputs(true)
                                             .scopes({at::RecordScope::FUNCTION}));
  }
  ~HostTraffic() { at::removeCallback(handle_); }
  HostTraffic(const HostTraffic&) = delete;
  HostTraffic& operator=(const HostTraffic&) = delete;

  const std::vector<std::string>& found() const { return found_; }

 private:
  static std::unique_ptr<at::ObserverContext> Start(const at::RecordFunction& function) {
    for (const c10::IValue& value : function.inputs()) Check(function, value);
    return nullptr;
  }
  static void End(const at::RecordFunction& function, at::ObserverContext* /*context*/) {
    for (const c10::IValue& value : function.outputs()) Check(function, value);
  }
  static void Check(const at::RecordFunction& function, const c10::IValue& value) {
    if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) CheckTensor(function, tensor);
    } else if (value.isTensor()) {
      CheckTensor(function, value.toTensor());
    }
  }
  static void CheckTensor(const at::RecordFunction& function, const at::Tensor& tensor) {
    if (tensor.defined() && tensor.is_cpu() && tensor.dim() > 0) {
      found_.emplace_back(function.name());
    }
  }

  static thread_local std::vector<std::string> found_;
  at::CallbackHandle handle_;
};

thread_local std::vector<std::string> HostTraffic::found_;

at::TensorOptions Meta(at::ScalarType dtype) { return at::TensorOptions(dtype).device(at::kMeta); }

class DeviceReadyTest : public ::testing::TestWithParam<at::ScalarType> {
 protected:
  void SetUp() override {
    ASSERT_OK_AND_ASSIGN(model_, Load(kRelease, {.dtype = GetParam(), .device = at::kMeta}));
  }
  at::Tensor Ids(int64_t batch, int64_t length) const {
    return at::zeros({batch, length}, Meta(at::kLong));
  }
  static at::Tensor Positions(int64_t length) {
    return at::arange(length, Meta(at::kLong)).expand({3, 1, length});
  }

  const MetaKernels kernels_;
  std::unique_ptr<UnifiedModel> model_;
};

TEST_P(DeviceReadyTest, TheObserverSeesHostTensors) {
  const HostTraffic traffic;
  const at::Tensor copied = at::zeros({3}).to(at::kMeta);
  EXPECT_THAT(traffic.found(), ::testing::Contains(::testing::HasSubstr("copy")));
  EXPECT_ANY_THROW(copied.cpu());
}

TEST_P(DeviceReadyTest, Answering) {
  const at::NoGradGuard no_grad;
  const std::vector<ImageGrid> grids = {{1, 8, 8}, {1, 8, 8}};
  const int64_t patch = model_->config().vision.patch_elements();
  const at::Tensor pixels = at::empty({2 * 64, patch}, Meta(at::kFloat));
  // The tables of a size of pictures are made once, on the host.
  ASSERT_OK_AND_ASSIGN(const at::Tensor images, model_->EncodeImages(pixels, grids));

  // The decoder alone, as Generate drives it; it reads each row's chosen token and nothing else.
  Decoder decoder(model_->config().text);
  StateDict weights;
  for (const auto& [name, tensor] : model_->Parameters()) weights[name] = *tensor;
  StateBinder binder(weights);
  decoder.Visit(binder);

  const HostTraffic traffic;
  ASSERT_OK_AND_ASSIGN(const at::Tensor again, model_->EncodeImages(pixels, grids));
  const at::Tensor words = decoder.Embed(Ids(2, 40));
  const at::Tensor rows = at::zeros({images.size(0)}, Meta(at::kLong));
  at::Tensor embeds = words.flatten(0, 1).index_copy(0, rows, images).view(words.sizes());
  KeyValueCache cache(44);
  at::Tensor mask = at::zeros({2, 44}, Meta(at::kBool));
  at::Tensor positions = Positions(40);
  for (int64_t step = 0; step < 4; ++step) {
    const at::Tensor hidden = decoder.Run(embeds, positions, mask.narrow(1, 0, 40 + step), &cache);
    const at::Tensor token = decoder.Logits(hidden.select(1, -1)).argmax(-1);
    embeds = decoder.Embed(token.view({2, 1}));
    positions = Positions(1);
  }
  EXPECT_THAT(traffic.found(), ::testing::IsEmpty());
}

TEST_P(DeviceReadyTest, Drawing) {
  const DitConfig& dit = *model_->config().dit;
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<PixelDecoder> pixels,
                       PixelDecoder::Load(std::string(kRelease) + "/diffusion-decoder",
                                          {.dtype = GetParam(), .device = at::kMeta}));
  const at::Tensor noise =
      at::empty({1, dit.in_channels, dit.input_size, dit.input_size}, Meta(at::kFloat));
  const at::Tensor pixel_noise = at::empty(pixels->latent_shape(), Meta(at::kFloat));
  const at::NoGradGuard no_grad;

  const HostTraffic traffic;
  const at::Tensor hidden = model_->GenerationHidden(Ids(1, 9));
  const at::Tensor drawn = model_->Sample(hidden, noise, {.steps = 4, .progress = nullptr});
  const at::Tensor tokens = drawn.flatten(2).transpose(1, 2).expand({2, -1, -1});
  ASSERT_OK_AND_ASSIGN(
      const at::Tensor latents,
      pixels->Denoise(tokens, pixel_noise, {.steps = 4, .progress = nullptr, .watch = nullptr}));
  ASSERT_OK_AND_ASSIGN(const at::Tensor picture, pixels->Decode(latents));
  EXPECT_EQ(picture.size(1), 3);
  EXPECT_THAT(traffic.found(), ::testing::IsEmpty());
}

TEST_P(DeviceReadyTest, ATrainingStep) {
  LoraConfig config;
  config.r = 4;
  config.lora_dropout = 0.1;
  config.target_modules.names = {"q_proj", "v_proj", "down_proj", "to_q", "linear_1"};
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<LoraAdapter> adapter,
                       LoraAdapter::Attach(model_->Linears(), config, 1));
  const DitConfig& dit = *model_->config().dit;
  const at::Tensor latents =
      at::empty({2, dit.in_channels, dit.input_size, dit.input_size}, Meta(at::kFloat));
  const at::Tensor row = at::empty({2}, Meta(at::kFloat));
  adapter->StartTraining(1);
  for (const bool checkpointing : {false, true}) {
    const GradientCheckpointing with(checkpointing);
    const HostTraffic traffic;
    const at::Tensor hidden =
        model_->Decode(model_->Embed(Ids(2, 24)), Positions(24)).flatten(0, 1);
    const at::Tensor answering =
        at::cross_entropy_loss(model_->Logits(hidden).to(at::kFloat), Ids(2, 24).flatten());
    const int64_t queries = model_->config().n_query;
    const at::Tensor z =
        model_->GenerationHidden(Ids(2, 10 + queries), at::zeros({2 * queries}, Meta(at::kLong)));
    const at::Tensor loss = answering + model_->FlowLoss(latents, z, latents, row, row);
    loss.backward();
    EXPECT_THAT(traffic.found(), ::testing::IsEmpty());
  }
}

INSTANTIATE_TEST_SUITE_P(Types, DeviceReadyTest, ::testing::Values(at::kFloat, at::kBFloat16),
                         [](const auto& type) { return c10::toString(type.param); });

}  // namespace
}  // namespace fedumm::model
