// The tensors of one part of a pixel decoder.
#pragma once

#include <ATen/core/Tensor.h>

#include <initializer_list>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/linear.h"
#include "fedumm/model/safetensors.h"
#include "model/diffusion/layers.h"

namespace fedumm::model {

// Hands out the tensors of a folder as diffusers saves it, in one dtype on one device: those that
// have both already stay in the mapped files. What is missing or misshapen is remembered and comes
// back undefined; Finish says so.
class PartWeights {
 public:
  // Opens diffusion_pytorch_model.safetensors of `folder`, or its variant of another precision
  // (".bf16.", ".fp16."; that of `dtype` first), or the shards of such an index. NOT_FOUND if there
  // is none of them.
  static absl::StatusOr<PartWeights> Open(const std::string& folder, at::ScalarType dtype,
                                          at::Device device);

  at::Tensor Take(const std::string& name, at::IntArrayRef shape);
  // Under `path` + ".weight" and ".bias".
  Linear TakeLinear(const std::string& path, int64_t in, int64_t out, bool bias = true);
  Convolution TakeConvolution(const std::string& path, int64_t in, int64_t out, int64_t kernel,
                              int64_t stride = 1);
  GroupNorm TakeGroupNorm(const std::string& path, int64_t channels, int64_t groups, double eps);
  // `time_channels` 0: the block has no time embedding.
  ResnetBlock TakeResnet(const std::string& path, int64_t in, int64_t out, int64_t time_channels,
                         int64_t groups, double eps);

  // INVALID_ARGUMENT if a tensor was missing, of another shape or not a float, or if one was left
  // over that does not begin with one of `unused`.
  absl::Status Finish(std::initializer_list<std::string_view> unused = {}) const;

  at::ScalarType dtype() const { return dtype_; }
  at::Device device() const { return device_; }

 private:
  struct Entry {
    size_t file;
    const SafetensorsTensor* tensor;
  };
  PartWeights(std::string folder, at::ScalarType dtype, at::Device device)
      : folder_(std::move(folder)), dtype_(dtype), device_(device) {}
  absl::Status Add(const std::string& path, const std::set<std::string>* expected);

  std::string folder_;
  at::ScalarType dtype_;
  at::Device device_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, Entry> entries_;
  std::set<std::string> taken_;
  std::vector<std::string> missing_;
  std::vector<std::string> unfit_;
};

}  // namespace fedumm::model
