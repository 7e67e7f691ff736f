#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/safetensors.h"
#include "model/checkpoint/checkpoint_folder.h"
#include "model/checkpoint/mapped_tensor.h"
#include "model/guarded.h"
#include "nlohmann/json.hpp"

namespace fedumm::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

// The tensors of one file to write. `owned` keeps alive the copies in contiguous host memory.
struct Shard {
  std::vector<SafetensorsTensor> tensors;
  std::vector<at::Tensor> owned;
  int64_t bytes = 0;
};

absl::Status Append(const std::string& name, const at::Tensor& tensor, Shard& shard) {
  const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
  const std::optional<SafetensorsDType> dtype = SafetensorsDTypeOf(host.scalar_type());
  if (!dtype.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat("checkpoint: tensor ", name, " has dtype ",
                                                   c10::toString(host.scalar_type()),
                                                   ", which is not supported"));
  }
  const size_t bytes = static_cast<size_t>(host.nbytes());
  shard.tensors.push_back(
      {name, *dtype, host.sizes().vec(),
       std::string_view(static_cast<const char*>(host.const_data_ptr()), bytes)});
  shard.owned.push_back(host);
  shard.bytes += static_cast<int64_t>(bytes);
  return absl::OkStatus();
}

const std::map<std::string, std::string>& Metadata() {
  static const auto* const metadata = new std::map<std::string, std::string>{{"format", "pt"}};
  return *metadata;
}

absl::Status WriteShards(const std::vector<Shard>& shards, const fs::path& folder) {
  Json weight_map = Json::object();
  int64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string file =
        absl::StrFormat("model-%05d-of-%05d.safetensors", i + 1, shards.size());
    FEDUMM_RETURN_IF_ERROR(
        WriteSafetensors((folder / file).string(), shards[i].tensors, Metadata()));
    for (const SafetensorsTensor& tensor : shards[i].tensors) weight_map[tensor.name] = file;
    total += shards[i].bytes;
  }
  const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  return WriteFileAtomically((folder / kIndexFile).string(), index.dump(2) + "\n");
}

}  // namespace

absl::StatusOr<StateDict> LoadStateDict(const std::string& path) {
  return Guarded([&]() -> absl::StatusOr<StateDict> {
    FEDUMM_ASSIGN_OR_RETURN(const CheckpointFolder folder, CheckpointFolder::Open(path));
    StateDict state;
    for (const auto& [name, tensor] : folder.tensors()) {
      FEDUMM_ASSIGN_OR_RETURN(const at::Tensor mapped,
                              MappedTensor(folder.files()[tensor.file], *tensor.data));
      state[name] = mapped.clone();
    }
    FEDUMM_RETURN_IF_ERROR(folder.CheckUnchanged());
    return state;
  });
}

absl::Status SaveStateDict(const StateDict& state, const std::string& path,
                           int64_t max_shard_bytes) {
  return Guarded([&]() -> absl::Status {
    const bool one_file = path.ends_with(".safetensors");
    std::vector<Shard> shards(1);
    for (const auto& [name, tensor] : state) {
      if (!one_file && !shards.back().tensors.empty() &&
          shards.back().bytes + static_cast<int64_t>(tensor.nbytes()) > max_shard_bytes) {
        shards.emplace_back();
      }
      FEDUMM_RETURN_IF_ERROR(Append(name, tensor, shards.back()));
    }
    if (one_file) return WriteSafetensors(path, shards[0].tensors, Metadata());
    fs::create_directories(path);
    if (shards.size() > 1) return WriteShards(shards, path);
    // LoadStateDict would read an old index instead of the file.
    fs::remove(fs::path(path) / kIndexFile);
    return WriteSafetensors((fs::path(path) / kSingleFile).string(), shards[0].tensors, Metadata());
  });
}

}  // namespace fedumm::model
