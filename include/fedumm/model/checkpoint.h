#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"

namespace fedumm::model {

struct LoadOptions {
  std::optional<at::ScalarType> dtype;  // of all weights; unset: that of most of them in the file
  at::Device device = at::kCPU;
  // Called as tensors become ready. False stops the loading with CANCELLED. May be null.
  std::function<bool(int64_t bytes_done, int64_t bytes_in_all)> progress;
  // Tensors whose name begins so are no part of the model: LoadCheckpoint gives them beside it,
  // Load leaves them out.
  std::string extra_prefix;
};

// What a checkpoint folder holds: config.json, and model.safetensors or the shards of
// model.safetensors.index.json. Names are those of the published files, whichever of the three
// in-memory layouts they were saved in.
//
// Weights that keep their dtype on the CPU stay in the mapped files: nothing is read before it is
// used, and processes on one host share the memory. Others are converted one by one. Training
// writes to no frozen weight; who does write gets a copy of the page.
//
// Errors name file and tensor: NOT_FOUND for a missing file; INVALID_ARGUMENT for a config that
// fedumm does not compute, or for tensors that are missing, unexpected or of another shape (found
// from the headers, before any data is read); FAILED_PRECONDITION if a file changes meanwhile.
struct Checkpoint {
  BackboneConfig config;
  StateDict weights;
};
absl::StatusOr<Checkpoint> LoadCheckpoint(const std::string& folder,
                                          const LoadOptions& options = {});

// The model of a checkpoint folder.
absl::StatusOr<std::unique_ptr<UnifiedModel>> Load(const std::string& folder,
                                                   const LoadOptions& options = {});

// Reads a safetensors file, or a folder that holds model.safetensors or the shards of
// model.safetensors.index.json. Names come back in the published files' layout, whichever of the
// three in-memory layouts they were saved in. The tensors own their memory.
absl::StatusOr<StateDict> LoadStateDict(const std::string& path);

// Writes `state` under its own names as one file, or, for a path without the suffix ".safetensors",
// as a folder: one model.safetensors, or shards of at most `max_shard_bytes` and their index.
absl::Status SaveStateDict(const StateDict& state, const std::string& path,
                           int64_t max_shard_bytes = int64_t{5} << 30);

}  // namespace fedumm::model
