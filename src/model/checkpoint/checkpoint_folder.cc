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
#include "base/file.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "nlohmann/json.hpp"

namespace fedumm::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;
constexpr size_t kMaxNamesInError = 5;
constexpr std::string_view kTargetEncoder = "model.gen_vision_tower.";
// What modules compute from the config; some versions of the training code save it.
constexpr std::array<std::string_view, 3> kBuffers = {".inv_freq", ".position_ids", ".freqs_cis"};

std::string Shown(const std::string& name) { return ValidUtf8(name, 200); }

bool IsLeftOut(std::string_view name) {
  return name.starts_with(kTargetEncoder) ||
         std::ranges::any_of(kBuffers, [&](auto suffix) { return name.ends_with(suffix); });
}

using WeightMap = std::map<std::string, std::vector<std::string>>;  // file -> its tensors

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
      return absl::InvalidArgumentError(absl::StrCat("checkpoint: ", path.string(), " maps ",
                                                     Shown(name), " to ",
                                                     value.is_string() ? Shown(file) : "no file"));
    }
    files[file].push_back(name);
  }
  return files;
}

std::string FirstNames(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kMaxNamesInError);
  return absl::StrCat(
      absl::StrJoin(names.begin(), names.begin() + static_cast<ptrdiff_t>(shown), ", "),
      names.size() > shown ? absl::StrCat(" and ", names.size() - shown, " more") : "");
}

}  // namespace

std::string PublishedName(const std::string& name) {
  constexpr std::string_view kModel = "model.";
  constexpr std::string_view kText = "model.language_model.";
  if (name.starts_with(kText)) return std::string(kModel) + name.substr(kText.size());
  if (name.starts_with("model.visual.")) return name.substr(kModel.size());
  return name;
}

absl::StatusOr<CheckpointFolder> CheckpointFolder::Open(const std::string& path) {
  CheckpointFolder folder;
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
  FEDUMM_ASSIGN_OR_RETURN(const WeightMap files, ReadIndex(index));
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
    if (IsLeftOut(name)) {
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

absl::Status CheckShapes(const TensorShapes& expected, const TensorShapes& found) {
  std::vector<std::string> missing, unexpected, wrong;
  for (const auto& [name, shape] : expected) {
    const auto it = found.find(name);
    if (it == found.end()) {
      missing.push_back(name);
    } else if (it->second != shape) {
      wrong.push_back(absl::StrCat(name, " is [", absl::StrJoin(it->second, ", "), "], not [",
                                   absl::StrJoin(shape, ", "), "]"));
    }
  }
  for (const auto& [name, shape] : found) {
    if (!expected.contains(name)) unexpected.push_back(Shown(name));
  }
  std::vector<std::string> errors;
  if (!missing.empty()) errors.push_back("missing: " + FirstNames(missing));
  if (!unexpected.empty()) errors.push_back("unexpected: " + FirstNames(unexpected));
  if (!wrong.empty()) errors.push_back("unfit: " + FirstNames(wrong));
  if (errors.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the checkpoint does not fit the config: ", absl::StrJoin(errors, "; ")));
}

}  // namespace fedumm::model
