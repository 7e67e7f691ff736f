// The kinds of world that there are. A further one adds a line to the table in world.cc.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include "fedumm/model/world.h"

namespace fedumm::model {

struct WorldKind {
  std::string_view name;
  std::vector<Setting> (*settings)();  // without `world.kind`
  absl::StatusOr<std::unique_ptr<World>> (*load)(const ConfigRecord& settings);
  // Null: the model is not made here.
  absl::Status (*pretrain)(const ConfigRecord& settings,
                           const std::function<void(const PretrainStep&)>& progress);
};

}  // namespace fedumm::model
