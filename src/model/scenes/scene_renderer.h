// Pictures of scenes, 64x64 as those of easy-VQA. LibTorch-free.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"
#include "fedumm/model/easy_vqa.h"
#include "model/demo/renderer.h"
#include "model/scenes/scene.h"

namespace fedumm::model {

// A form in a colour whose bounding box has `side` pixels and this middle.
struct PlacedForm {
  Form form;
  Rgb color;
  double x;
  double y;
  double side;
};
// A picture of kPictureBytes: the forms on a background of one gray level.
std::vector<uint8_t> RenderForms(std::span<const PlacedForm> forms, uint8_t background);

// Where RandomScene's objects go: each in a part of the picture of its own, so that none touch.
// Sizes and exact places are drawn from `random`.
std::vector<PlacedForm> PlaceScene(const Scene& scene, Random& random);
// PlaceScene and RenderForms on a pale background.
std::vector<uint8_t> RenderScene(const Scene& scene, Random& random);
uint8_t PaleBackground(Random& random);

// The form of each of kSceneShapes.
Form FormOfSceneShape(int shape);

}  // namespace fedumm::model
