#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cstring>
#include <filesystem>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/safetensors.h"
#include "model/guarded.h"
#include "nlohmann/json.hpp"

namespace fedumm::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;

struct DTypePair {
  at::ScalarType torch;
  SafetensorsDType file;
};
constexpr DTypePair kDTypes[] = {
    {at::kFloat, SafetensorsDType::kF32}, {at::kBFloat16, SafetensorsDType::kBF16},
    {at::kHalf, SafetensorsDType::kF16},  {at::kDouble, SafetensorsDType::kF64},
    {at::kLong, SafetensorsDType::kI64},  {at::kInt, SafetensorsDType::kI32},
    {at::kShort, SafetensorsDType::kI16}, {at::kChar, SafetensorsDType::kI8},
    {at::kByte, SafetensorsDType::kU8},   {at::kBool, SafetensorsDType::kBool},
};

// The published layout of a name: newer transformers keep the two halves of the model under
// "model." in memory.
std::string PublishedName(const std::string& name) {
  constexpr std::string_view kModel = "model.";
  constexpr std::string_view kText = "model.language_model.";
  if (name.starts_with(kText)) return std::string(kModel) + name.substr(kText.size());
  if (name.starts_with("model.visual.")) return name.substr(kModel.size());
  return name;
}

absl::StatusOr<at::Tensor> CopyTensor(const SafetensorsTensor& source) {
  for (const DTypePair& pair : kDTypes) {
    if (pair.file != source.dtype) continue;
    at::Tensor tensor = at::empty(source.shape, pair.torch);
    if (!source.bytes.empty())
      std::memcpy(tensor.mutable_data_ptr(), source.bytes.data(), source.bytes.size());
    return tensor;
  }
  return absl::InvalidArgumentError(absl::StrCat("checkpoint: tensor ", source.name, " has dtype ",
                                                 std::string(SafetensorsDTypeName(source.dtype)),
                                                 ", which is not supported"));
}

absl::Status Add(const SafetensorsTensor& source, StateDict& state) {
  FEDUMM_ASSIGN_OR_RETURN(at::Tensor tensor, CopyTensor(source));
  const auto [place, is_new] = state.try_emplace(PublishedName(source.name), std::move(tensor));
  if (is_new) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("checkpoint: ", place->first, " is there twice"));
}

absl::StatusOr<StateDict> LoadFile(const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  StateDict state;
  for (const SafetensorsTensor& tensor : file.tensors()) FEDUMM_RETURN_IF_ERROR(Add(tensor, state));
  return state;
}

using WeightMap = std::map<std::string, std::set<std::string>>;  // file -> the tensors it must hold

absl::StatusOr<WeightMap> ReadIndex(const fs::path& path) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path.string(), kMaxIndexBytes));
  const Json index = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index.at("weight_map").is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint: ", path.string(), " has no weight_map"));
  }
  WeightMap files;
  for (const auto& [name, value] : index.at("weight_map").items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    // The index is untrusted: it may only name files beside it.
    if (!file.ends_with(".safetensors") ||
        file.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("checkpoint: ", path.string(), " maps ", name,
                                                     " to ", value.is_string() ? file : "no file"));
    }
    files[file].insert(name);
  }
  return files;
}

absl::StatusOr<StateDict> LoadShards(const fs::path& folder) {
  FEDUMM_ASSIGN_OR_RETURN(const WeightMap files, ReadIndex(folder / kIndexFile));
  StateDict state;
  for (const auto& [name, tensors] : files) {
    FEDUMM_ASSIGN_OR_RETURN(const SafetensorsFile file,
                            SafetensorsFile::Open((folder / name).string()));
    for (const std::string& tensor : tensors) {
      if (file.Find(tensor) == nullptr) {
        return absl::InvalidArgumentError(
            absl::StrCat("checkpoint: ", name, " lacks ", tensor, ", which the index puts there"));
      }
    }
    for (const SafetensorsTensor& tensor : file.tensors()) {
      if (!tensors.contains(tensor.name)) {
        return absl::InvalidArgumentError(absl::StrCat("checkpoint: ", name, " holds ", tensor.name,
                                                       ", which the index does not put there"));
      }
      FEDUMM_RETURN_IF_ERROR(Add(tensor, state));
    }
  }
  return state;
}

// The tensors of one file to write. `owned` keeps alive the copies in contiguous host memory.
struct Shard {
  std::vector<SafetensorsTensor> tensors;
  std::vector<at::Tensor> owned;
  int64_t bytes = 0;
};

absl::Status Append(const std::string& name, const at::Tensor& tensor, Shard& shard) {
  const at::Tensor host = tensor.detach().to(at::kCPU).contiguous();
  for (const DTypePair& pair : kDTypes) {
    if (pair.torch != host.scalar_type()) continue;
    const size_t bytes = static_cast<size_t>(host.nbytes());
    shard.tensors.push_back(
        {name, pair.file, host.sizes().vec(),
         std::string_view(static_cast<const char*>(host.const_data_ptr()), bytes)});
    shard.owned.push_back(host);
    shard.bytes += static_cast<int64_t>(bytes);
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("checkpoint: tensor ", name, " has dtype ",
                                                 c10::toString(host.scalar_type()),
                                                 ", which is not supported"));
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
    std::error_code error;
    if (!fs::is_directory(path, error)) return LoadFile(path);
    if (fs::exists(fs::path(path) / kIndexFile, error)) return LoadShards(path);
    return LoadFile((fs::path(path) / kSingleFile).string());
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
