#include "fedumm/model/eva.h"

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/avg_pool2d.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/linear.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "model/backbone/ops.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

constexpr double kEvaNormEps = 1e-6;
constexpr int64_t kReleasedHeadSize = 112;

// The tensors by their names from "cls_token", "pos_embed", "patch_embed." and "blocks." on.
StateDict WithoutPrefix(StateDict state) {
  std::string prefix;
  for (const auto& [name, tensor] : state) {
    if (absl::EndsWith(name, "cls_token")) prefix = name.substr(0, name.size() - 9);
  }
  StateDict renamed;
  for (auto& [name, tensor] : state) {
    if (name.starts_with(prefix)) renamed[name.substr(prefix.size())] = std::move(tensor);
  }
  return renamed;
}

// Adds the first values of a weight, with their dtype, to what is hashed. The whole of the released
// encoder would take minutes.
void AddStart(const at::Tensor& weight, std::string& hashed) {
  constexpr int64_t kValues = 16'384;
  const at::Tensor start = weight.flatten().slice(0, 0, kValues).cpu().contiguous();
  absl::StrAppend(&hashed, c10::toString(start.scalar_type()));
  hashed.append(static_cast<const char*>(start.const_data_ptr()), start.nbytes());
}

absl::Status BadEncoder(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("EVA-CLIP encoder: ", what));
}

}  // namespace

struct EvaEncoder::Modules {
  struct Layer {
    at::Tensor weight;
    at::Tensor bias;
  };
  struct Block {
    Layer norm1, norm2, qkv, proj, fc1, fc2;
  };

  at::Tensor Norm(const at::Tensor& x, const Layer& layer) const {
    return at::layer_norm(x, {width}, layer.weight, layer.bias, kEvaNormEps);
  }
  at::Tensor RunBlock(const Block& block, const at::Tensor& x) const {
    const std::vector<at::Tensor> qkv = at::linear(x, block.qkv.weight, block.qkv.bias)
                                            .unflatten(2, {3, num_heads, width / num_heads})
                                            .unbind(2);
    const at::Tensor mixed = Attend(qkv[0], qkv[1], qkv[2], /*causal=*/false);
    const at::Tensor y =
        x + Norm(at::linear(mixed, block.proj.weight, block.proj.bias), block.norm1);
    const at::Tensor hidden = at::gelu(at::linear(y, block.fc1.weight, block.fc1.bias));
    return y + Norm(at::linear(hidden, block.fc2.weight, block.fc2.bias), block.norm2);
  }

  int64_t width = 0;
  int64_t patch = 0;
  int64_t side = 0;  // tokens on a side
  int64_t num_heads = 0;
  int64_t pooling = 0;
  std::string id;
  at::Tensor cls_token;
  at::Tensor pos_embed;
  Layer patch_embed;
  std::vector<Block> blocks;
};

EvaEncoder::EvaEncoder(std::unique_ptr<Modules> modules) : modules_(std::move(modules)) {}
EvaEncoder::~EvaEncoder() = default;

const std::string& EvaEncoder::id() const { return modules_->id; }
int64_t EvaEncoder::image_size() const { return modules_->side * modules_->patch; }
int64_t EvaEncoder::width() const { return modules_->width; }
int64_t EvaEncoder::grid() const { return modules_->side / modules_->pooling; }

absl::StatusOr<std::unique_ptr<EvaEncoder>> EvaEncoder::Load(const std::string& path,
                                                             const EvaOptions& options) {
  for (const char* suffix : {".bin", ".pt", ".pth"}) {
    if (absl::EndsWith(path, suffix)) {
      return BadEncoder(absl::StrCat(path,
                                     " is a pickle, which can run code: convert it with "
                                     "torch.load(..., weights_only=True) and "
                                     "safetensors.torch.save_file"));
    }
  }
  FEDUMM_ASSIGN_OR_RETURN(StateDict loaded, LoadStateDict(path));
  return Guarded([&]() -> absl::StatusOr<std::unique_ptr<EvaEncoder>> {
    StateDict state = WithoutPrefix(std::move(loaded));
    auto modules = std::make_unique<Modules>();
    std::vector<std::string> wrong;
    std::string hashed;  // for the id
    const auto take = [&](const std::string& name, std::vector<int64_t> shape) {
      const auto it = state.find(name);
      if (it == state.end()) {
        wrong.push_back(name + " is missing");
        return at::Tensor();
      }
      at::Tensor tensor = std::move(it->second);
      state.erase(it);
      if (tensor.sizes() != at::IntArrayRef(shape)) {
        wrong.push_back(absl::StrCat(name, " is [", absl::StrJoin(tensor.sizes(), ", "), "], not [",
                                     absl::StrJoin(shape, ", "), "]"));
      }
      tensor = tensor.to(options.dtype.value_or(tensor.scalar_type()));
      AddStart(tensor, hashed);
      return tensor;
    };
    const auto patches = state.find("patch_embed.proj.weight");
    const auto positions = state.find("pos_embed");
    const auto mlp = state.find("blocks.0.mlp.fc1.weight");
    if (patches == state.end() || patches->second.dim() != 4 || positions == state.end() ||
        positions->second.dim() != 3 || mlp == state.end() || mlp->second.dim() != 2) {
      return BadEncoder(absl::StrCat(
          path, " lacks patch_embed.proj.weight, pos_embed or blocks.0.mlp.fc1.weight"));
    }
    Modules& m = *modules;
    m.width = patches->second.size(0);
    m.patch = patches->second.size(2);
    const int64_t tokens = positions->second.size(1);
    m.side = std::lround(std::sqrt(static_cast<double>(std::max<int64_t>(tokens, 1) - 1)));
    const int64_t hidden = mlp->second.size(0);
    m.num_heads = options.num_heads > 0 ? options.num_heads : m.width / kReleasedHeadSize;
    m.pooling = options.pooling;
    if (m.side < 1 || m.side * m.side + 1 != tokens || m.pooling < 1 || m.side % m.pooling != 0) {
      return BadEncoder(absl::StrCat(tokens,
                                     " positions are not one for the class token and a "
                                     "square that is divisible by ",
                                     m.pooling));
    }
    if (m.num_heads < 1 || m.width % m.num_heads != 0) {
      return BadEncoder(absl::StrCat("a width of ", m.width, " does not divide into ", m.num_heads,
                                     " heads: give their number"));
    }
    const auto layer = [&](const std::string& name, int64_t out, int64_t in) {
      return Modules::Layer{
          take(name + ".weight", in == 0 ? std::vector{out} : std::vector{out, in}),
          take(name + ".bias", {out})};
    };
    m.cls_token = take("cls_token", {1, 1, m.width});
    m.pos_embed = take("pos_embed", {1, tokens, m.width});
    m.patch_embed = {take("patch_embed.proj.weight", {m.width, 3, m.patch, m.patch}),
                     take("patch_embed.proj.bias", {m.width})};
    for (int64_t i = 0; state.contains(absl::StrCat("blocks.", i, ".attn.qkv.weight")); ++i) {
      const std::string name = absl::StrCat("blocks.", i, ".");
      Modules::Block& block = m.blocks.emplace_back();
      block.norm1 = layer(name + "norm1", m.width, 0);
      block.norm2 = layer(name + "norm2", m.width, 0);
      block.qkv = layer(name + "attn.qkv", 3 * m.width, m.width);
      block.proj = layer(name + "attn.proj", m.width, m.width);
      block.fc1 = layer(name + "mlp.fc1", hidden, m.width);
      block.fc2 = layer(name + "mlp.fc2", m.width, hidden);
    }
    absl::StrAppend(&hashed, m.blocks.size(), " blocks, ", m.num_heads, " heads, pooling ",
                    m.pooling);
    m.id = absl::StrCat("eva-clip-E-14-plus ", Sha256Hex(hashed));
    for (const auto& [name, tensor] : state) wrong.push_back(name + " is unexpected");
    if (!wrong.empty()) {
      const size_t more = wrong.size() - std::min<size_t>(wrong.size(), 5);
      wrong.resize(wrong.size() - more);
      return BadEncoder(absl::StrCat(path, ": ", absl::StrJoin(wrong, "; "),
                                     more == 0 ? "" : absl::StrCat(" and ", more, " more")));
    }
    return std::unique_ptr<EvaEncoder>(new EvaEncoder(std::move(modules)));
  });
}

at::Tensor EvaEncoder::Encode(const at::Tensor& pixels, Trace* trace) const {
  const Modules& m = *modules_;
  TORCH_CHECK(pixels.dim() == 4 && pixels.size(1) == 3 && pixels.size(2) == image_size() &&
                  pixels.size(3) == image_size(),
              "EvaEncoder: pixels of ", pixels.sizes());
  const at::NoGradGuard no_grad;
  const at::Tensor patches =
      at::conv2d(pixels.to(m.patch_embed.weight.options()), m.patch_embed.weight,
                 m.patch_embed.bias, {m.patch, m.patch})
          .flatten(2)
          .transpose(1, 2);
  at::Tensor x = at::cat({m.cls_token.expand({pixels.size(0), -1, -1}), patches}, 1) + m.pos_embed;
  if (trace != nullptr) *trace = {.embedded = x, .blocks = {}, .tokens = {}};
  for (const Modules::Block& block : m.blocks) {
    x = m.RunBlock(block, x);
    if (trace != nullptr) trace->blocks.push_back(x);
  }
  const at::Tensor tokens = x.slice(1, 1);
  if (trace != nullptr) trace->tokens = tokens;
  return at::avg_pool2d(tokens.transpose(1, 2).unflatten(2, {m.side, m.side}),
                        {m.pooling, m.pooling});
}

absl::StatusOr<at::Tensor> EvaPixels(const Image& image, int64_t size) {
  FEDUMM_ASSIGN_OR_RETURN(const Image square, ResizeAndCenterCrop(image, size));
  return Guarded([&]() -> absl::StatusOr<at::Tensor> {
    at::Tensor pixels = at::empty({3, size, size}, at::kFloat);
    float* out = pixels.mutable_data_ptr<float>();
    const ImageProcessorOptions clip;  // whose mean and deviation are CLIP's
    const size_t area = static_cast<size_t>(size * size);
    for (size_t channel = 0; channel < 3; ++channel) {
      const auto mean = static_cast<float>(clip.mean[channel]);
      const auto std = static_cast<float>(clip.std[channel]);
      for (size_t i = 0; i < area; ++i) {
        *out++ = (static_cast<float>(square.pixels[3 * i + channel]) / 255.0f - mean) / std;
      }
    }
    return pixels;
  });
}

}  // namespace fedumm::model
