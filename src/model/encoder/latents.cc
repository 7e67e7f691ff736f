#include "fedumm/model/latents.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "model/checkpoint/safetensors_index.h"

namespace fedumm::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kLatentIndex[] = "latents.safetensors.index.json";
constexpr char kEncoder[] = "encoder";

constexpr int64_t kMaxLatentIndexBytes = int64_t{1} << 32;

absl::StatusOr<SafetensorsIndex> ReadLatentIndex(const std::string& folder) {
  return ReadSafetensorsIndex(absl::StrCat(folder, "/", kLatentIndex), kMaxLatentIndexBytes);
}

// What made the latents; empty if the index does not say it.
std::string EncoderOf(const SafetensorsIndex& index) {
  const auto it = index.metadata.find(kEncoder);
  return it == index.metadata.end() ? "" : it->second;
}

bool IsFloatType(SafetensorsDType dtype) {
  return dtype == SafetensorsDType::kF32 || dtype == SafetensorsDType::kBF16 ||
         dtype == SafetensorsDType::kF16;
}

}  // namespace

absl::StatusOr<LatentFolder> LatentFolder::Open(const std::string& folder) {
  FEDUMM_ASSIGN_OR_RETURN(const SafetensorsIndex index, ReadLatentIndex(folder));
  LatentFolder latents;
  latents.encoder_ = EncoderOf(index);
  std::map<std::string, SafetensorsFile> files;
  for (const auto& [name, shard] : index.file_of) {
    const std::string path = absl::StrCat(folder, "/", shard);
    auto file = files.find(shard);
    if (file == files.end()) {
      FEDUMM_ASSIGN_OR_RETURN(SafetensorsFile opened, SafetensorsFile::Open(path));
      file = files.emplace(shard, std::move(opened)).first;
    }
    const SafetensorsTensor* tensor = file->second.Find(name);
    if (tensor == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " lacks ", ValidUtf8(name, 200), ", which the index puts there"));
    }
    if (latents.shape_.empty()) latents.shape_ = tensor->shape;
    if (tensor->shape.size() != 3 || tensor->shape[1] != tensor->shape[2] ||
        tensor->shape != latents.shape_ || !IsFloatType(tensor->dtype)) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": ", ValidUtf8(name, 200), " is ", Text(SafetensorsDTypeName(tensor->dtype)), " [",
          absl::StrJoin(tensor->shape, ", "),
          "], not a latent [channels, side, side] like the others"));
    }
    latents.by_name_[name] = tensor;
  }
  for (auto& [shard, file] : files) latents.files_.push_back(std::move(file));
  return latents;
}

absl::StatusOr<const SafetensorsTensor*> LatentFolder::Find(std::string_view name) const {
  const auto it = by_name_.find(name);
  if (it != by_name_.end()) return it->second;
  return absl::NotFoundError(
      absl::StrCat("there are no latents of the picture ", ValidUtf8(Text(name), 200)));
}

absl::StatusOr<LatentWriter> LatentWriter::Open(const std::string& folder,
                                                const std::string& encoder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot make the folder ", folder, ": ", error.message()));
  }
  LatentWriter writer(folder, encoder);
  absl::StatusOr<SafetensorsIndex> index = ReadLatentIndex(folder);
  if (absl::IsNotFound(index.status())) return writer;
  FEDUMM_RETURN_IF_ERROR(index.status());
  if (EncoderOf(*index) != encoder) {
    return absl::FailedPreconditionError(
        absl::StrCat(folder,
                     " holds latents of another encoder or with other settings: choose "
                     "another folder, or remove it"));
  }
  std::set<std::string> shards;
  for (const auto& [name, shard] : index->file_of) shards.insert(shard);
  writer.num_shards_ = std::ssize(shards);
  writer.shard_of_ = std::move(index->file_of);
  return writer;
}

absl::Status LatentWriter::Add(const std::string& name, SafetensorsDType dtype,
                               std::vector<int64_t> shape, std::string bytes) {
  if (shard_of_.contains(name)) {
    return absl::InvalidArgumentError(absl::StrCat("latents of ", name, " are there already"));
  }
  shard_of_[name] = "";
  pending_bytes_ += std::ssize(bytes);
  pending_.push_back({name, dtype, std::move(shape), std::move(bytes)});
  return absl::OkStatus();
}

absl::Status LatentWriter::Flush() {
  if (pending_.empty()) return absl::OkStatus();
  const std::string shard = absl::StrFormat("latents-%05d.safetensors", num_shards_ + 1);
  std::vector<SafetensorsTensor> tensors;
  for (const Pending& latent : pending_) {
    tensors.push_back({latent.name, latent.dtype, latent.shape, latent.bytes});
  }
  FEDUMM_RETURN_IF_ERROR(
      WriteSafetensors(absl::StrCat(folder_, "/", shard), tensors, {{"format", "pt"}}));
  for (const Pending& latent : pending_) shard_of_[latent.name] = shard;
  ++num_shards_;
  pending_.clear();
  pending_bytes_ = 0;
  const Json index = {{"metadata", {{kEncoder, encoder_}}}, {"weight_map", shard_of_}};
  return WriteFileAtomically(absl::StrCat(folder_, "/", kLatentIndex), index.dump(1) + "\n");
}

}  // namespace fedumm::model
