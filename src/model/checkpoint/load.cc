#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/checkpoint.h"

namespace fedumm::model {

absl::StatusOr<std::unique_ptr<UnifiedModel>> Load(const std::string& folder,
                                                   const LoadOptions& options) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string json, ReadFile(folder + "/config.json"));
  FEDUMM_ASSIGN_OR_RETURN(const BackboneConfig config, BackboneConfig::FromJson(json));
  FEDUMM_ASSIGN_OR_RETURN(StateDict state, LoadStateDict(folder));
  for (auto& [name, tensor] : state) {
    tensor = tensor.to(options.device, options.dtype.value_or(tensor.scalar_type()));
  }
  return UnifiedModel::Create(config, std::move(state));
}

}  // namespace fedumm::model
