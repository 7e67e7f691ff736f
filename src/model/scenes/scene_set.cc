#include "model/scenes/scene_set.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "base/text.h"
#include "model/scenes/scene_renderer.h"

namespace fedumm::model {
namespace {

constexpr double kContentShare = 0.4;

bool NamesNew(const SceneQuestion& question) {
  const auto names = [&](std::string_view word) {
    return absl::StrContains(question.text, Text(word));
  };
  for (size_t i = 0; i < kSceneShapes.size(); ++i) {
    if (IsNewSceneShape(static_cast<int>(i)) && names(kSceneShapes[i])) return true;
  }
  for (size_t i = 0; i < kSceneColors.size(); ++i) {
    if (IsNewSceneColor(static_cast<int>(i)) && names(kSceneColors[i])) return true;
  }
  return false;
}

}  // namespace

SceneSet SceneSet::Render(int64_t count, uint64_t seed) {
  Random random(seed, {0x5ce7e});
  SceneSet set;
  for (int64_t i = 0; i < count; ++i) {
    const auto tag = static_cast<SceneTag>(i % std::ssize(kSceneTags));
    const Scene scene = RandomScene(tag, /*old_only=*/false, random);
    const std::vector<uint8_t> picture = RenderScene(scene, random);
    set.pixels.insert(set.pixels.end(), picture.begin(), picture.end());
    for (SceneQuestion question : {YesNoQuestionOf(scene, /*old_only=*/false, random),
                                   OpenQuestionOf(scene, kContentShare, random)}) {
      const bool is_new = scene.is_new() || NamesNew(question);
      set.questions.push_back({std::move(question), i, is_new});
    }
    set.scenes.push_back(scene);
  }
  return set;
}

}  // namespace fedumm::model
