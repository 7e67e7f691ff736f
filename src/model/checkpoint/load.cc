#include <ATen/core/Tensor.h>
#include <ATen/ops/equal.h>

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/checkpoint.h"
#include "model/checkpoint/checkpoint_folder.h"
#include "model/checkpoint/mapped_tensor.h"
#include "model/guarded.h"

namespace fedumm::model {
namespace {

constexpr char kHead[] = "lm_head.weight";
constexpr char kEmbedding[] = "model.embed_tokens.weight";

bool IsFloating(const SafetensorsTensor& tensor) {
  const std::optional<at::ScalarType> dtype = ScalarTypeOf(tensor.dtype);
  return dtype.has_value() && at::isFloatingType(*dtype);
}

// The float type of most of the weights.
absl::StatusOr<at::ScalarType> MainDType(const CheckpointFolder& folder) {
  std::map<SafetensorsDType, size_t> bytes;
  for (const auto& [name, tensor] : folder.tensors()) {
    if (IsFloating(*tensor.data)) bytes[tensor.data->dtype] += tensor.data->bytes.size();
  }
  const auto most = std::max_element(
      bytes.begin(), bytes.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most == bytes.end()) {
    return absl::InvalidArgumentError("the checkpoint holds no weights of a float type");
  }
  return *ScalarTypeOf(most->first);
}

// A tied checkpoint may hold the head as well, if it is the embedding.
absl::Status CheckTiedHead(const CheckpointFolder& folder) {
  const auto head = folder.tensors().find(kHead);
  const auto embedding = folder.tensors().find(kEmbedding);
  if (head == folder.tensors().end() || embedding == folder.tensors().end()) {
    return absl::OkStatus();
  }
  const SafetensorsTensor& a = *head->second.data;
  const SafetensorsTensor& b = *embedding->second.data;
  if (a.dtype == b.dtype && a.shape == b.shape && a.bytes == b.bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      kHead, " differs from ", kEmbedding,
      ", although the config says that the head is tied to it: set tie_word_embeddings to false"));
}

// One tensor in the dtype and on the device that are asked for; in the mapping where they are the
// file's.
absl::StatusOr<at::Tensor> Place(const SafetensorsFile& file, const SafetensorsTensor& source,
                                 at::ScalarType dtype, at::Device device) {
  FEDUMM_ASSIGN_OR_RETURN(at::Tensor tensor, MappedTensor(file, source));
  if (!tensor.is_floating_point()) dtype = tensor.scalar_type();
  if (tensor.scalar_type() == dtype && device.is_cpu()) return tensor;
  at::Tensor placed = tensor.to(device, dtype);
  file.Forget(source.bytes);
  return placed;
}

}  // namespace

absl::StatusOr<Checkpoint> LoadCheckpoint(const std::string& folder, const LoadOptions& options) {
  return Guarded([&]() -> absl::StatusOr<Checkpoint> {
    FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(folder + "/config.json"));
    FEDUMM_ASSIGN_OR_RETURN(const CheckpointFolder files, CheckpointFolder::Open(folder));
    TensorShapes shapes = files.Shapes();
    Checkpoint checkpoint;
    FEDUMM_ASSIGN_OR_RETURN(checkpoint.config, BackboneConfig::FromJson(json, shapes));
    const bool tied = checkpoint.config.text.tie_word_embeddings;
    if (tied) {
      FEDUMM_RETURN_IF_ERROR(CheckTiedHead(files));
      shapes.erase(kHead);
    }
    std::erase_if(shapes, [&](const auto& entry) {
      return !options.extra_prefix.empty() && entry.first.starts_with(options.extra_prefix);
    });
    FEDUMM_RETURN_IF_ERROR(CheckShapes(ExpectedTensors(checkpoint.config), shapes));
    at::ScalarType dtype;
    if (options.dtype.has_value()) {
      dtype = *options.dtype;
    } else {
      FEDUMM_ASSIGN_OR_RETURN(dtype, MainDType(files));
    }
    int64_t total = 0;
    int64_t done = 0;
    for (const auto& [name, tensor] : files.tensors()) {
      total += static_cast<int64_t>(tensor.data->bytes.size());
    }
    for (const auto& [name, tensor] : files.tensors()) {
      done += static_cast<int64_t>(tensor.data->bytes.size());
      if (tied && name == kHead) continue;
      const SafetensorsFile& file = files.files()[tensor.file];
      FEDUMM_RETURN_IF_ERROR(file.CheckUnchanged());
      FEDUMM_ASSIGN_OR_RETURN(checkpoint.weights[name],
                              Place(file, *tensor.data, dtype, options.device));
      if (options.progress != nullptr && !options.progress(done, total)) {
        return absl::CancelledError(absl::StrCat("stopped while loading ", folder));
      }
    }
    FEDUMM_RETURN_IF_ERROR(files.CheckUnchanged());
    return checkpoint;
  });
}

absl::StatusOr<std::unique_ptr<UnifiedModel>> Load(const std::string& folder,
                                                   const LoadOptions& options) {
  FEDUMM_ASSIGN_OR_RETURN(Checkpoint checkpoint, LoadCheckpoint(folder, options));
  std::erase_if(checkpoint.weights, [&](const auto& entry) {
    return !options.extra_prefix.empty() && entry.first.starts_with(options.extra_prefix);
  });
  return UnifiedModel::Create(checkpoint.config, std::move(checkpoint.weights));
}

}  // namespace fedumm::model
