// The demo as a World: easy-VQA's pictures and questions on the tiny model, answering ("vqa") and
// drawing ("draw").
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "fedumm/model/world.h"

namespace fedumm::model {

std::vector<Setting> EasyVqaSettings();
absl::StatusOr<std::unique_ptr<World>> LoadEasyVqaWorld(const ConfigRecord& settings);
absl::Status PretrainEasyVqa(const ConfigRecord& settings,
                             const std::function<void(const PretrainStep&)>& progress);

}  // namespace fedumm::model
