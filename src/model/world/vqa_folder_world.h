// A folder of pictures with questions in VQA v2's files as a World, on any checkpoint folder that
// UnifiedModel can load: answering ("vqa") and, where the checkpoint has a DiT and a pixel codec,
// drawing from captions ("draw").
#pragma once

#include <memory>
#include <vector>

#include "fedumm/model/world.h"

namespace fedumm::model {

std::vector<Setting> VqaFolderSettings();
absl::StatusOr<std::unique_ptr<World>> LoadVqaFolderWorld(const ConfigRecord& settings);

// The same world on VQA v2 itself: the published files, and COCO's pictures in train2014/ and
// val2014/.
std::vector<Setting> VqaV2Settings();
absl::StatusOr<std::unique_ptr<World>> LoadVqaV2World(const ConfigRecord& settings);

}  // namespace fedumm::model
