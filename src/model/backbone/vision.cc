#include "model/backbone/vision.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/argsort.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/gelu.h>
#include <ATen/ops/linear.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/reciprocal.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/stack.h>

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "model/backbone/ops.h"

namespace fedumm::model {
namespace {

constexpr double kNormEps = 1e-6;       // fixed in the reference, not in the config
constexpr double kRopeTheta = 10000.0;  // likewise
constexpr size_t kMaxCachedTables = 64;

at::Tensor IndexTensor(const std::vector<int64_t>& values) {
  return at::from_blob(const_cast<int64_t*>(values.data()), {static_cast<int64_t>(values.size())},
                       at::kLong)
      .clone();
}

}  // namespace

VisionTower::VisionTower(const VisionConfig& config) : config_(config), blocks_(config.depth) {}

void VisionTower::Visit(ModuleVisitor& visitor) {
  visitor.VisitTensor("visual.patch_embed.proj.weight", patch_embed_);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const std::string name = absl::StrCat("visual.blocks.", i, ".");
    Block& block = blocks_[i];
    visitor.VisitTensor(name + "norm1.weight", block.norm1);
    visitor.VisitTensor(name + "norm2.weight", block.norm2);
    visitor.VisitLinear(name + "attn.qkv", block.qkv);
    visitor.VisitLinear(name + "attn.proj", block.proj);
    visitor.VisitLinear(name + "mlp.gate_proj", block.gate);
    visitor.VisitLinear(name + "mlp.up_proj", block.up);
    visitor.VisitLinear(name + "mlp.down_proj", block.down);
  }
  visitor.VisitTensor("visual.merger.ln_q.weight", merger_norm_);
  visitor.VisitLinear("visual.merger.mlp.0", merger_in_);
  visitor.VisitLinear("visual.merger.mlp.2", merger_out_);
}

absl::StatusOr<std::shared_ptr<const VisionTower::Tables>> VisionTower::TablesFor(
    std::span<const ImageGrid> grids) const {
  std::vector<ImageGrid> key(grids.begin(), grids.end());
  {
    const MutexLock lock(mu_);
    if (const auto found = cache_.find(key); found != cache_.end()) return found->second;
  }
  FEDUMM_ASSIGN_OR_RETURN(const VisionIndex index, BuildVisionIndex(config_, grids));
  std::shared_ptr<const Tables> tables = BuildTables(index);
  const MutexLock lock(mu_);
  if (cache_.size() >= kMaxCachedTables) cache_.clear();
  cache_[std::move(key)] = tables;
  return tables;
}

std::shared_ptr<const VisionTower::Tables> VisionTower::BuildTables(
    const VisionIndex& index) const {
  const at::Device device = patch_embed_.device();
  auto tables = std::make_shared<Tables>();
  const at::Tensor window_index = IndexTensor(index.window_index);
  tables->window_index = window_index.to(device);
  tables->inverse = at::argsort(window_index).to(device);

  const int64_t half = config_.head_dim() / 2;
  const at::Tensor steps = at::arange(0, half, 2, at::kFloat) / static_cast<double>(half);
  const at::Tensor frequencies = at::reciprocal(at::pow(kRopeTheta, steps));
  const at::Tensor positions = at::stack({IndexTensor(index.rows), IndexTensor(index.columns)}, 1);
  const at::Tensor angles = (positions.unsqueeze(2).to(at::kFloat) * frequencies)
                                .reshape({-1, config_.merge_area(), half})
                                .index_select(0, window_index)
                                .reshape({1, -1, half});
  tables->cos = at::cos(angles).to(device);
  tables->sin = at::sin(angles).to(device);

  const auto partition = [&](const std::vector<int64_t>& bounds) {
    std::map<int64_t, std::vector<int64_t>> rows_by_length;
    for (size_t i = 1; i < bounds.size(); ++i) {
      std::vector<int64_t>& rows = rows_by_length[bounds[i] - bounds[i - 1]];
      for (int64_t row = bounds[i - 1]; row < bounds[i]; ++row) rows.push_back(row);
    }
    Partition result;
    std::vector<at::Tensor> order;
    for (const auto& [length, rows] : rows_by_length) {
      order.push_back(IndexTensor(rows));
      result.groups.push_back({length, order.back().to(device)});
    }
    if (order.size() > 1) result.restore = at::argsort(at::cat(order)).to(device);
    return result;
  };
  tables->windows = partition(index.window_bounds);
  tables->frames = partition(index.frame_bounds);
  return tables;
}

// x is [batch * patches, hidden], each batch entry in the order of the tables.
at::Tensor VisionTower::RunBlock(const Block& block, const at::Tensor& x, int64_t batch,
                                 const Tables& tables, const Partition& partition) const {
  const int64_t heads = config_.num_heads;
  const int64_t head_dim = config_.head_dim();
  const int64_t patches = x.size(0) / batch;
  const at::Tensor qkv =
      block.qkv(RmsNorm(x, block.norm1, kNormEps)).view({batch, patches, 3, heads, head_dim});
  const at::Tensor q = Rotate(qkv.select(2, 0), tables.cos, tables.sin, RotaryPairs::kHalves);
  const at::Tensor k = Rotate(qkv.select(2, 1), tables.cos, tables.sin, RotaryPairs::kHalves);
  const at::Tensor v = qkv.select(2, 2);
  at::Tensor mixed;
  if (partition.groups.size() == 1) {
    const auto segment = [&](const at::Tensor& t) {
      return t.reshape({-1, partition.groups[0].length, heads, head_dim});
    };
    mixed = Attend(segment(q), segment(k), segment(v), /*causal=*/false)
                .reshape({-1, heads * head_dim});
  } else {
    std::vector<at::Tensor> parts;
    for (const Segments& group : partition.groups) {
      const auto segment = [&](const at::Tensor& t) {
        return t.index_select(1, group.rows).reshape({-1, group.length, heads, head_dim});
      };
      parts.push_back(Attend(segment(q), segment(k), segment(v), /*causal=*/false)
                          .reshape({batch, -1, heads * head_dim}));
    }
    mixed = at::cat(parts, 1).index_select(1, partition.restore).flatten(0, 1);
  }
  const at::Tensor y = x + block.proj(mixed);
  const at::Tensor normed = RmsNorm(y, block.norm2, kNormEps);
  const std::vector<at::Tensor> inner = ForwardGroup(normed, {&block.gate, &block.up});
  return y + block.down(SwiGlu(inner[0], inner[1]));
}

absl::StatusOr<at::Tensor> VisionTower::Encode(const at::Tensor& pixels,
                                               std::span<const ImageGrid> grids,
                                               std::vector<at::Tensor>* trace) const {
  // Images of one size are a batch over the tables of a single one; a mixture is a batch of one
  // over tables for them all.
  const bool equal =
      std::all_of(grids.begin(), grids.end(), [&](const ImageGrid& g) { return g == grids[0]; });
  const int64_t batch = equal && !grids.empty() ? static_cast<int64_t>(grids.size()) : 1;
  if (grids.empty()) return absl::InvalidArgumentError("vision: no images");
  FEDUMM_ASSIGN_OR_RETURN(const std::shared_ptr<const Tables> tables,
                          TablesFor(equal ? grids.first(1) : grids));
  const int64_t patches = tables->cos.size(1);
  if (pixels.dim() != 2 || pixels.size(1) != config_.patch_elements() ||
      pixels.size(0) != batch * patches) {
    return absl::InvalidArgumentError(absl::StrCat(
        "vision: the grids ask for pixels of [", batch * patches, ", ", config_.patch_elements(),
        "], not [", absl::StrJoin(pixels.sizes(), ", "), "]"));
  }
  const int64_t hidden = config_.hidden_size;
  const int64_t area = config_.merge_area();
  at::Tensor x = at::linear(pixels.to(patch_embed_.options()), patch_embed_.flatten(1));
  x = x.view({batch, patches / area, area * hidden})
          .index_select(1, tables->window_index)
          .view({-1, hidden});
  for (size_t i = 0; i < blocks_.size(); ++i) {
    if (trace != nullptr) trace->push_back(x);
    const auto& full = config_.fullatt_block_indexes;
    const bool is_full = std::find(full.begin(), full.end(), static_cast<int64_t>(i)) != full.end();
    x = RunBlock(blocks_[i], x, batch, *tables, is_full ? tables->frames : tables->windows);
  }
  if (trace != nullptr) trace->push_back(x);
  const at::Tensor merged = merger_out_(
      at::gelu(merger_in_(RmsNorm(x, merger_norm_, kNormEps).view({-1, area * hidden}))));
  return merged.view({batch, patches / area, -1}).index_select(1, tables->inverse).flatten(0, 1);
}

}  // namespace fedumm::model
