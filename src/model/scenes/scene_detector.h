// Finds the shapes of a picture by rules alone: no model is involved. LibTorch-free.
#pragma once

#include <vector>

#include "fedumm/model/easy_vqa.h"
#include "fedumm/model/geneval.h"

namespace fedumm::model {

// The shapes of kSceneShapes in `picture`, in reading order of their first pixels, with the nearest
// colour of kSceneColors. A score is the overlap with the ideal shape plus 0.2, at most 1,
// so that GenEval's limit for counting (0.9) asks for a clearer shape than its usual one does.
// Spots of less than 40 pixels, and what overlaps with no shape by 0.6, are not reported.
std::vector<Detection> DetectShapes(Picture picture);

}  // namespace fedumm::model
