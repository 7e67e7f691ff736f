#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/limits.h"
#include "fedumm/model/peft_config.h"
#include "fedumm/model/safetensors.h"
#include "programs/commands.h"
#include "programs/inspect_checkpoint.h"
#include "programs/report/format.h"
#include "record/npy.h"
#include "wire/object.h"

namespace fedumm::programs {
namespace {

// Names come from files: control characters in them are escaped.
std::string Safe(std::string_view text) { return absl::CHexEscape(Text(text)); }

absl::Status InspectSafetensors(const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const model::SafetensorsFile file, model::SafetensorsFile::Open(path));
  size_t bytes = 0;
  for (const model::SafetensorsTensor& tensor : file.tensors()) bytes += tensor.bytes.size();
  std::printf("%s: safetensors, %zu tensors, %s\n", path.c_str(), file.tensors().size(),
              HumanBytes(static_cast<double>(bytes)).c_str());
  for (const auto& [key, value] : file.metadata()) {
    std::printf("  metadata %s = %.200s\n", Safe(key).c_str(), Safe(value).c_str());
  }
  for (const model::SafetensorsTensor& tensor : file.tensors()) {
    std::printf("  %-6s %-20s %s\n", std::string(SafetensorsDTypeName(tensor.dtype)).c_str(),
                absl::StrCat("[", absl::StrJoin(tensor.shape, ", "), "]").c_str(),
                Safe(tensor.name).c_str());
  }
  return absl::OkStatus();
}

absl::Status InspectAdapter(const std::string& folder) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(folder + "/adapter_config.json"));
  const absl::StatusOr<model::LoraConfig> parsed = model::ParsePeftConfig(json);
  if (!parsed.ok()) {
    return absl::Status(parsed.status().code(),
                        absl::StrCat(folder, "/adapter_config.json: ", parsed.status().message()));
  }
  const model::LoraConfig& config = *parsed;
  std::printf("%s: PEFT LoRA adapter, r %lld, lora_alpha %g, lora_dropout %g%s\n", folder.c_str(),
              static_cast<long long>(config.r), config.lora_alpha, config.lora_dropout,
              config.use_rslora ? ", rank-stabilized" : "");
  std::printf("  target_modules %s\n",
              config.target_modules.pattern.has_value()
                  ? Safe(*config.target_modules.pattern).c_str()
                  : Safe(absl::StrJoin(config.target_modules.names, ", ")).c_str());
  return InspectSafetensors(folder + "/adapter_model.safetensors");
}

absl::Status InspectObject(const std::string& path, const std::string& bytes) {
  FEDUMM_ASSIGN_OR_RETURN(const wire::ObjectView object, wire::ParseObject(bytes, Limits()));
  std::printf(
      "%s: Flower object %s, body %s\n  id %s\n", path.c_str(), std::string(object.type).c_str(),
      HumanBytes(static_cast<double>(object.body.size())).c_str(), Sha256Hex(bytes).c_str());
  for (const std::string_view child : object.children) {
    std::printf("  child %s\n", std::string(child).c_str());
  }
  // Most bodies are JSON or protobuf; a chunk is raw bytes, which are not printed.
  if (object.type == "Array" || object.type == "ArrayRecord" || object.type == "RecordDict") {
    std::printf("  %.2000s\n", Safe(object.body).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status InspectCommand(const std::string& path, bool check) {
  std::error_code error;
  const bool is_checkpoint = std::filesystem::exists(path + "/config.json", error) &&
                             !std::filesystem::exists(path + "/adapter_config.json", error);
  if (is_checkpoint) return InspectCheckpoint(path, check);
  if (check) {
    return absl::InvalidArgumentError(
        absl::StrCat("--check is for a checkpoint folder with config.json: ", path));
  }
  if (std::filesystem::is_directory(path, error)) {
    if (std::filesystem::exists(path + "/adapter_config.json", error)) return InspectAdapter(path);
    if (std::filesystem::exists(path + "/model.safetensors", error)) {
      return InspectSafetensors(path + "/model.safetensors");
    }
    return absl::InvalidArgumentError(
        absl::StrCat(path, " holds neither adapter_config.json nor model.safetensors"));
  }
  if (std::filesystem::path(path).extension() == ".safetensors") return InspectSafetensors(path);
  FEDUMM_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(path));
  if (bytes.starts_with("\x93NUMPY")) {
    FEDUMM_ASSIGN_OR_RETURN(const Array array,
                            ReadNpy(std::make_shared<const std::string>(bytes), 0, Limits()));
    std::printf("%s: .npy, %s %s, %s\n", path.c_str(),
                std::string(DTypeName(array.dtype())).c_str(), array.ShapeString().c_str(),
                HumanBytes(static_cast<double>(array.bytes().size())).c_str());
    return absl::OkStatus();
  }
  if (const absl::Status status = InspectObject(path, bytes); status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat(path, " is no adapter folder, safetensors file, .npy array or Flower object"));
}

}  // namespace fedumm::programs
