#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/nonzero.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/backbone.h"
#include "model/backbone/decoder.h"
#include "model/backbone/dit.h"
#include "model/backbone/generate.h"
#include "model/backbone/module_visitor.h"
#include "model/backbone/vision.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

// The target encoder's weights may lie in the same checkpoint; latents are made outside of this
// library.
constexpr std::string_view kTargetEncoder = "model.gen_vision_tower.";

// Names a module's tensors and linears.
class Lister final : public ModuleVisitor {
 public:
  void VisitTensor(const std::string& name, at::Tensor& tensor) override {
    parameters[name] = &tensor;
  }
  void VisitLinear(const std::string& path, Linear& linear) override {
    linears.push_back({path, &linear});
    parameters[path + ".weight"] = &linear.weight;
    if (linear.bias.defined()) parameters[path + ".bias"] = &linear.bias;
  }

  std::vector<NamedLinear> linears;
  std::map<std::string, at::Tensor*> parameters;
};

// What is wrong with the tensors themselves; their names and shapes are right.
absl::Status CheckTypes(const StateDict& state) {
  const at::Tensor& first = state.begin()->second;
  for (const auto& [name, tensor] : state) {
    if (!at::isFloatingType(tensor.scalar_type()) || tensor.scalar_type() != first.scalar_type() ||
        tensor.device() != first.device()) {
      return absl::InvalidArgumentError(
          absl::StrCat("the checkpoint does not fit the config: unfit: ", name, " is ",
                       c10::toString(tensor.scalar_type()), " on ", tensor.device().str(), ", ",
                       state.begin()->first, " is ", c10::toString(first.scalar_type()), " on ",
                       first.device().str()));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckState(const TensorShapes& expected, const StateDict& state) {
  TensorShapes found;
  for (const auto& [name, tensor] : state) {
    if (tensor.defined()) found[name] = tensor.sizes().vec();
  }
  FEDUMM_RETURN_IF_ERROR(CheckShapes(expected, found));
  return CheckTypes(state);
}

}  // namespace

struct UnifiedModel::Modules {
  explicit Modules(const BackboneConfig& backbone)
      : config(backbone), vision(backbone.vision), decoder(backbone.text) {
    if (config.dit.has_value()) dit.emplace(*config.dit);
  }
  void Visit(ModuleVisitor& visitor) {
    vision.Visit(visitor);
    decoder.Visit(visitor);
    if (dit.has_value()) {
      visitor.VisitTensor("model.latent_queries", latent_queries);
      dit->Visit(visitor);
    }
  }
  const DiffusionTransformer& Dit() const {
    TORCH_CHECK(dit.has_value(), "this model has no dit: it draws no images");
    return *dit;
  }

  const BackboneConfig config;
  VisionTower vision;
  Decoder decoder;
  at::Tensor latent_queries;
  std::optional<DiffusionTransformer> dit;
};

UnifiedModel::UnifiedModel(std::unique_ptr<Modules> modules) : modules_(std::move(modules)) {}
UnifiedModel::~UnifiedModel() = default;

absl::StatusOr<std::unique_ptr<UnifiedModel>> UnifiedModel::Create(const BackboneConfig& config,
                                                                   StateDict state) {
  FEDUMM_RETURN_IF_ERROR(config.Validate());
  std::erase_if(state, [](const auto& entry) { return entry.first.starts_with(kTargetEncoder); });
  FEDUMM_RETURN_IF_ERROR(CheckState(ExpectedTensors(config), state));
  return Guarded([&]() -> absl::StatusOr<std::unique_ptr<UnifiedModel>> {
    auto modules = std::make_unique<Modules>(config);
    StateBinder binder(state);
    modules->Visit(binder);
    return std::unique_ptr<UnifiedModel>(new UnifiedModel(std::move(modules)));
  });
}

const BackboneConfig& UnifiedModel::config() const { return modules_->config; }

at::Device UnifiedModel::device() const { return modules_->decoder.embedding().device(); }

std::vector<NamedLinear> UnifiedModel::Linears() {
  Lister lister;
  modules_->Visit(lister);
  std::sort(lister.linears.begin(), lister.linears.end(),
            [](const NamedLinear& a, const NamedLinear& b) { return a.path < b.path; });
  return std::move(lister.linears);
}

std::map<std::string, at::Tensor*> UnifiedModel::Parameters() {
  Lister lister;
  modules_->Visit(lister);
  return std::move(lister.parameters);
}

void UnifiedModel::SetRequiresGrad(bool requires_grad, std::string_view prefix) {
  for (const auto& [name, tensor] : Parameters()) {
    if (name.starts_with(prefix)) tensor->requires_grad_(requires_grad);
  }
}

absl::StatusOr<at::Tensor> UnifiedModel::EncodeImages(const at::Tensor& pixels,
                                                      std::span<const ImageGrid> grids) const {
  return Guarded([&] { return modules_->vision.Encode(pixels, grids); });
}

at::Tensor UnifiedModel::Embed(const at::Tensor& ids) const { return modules_->decoder.Embed(ids); }

absl::StatusOr<at::Tensor> UnifiedModel::EmbedWithImages(const at::Tensor& ids,
                                                         const at::Tensor& image_tokens) const {
  return Guarded([&]() -> absl::StatusOr<at::Tensor> {
    const at::Tensor rows = at::nonzero(ids.flatten() == config().image_token_id).squeeze(1);
    const int64_t given = image_tokens.defined() ? image_tokens.size(0) : 0;
    if (rows.numel() != given) {
      return absl::InvalidArgumentError(absl::StrCat("the prompt has places for ", rows.numel(),
                                                     " image tokens, the images have ", given));
    }
    const at::Tensor embeds = Embed(ids);
    if (given == 0) return embeds;
    return embeds.flatten(0, 1)
        .index_copy(0, rows, image_tokens.to(embeds.scalar_type()))
        .view(embeds.sizes());
  });
}

absl::StatusOr<UnifiedModel::Positions> UnifiedModel::PositionsOf(
    const at::Tensor& ids, const at::Tensor& attention_mask,
    std::span<const ImageGrid> grids) const {
  return Guarded([&]() -> absl::StatusOr<Positions> {
    TORCH_CHECK(ids.dim() == 2, "PositionsOf: ids of ", ids.sizes());
    const int64_t batch = ids.size(0);
    const int64_t length = ids.size(1);
    const at::Tensor host_ids = ids.to(at::kCPU, at::kLong).contiguous();
    const at::Tensor mask = attention_mask.defined()
                                ? attention_mask.to(at::kCPU, at::kLong).contiguous()
                                : at::ones_like(host_ids);
    TORCH_CHECK(mask.sizes() == ids.sizes(), "PositionsOf: ids of ", ids.sizes(),
                " with a mask of ", mask.sizes());
    Positions result{at::zeros({3, batch, length}, at::kLong), at::zeros({batch}, at::kLong)};
    int64_t* const positions = result.ids.mutable_data_ptr<int64_t>();
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t* const row_ids = host_ids.const_data_ptr<int64_t>() + row * length;
      std::vector<int64_t> tokens;
      std::vector<int64_t> places;
      int64_t images = 0;  // vision_start begins one, as in the reference
      for (int64_t i = 0; i < length; ++i) {
        if (mask.const_data_ptr<int64_t>()[row * length + i] == 0) continue;
        tokens.push_back(row_ids[i]);
        places.push_back(i);
      }
      for (size_t i = 1; i < tokens.size(); ++i) {
        images +=
            tokens[i - 1] == config().vision_start_token_id && tokens[i] == config().image_token_id;
      }
      if (images > static_cast<int64_t>(grids.size())) {
        return absl::InvalidArgumentError(
            absl::StrCat("row ", row, " has more images than grids are left"));
      }
      FEDUMM_ASSIGN_OR_RETURN(const RopePositions row_positions,
                              RopePositionsOf(config(), tokens, grids.first(images)));
      grids = grids.subspan(images);
      for (int64_t axis = 0; axis < 3; ++axis) {
        for (size_t i = 0; i < places.size(); ++i) {
          positions[(axis * batch + row) * length + places[i]] =
              row_positions.ids[axis * places.size() + i];
        }
      }
      result.deltas.mutable_data_ptr<int64_t>()[row] = row_positions.delta;
    }
    if (!grids.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(grids.size(), " images have no place in the prompt"));
    }
    return result;
  });
}

at::Tensor UnifiedModel::Decode(const at::Tensor& embeds, const at::Tensor& positions,
                                const at::Tensor& mask) const {
  return modules_->decoder.Run(embeds, positions, mask);
}

at::Tensor UnifiedModel::Logits(const at::Tensor& hidden) const {
  return modules_->decoder.Logits(hidden);
}

absl::StatusOr<std::vector<std::vector<int64_t>>> UnifiedModel::Generate(
    const Prompt& prompt, const GenerationSettings& settings, const StopGeneration& stop) const {
  return Guarded([&]() -> absl::StatusOr<std::vector<std::vector<int64_t>>> {
    const at::NoGradGuard no_grad;
    FEDUMM_ASSIGN_OR_RETURN(const Positions positions,
                            PositionsOf(prompt.ids, prompt.attention_mask, prompt.grids));
    GenerationStart start{.ids = prompt.ids, .positions = positions.ids};
    const int64_t length = prompt.ids.size(1);
    if (length == 0) return absl::InvalidArgumentError("generate: the rows are empty");
    start.next_position = positions.deltas + length;
    if (prompt.attention_mask.defined()) {
      const at::Tensor mask = prompt.attention_mask.to(at::kBool);
      const at::Tensor lengths = mask.sum(1).to(at::kCPU);
      if (!mask.select(1, -1).all().item<bool>()) {
        return absl::InvalidArgumentError("generate: a row is empty or padded on the right");
      }
      start.next_position = positions.deltas + lengths;
      if (lengths.min().item<int64_t>() < length) start.mask = mask;
    }
    FEDUMM_ASSIGN_OR_RETURN(start.embeds, EmbedWithImages(prompt.ids, prompt.image_tokens));
    return GenerateRows(modules_->decoder, std::move(start), settings, stop);
  });
}

const at::Tensor& UnifiedModel::latent_queries() const { return modules_->latent_queries; }

at::Tensor UnifiedModel::GenerationHidden(const at::Tensor& prompt_ids) const {
  TORCH_CHECK(prompt_ids.dim() == 2, "GenerationHidden: prompts of ", prompt_ids.sizes());
  TORCH_CHECK(latent_queries().defined(), "this model has no latent queries: it draws no images");
  const at::Tensor embeds =
      at::cat({Embed(prompt_ids), latent_queries().expand({prompt_ids.size(0), -1, -1})}, 1);
  const int64_t length = embeds.size(1);
  const at::Tensor positions =
      at::arange(length, at::TensorOptions(at::kLong).device(embeds.device()))
          .expand({3, 1, length});
  return Decode(embeds, positions).slice(1, length - config().n_query);
}

at::Tensor UnifiedModel::GenerationHidden(const at::Tensor& padded_ids,
                                          const at::Tensor& slots) const {
  TORCH_CHECK(padded_ids.dim() == 2 && slots.dim() == 1 &&
                  slots.size(0) == padded_ids.size(0) * config().n_query,
              "GenerationHidden: prompts of ", padded_ids.sizes(), " with ", slots.sizes(),
              " slots");
  TORCH_CHECK(latent_queries().defined(), "this model has no latent queries: it draws no images");
  const int64_t batch = padded_ids.size(0);
  const at::Tensor words = Embed(padded_ids);
  const at::Tensor queries = latent_queries().expand({batch, -1, -1}).flatten(0, 1);
  const at::Tensor embeds = words.flatten(0, 1).index_copy(0, slots, queries).view(words.sizes());
  const at::Tensor positions =
      at::arange(padded_ids.size(1), padded_ids.options()).expand({3, 1, padded_ids.size(1)});
  return Decode(embeds, positions)
      .flatten(0, 1)
      .index_select(0, slots)
      .view({batch, config().n_query, -1});
}

at::Tensor UnifiedModel::Dit(const at::Tensor& x, const at::Tensor& t, const at::Tensor& z) const {
  return modules_->Dit().Run(x, t, z);
}

at::Tensor UnifiedModel::FlowLoss(const at::Tensor& latents, const at::Tensor& z,
                                  const at::Tensor& noise, const at::Tensor& u,
                                  const at::Tensor& keep, double shift) const {
  return modules_->Dit().FlowLoss(latents, z, noise, u, keep, shift);
}

at::Tensor UnifiedModel::Sample(const at::Tensor& z, const at::Tensor& noise,
                                const SampleOptions& options) const {
  return modules_->Dit().Sample(z, noise, options);
}

}  // namespace fedumm::model
