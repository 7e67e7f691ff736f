#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "fedumm/model/linear.h"
#include "fedumm/model/positions.h"
#include "model/backbone/module_visitor.h"
#include "model/backbone/vision_index.h"

namespace fedumm::model {

// Qwen2.5-VL's vision tower ("visual."). Encode is thread-safe.
class VisionTower {
 public:
  explicit VisionTower(const VisionConfig& config);

  void Visit(ModuleVisitor& visitor);
  // See UnifiedModel::EncodeImages. Appends each block's input and the last output, in window
  // order, to `trace` if it is given.
  absl::StatusOr<at::Tensor> Encode(const at::Tensor& pixels, std::span<const ImageGrid> grids,
                                    std::vector<at::Tensor>* trace = nullptr) const;

 private:
  struct Block {
    at::Tensor norm1;
    at::Tensor norm2;
    Linear qkv;
    Linear proj;
    Linear gate;
    Linear up;
    Linear down;
  };
  // Segments of one length: attention over them is one batched call.
  struct Segments {
    int64_t length;
    at::Tensor rows;  // of all these segments, one after the other
  };
  struct Partition {
    std::vector<Segments> groups;
    at::Tensor restore;  // puts the groups' rows back in order; undefined where there is one group
                         // (then they are in order)
  };
  struct Tables {
    at::Tensor window_index;
    at::Tensor inverse;
    at::Tensor cos;  // [1, patches, head_dim / 2], in window order
    at::Tensor sin;
    Partition windows;
    Partition frames;
  };

  absl::StatusOr<std::shared_ptr<const Tables>> TablesFor(std::span<const ImageGrid> grids) const;
  std::shared_ptr<const Tables> BuildTables(const VisionIndex& index) const;
  at::Tensor RunBlock(const Block& block, const at::Tensor& x, int64_t batch, const Tables& tables,
                      const Partition& partition) const;

  const VisionConfig config_;
  at::Tensor patch_embed_;
  std::vector<Block> blocks_;
  at::Tensor merger_norm_;
  Linear merger_in_;
  Linear merger_out_;

  mutable Mutex mu_;
  mutable std::map<std::vector<ImageGrid>, std::shared_ptr<const Tables>> cache_
      ABSL_GUARDED_BY(mu_);
};

}  // namespace fedumm::model
