// Scenes: pictures of one to four coloured shapes, with GenEval prompts and questions about them.
// LibTorch-free.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/random.h"
#include "fedumm/model/geneval.h"

namespace fedumm::model {

inline constexpr std::array<std::string_view, 4> kSceneShapes = {"circle", "square", "triangle",
                                                                 "cross"};
// Names that GenEval's colours have.
inline constexpr std::array<std::string_view, 6> kSceneColors = {"red",   "green",  "blue",
                                                                 "black", "yellow", "purple"};
// Of each colour: red, green, blue.
inline constexpr std::array<std::array<uint8_t, 3>, 6> kScenePalette = {
    {{230, 0, 0}, {0, 200, 0}, {0, 0, 255}, {0, 0, 0}, {240, 220, 0}, {160, 0, 200}}};
// GenEval's tags, in the order of the official prompts.
enum class SceneTag { kSingleObject, kTwoObject, kCounting, kColors, kPosition, kColorAttr };
inline constexpr std::array<std::string_view, 6> kSceneTags = {
    "single_object", "two_object", "counting", "colors", "position", "color_attr"};

inline std::string_view NameOf(SceneTag tag) { return kSceneTags[static_cast<size_t>(tag)]; }

// Pre-training leaves these out, so that clients have something to teach: the triangle, yellow and
// purple.
bool IsNewSceneShape(int shape);
bool IsNewSceneColor(int color);

// Indices into kSceneShapes and kSceneColors.
struct SceneObject {
  int shape = 0;
  int color = 0;

  bool is_new() const { return IsNewSceneShape(shape) || IsNewSceneColor(color); }
  friend bool operator==(SceneObject, SceneObject) = default;
};

// Where the first of two objects lies as seen from the second.
enum class SceneLayout { kLeft, kRight, kAbove, kBelow };

// What a picture shows: one object, two of different shapes, or up to four equal ones.
struct Scene {
  SceneTag tag = SceneTag::kSingleObject;
  std::vector<SceneObject> objects;         // one to four
  SceneLayout layout = SceneLayout::kLeft;  // of two objects

  bool is_new() const;  // whether one of its objects is
};

// A random scene of that tag. With `old_only`, of shapes and colours that pre-training has.
Scene RandomScene(SceneTag tag, bool old_only, Random& random);

// What a model is asked to draw: GenEval's prompt about the scene, with the metadata line by which
// the official rules judge the picture. Objects have a colour only where the tag asks for one.
GenevalPrompt PromptOf(const Scene& scene);

// "a red circle", "two red circles", "a red circle and a blue square".
std::string ContentOf(const Scene& scene);

struct SceneQuestion {
  std::string text;    // "where is the red circle?"
  std::string answer;  // "left of the blue square"
  std::string type;    // one of kSceneQuestionTypes
};
inline constexpr std::array<std::string_view, 5> kSceneQuestionTypes = {"color", "content", "count",
                                                                        "position", "yes/no"};
// A random question with a yes or a no, equally often. With `old_only`, it names old shapes and
// colours only; the scene must be of such.
SceneQuestion YesNoQuestionOf(const Scene& scene, bool old_only, Random& random);
// A random question of the other types that the scene has an answer to; `content` with that share.
SceneQuestion OpenQuestionOf(const Scene& scene, double content_share, Random& random);

}  // namespace fedumm::model
