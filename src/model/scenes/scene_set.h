// Rendered scenes with their questions: what clients hold and what is held out. LibTorch-free.
#pragma once

#include <cstdint>
#include <vector>

#include "model/scenes/scene.h"

namespace fedumm::model {

struct SceneAsked {
  SceneQuestion question;
  int64_t picture = 0;
  bool is_new = false;  // the picture or the question has a new shape or colour
};

struct SceneSet {
  std::vector<Scene> scenes;          // the tags take turns
  std::vector<uint8_t> pixels;        // of all pictures, one after the other
  std::vector<SceneAsked> questions;  // of each picture two: a yes-or-no question and another one

  // `count` scenes of all shapes and colours. Equal seeds give equal sets.
  static SceneSet Render(int64_t count, uint64_t seed);
};

}  // namespace fedumm::model
