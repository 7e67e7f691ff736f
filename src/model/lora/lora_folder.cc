// PEFT's adapter folders: adapter_config.json and adapter_model.safetensors.
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/safetensors.h"

namespace fedumm::model {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;

std::string ConfigPath(const std::string& folder) { return folder + "/adapter_config.json"; }
std::string WeightsPath(const std::string& folder) { return folder + "/adapter_model.safetensors"; }

absl::StatusOr<ArrayRecord> ReadArrays(const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const SafetensorsFile file, SafetensorsFile::Open(path));
  ArrayRecord arrays;
  for (const SafetensorsTensor& tensor : file.tensors()) {
    FEDUMM_ASSIGN_OR_RETURN(const DType dtype, ToDType(tensor.dtype));
    FEDUMM_ASSIGN_OR_RETURN(Array array,
                            Array::Create(dtype, tensor.shape, std::string(tensor.bytes)));
    arrays.Set(tensor.name, std::move(array));
  }
  return arrays;
}

ModuleLayout LayoutOf(const ArrayRecord& arrays) {
  for (const auto& [key, ignored] : arrays) {
    if (absl::StartsWith(key, "base_model.model.model.language_model.") ||
        absl::StartsWith(key, "base_model.model.model.visual.")) {
      return ModuleLayout::kTransformers5;
    }
  }
  return ModuleLayout::kFile;
}

absl::Status InFolder(const absl::Status& status, const std::string& folder) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(folder, ": ", status.message()));
}

}  // namespace

absl::StatusOr<std::unique_ptr<LoraAdapter>> LoraAdapter::Load(
    const std::vector<NamedLinear>& linears, const std::string& folder) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(ConfigPath(folder), kMaxConfigBytes));
  absl::StatusOr<LoraConfig> config = ParsePeftConfig(json);
  if (!config.ok()) return InFolder(config.status(), folder);
  FEDUMM_ASSIGN_OR_RETURN(const ArrayRecord arrays, ReadArrays(WeightsPath(folder)));
  // The folder holds all values, so their initialisation does not matter.
  const LoraInit init = std::exchange(config->init_lora_weights, LoraInit::kDefault);
  absl::StatusOr<std::unique_ptr<LoraAdapter>> adapter =
      AttachMatching(linears, *std::move(config), /*seed=*/0, LayoutOf(arrays));
  if (!adapter.ok()) return InFolder(adapter.status(), folder);
  (*adapter)->config_.init_lora_weights = init;
  FEDUMM_RETURN_IF_ERROR(InFolder((*adapter)->FromArrays(arrays), folder));
  return adapter;
}

absl::Status LoraAdapter::Save(const std::string& folder, ModuleLayout layout) const {
  FEDUMM_ASSIGN_OR_RETURN(const LoraConfig config,
                          RespellConfig(config_, linear_paths_, layout_, layout));
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return absl::PermissionDeniedError(
        absl::StrCat("cannot make the folder ", folder, ": ", error.message()));
  }
  const ArrayRecord arrays = ToArrays(layout);
  std::vector<SafetensorsTensor> tensors;
  for (const auto& [key, array] : arrays) {
    tensors.push_back({.name = key,
                       .dtype = ToSafetensorsDType(array.dtype()),
                       .shape = {array.shape().begin(), array.shape().end()},
                       .bytes = array.bytes()});
  }
  FEDUMM_RETURN_IF_ERROR(WriteSafetensors(WeightsPath(folder), tensors, {{"format", "pt"}}));
  return WriteFileAtomically(ConfigPath(folder), FormatPeftConfig(config));
}

}  // namespace fedumm::model
