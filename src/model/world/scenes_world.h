// Scenes of up to four shapes, which are rendered here, as a World: answering questions ("vqa") and
// drawing ("draw"), judged by GenEval's six tags.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "fedumm/model/world.h"

namespace fedumm::model {

std::vector<Setting> ScenesSettings();
absl::StatusOr<std::unique_ptr<World>> LoadScenesWorld(const ConfigRecord& settings);
absl::Status PretrainScenesWorld(const ConfigRecord& settings,
                                 const std::function<void(const PretrainStep&)>& progress);

}  // namespace fedumm::model
