// What a checkpoint folder holds, known from its headers: nothing of the data is read.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/config.h"
#include "fedumm/model/safetensors.h"

namespace fedumm::model {

// The name of a tensor in the published files. Newer transformers put "language_model." after
// "model." and "model." before "visual." in memory, and some versions save it so.
std::string PublishedName(const std::string& name);

// The safetensors files of a folder (model.safetensors, or the shards of
// model.safetensors.index.json) or a single file, mapped. Immutable, thread-safe, cheap to copy.
class CheckpointFolder {
 public:
  struct Tensor {
    const SafetensorsTensor* data;  // under its name in the file
    size_t file;                    // index into files()
  };

  // Left out, unread: the target encoder ("model.gen_vision_tower.", which only makes training
  // latents) and buffers that follow from the config (inverse frequencies).
  // NOT_FOUND without such files; INVALID_ARGUMENT, naming file and tensor, for an index that does
  // not describe its shards exactly, or a name that two tensors have.
  static absl::StatusOr<CheckpointFolder> Open(const std::string& path);

  // By published name.
  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }
  TensorShapes Shapes() const;
  int64_t num_left_out() const { return num_left_out_; }
  // FAILED_PRECONDITION, naming the file, if one was changed or replaced since Open.
  absl::Status CheckUnchanged() const;

 private:
  absl::Status AddFile(const std::string& path, const std::vector<std::string>* expected);

  std::map<std::string, Tensor> tensors_;
  std::vector<SafetensorsFile> files_;
  int64_t num_left_out_ = 0;
};

// INVALID_ARGUMENT unless `found` has exactly the tensors of `expected`: the first five of those
// that are missing, unexpected or of another shape are named, with the number of the others.
absl::Status CheckShapes(const TensorShapes& expected, const TensorShapes& found);

}  // namespace fedumm::model
