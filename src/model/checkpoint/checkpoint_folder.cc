#include "model/checkpoint/checkpoint_folder.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <set>
#include <string_view>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "model/checkpoint/safetensors_index.h"

namespace fedumm::model {
namespace {

namespace fs = std::filesystem;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;
constexpr std::string_view kTargetEncoder = "model.gen_vision_tower.";
// What modules compute from the config; some versions of the training code save it.
constexpr std::array<std::string_view, 3> kBuffers = {".inv_freq", ".position_ids", ".freqs_cis"};

std::string Shown(const std::string& name) { return ValidUtf8(name, 200); }

bool IsLeftOut(std::string_view name) {
  return name.starts_with(kTargetEncoder) ||
         std::ranges::any_of(kBuffers, [&](auto suffix) { return name.ends_with(suffix); });
}

using WeightMap = std::map<std::string, std::vector<std::string>>;  // file -> its tensors

}  // namespace

std::string PublishedName(const std::string& name) {
  constexpr std::string_view kModel = "model.";
  constexpr std::string_view kText = "model.language_model.";
  if (name.starts_with(kText)) return std::string(kModel) + name.substr(kText.size());
  if (name.starts_with("model.visual.")) return name.substr(kModel.size());
  return name;
}

absl::StatusOr<CheckpointFolder> CheckpointFolder::Open(const std::string& path,
                                                        Contents contents) {
  CheckpointFolder folder(contents);
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    FEDUMM_RETURN_IF_ERROR(folder.AddFile(path, nullptr));
    return folder;
  }
  const fs::path index = fs::path(path) / kIndexFile;
  const fs::path single = fs::path(path) / kSingleFile;
  if (!fs::exists(index, error)) {
    if (!fs::exists(single, error)) {
      return absl::NotFoundError(
          absl::StrCat("checkpoint: ", path, " holds neither ", kSingleFile, " nor ", kIndexFile,
                       fs::exists(fs::path(path) / "pytorch_model.bin.index.json", error) ||
                               fs::exists(fs::path(path) / "pytorch_model.bin", error)
                           ? "; convert pytorch_model.bin to safetensors first"
                           : ""));
    }
    FEDUMM_RETURN_IF_ERROR(folder.AddFile(single.string(), nullptr));
    return folder;
  }
  FEDUMM_ASSIGN_OR_RETURN(const SafetensorsIndex read,
                          ReadSafetensorsIndex(index.string(), kMaxIndexBytes));
  WeightMap files;
  for (const auto& [name, file] : read.file_of) files[file].push_back(name);
  for (const auto& [name, tensors] : files) {
    FEDUMM_RETURN_IF_ERROR(folder.AddFile((fs::path(path) / name).string(), &tensors));
  }
  return folder;
}

absl::Status CheckpointFolder::AddFile(const std::string& path,
                                       const std::vector<std::string>* expected) {
  FEDUMM_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::Open(path));
  if (expected != nullptr) {
    const std::set<std::string_view> mapped(expected->begin(), expected->end());
    for (const std::string& name : *expected) {
      if (file.Find(name) == nullptr) {
        return absl::InvalidArgumentError(absl::StrCat("checkpoint: ", path, " lacks ", Shown(name),
                                                       ", which the index puts there"));
      }
    }
    for (const SafetensorsTensor& tensor : file.tensors()) {
      if (!mapped.contains(tensor.name)) {
        return absl::InvalidArgumentError(absl::StrCat("checkpoint: ", path, " holds ",
                                                       Shown(tensor.name),
                                                       ", which the index does not put there"));
      }
    }
  }
  for (const SafetensorsTensor& tensor : file.tensors()) {
    std::string name = PublishedName(tensor.name);
    if (contents_ == Contents::kModel && IsLeftOut(name)) {
      ++num_left_out_;
      continue;
    }
    const auto [place, is_new] =
        tensors_.try_emplace(std::move(name), Tensor{&tensor, files_.size()});
    if (!is_new) {
      return absl::InvalidArgumentError(
          absl::StrCat("checkpoint: ", Shown(place->first), " is there twice"));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

TensorShapes CheckpointFolder::Shapes() const {
  TensorShapes shapes;
  for (const auto& [name, tensor] : tensors_) shapes[name] = tensor.data->shape;
  return shapes;
}

absl::Status CheckpointFolder::CheckUnchanged() const {
  for (const SafetensorsFile& file : files_) FEDUMM_RETURN_IF_ERROR(file.CheckUnchanged());
  return absl::OkStatus();
}

}  // namespace fedumm::model
