#include "model/scenes/scene.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "base/text.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kNumShapes = static_cast<int>(kSceneShapes.size());
constexpr int kNumColors = static_cast<int>(kSceneColors.size());
constexpr std::array<std::string_view, 4> kNumbers = {"one", "two", "three", "four"};
constexpr std::array<std::string_view, 4> kRelations = {"left of", "right of", "above", "below"};

int BelowInt(int n, Random& random) {
  return static_cast<int>(random.Below(static_cast<uint64_t>(n)));
}

std::string ShapeName(int shape) { return std::string(kSceneShapes[static_cast<size_t>(shape)]); }
std::string ColorName(int color) { return std::string(kSceneColors[static_cast<size_t>(color)]); }
std::string Number(size_t count) { return std::string(kNumbers[count - 1]); }
std::string Relation(SceneLayout layout) {
  return std::string(kRelations[static_cast<size_t>(layout)]);
}
SceneLayout Opposite(SceneLayout layout) {
  switch (layout) {
    case SceneLayout::kLeft:
      return SceneLayout::kRight;
    case SceneLayout::kRight:
      return SceneLayout::kLeft;
    case SceneLayout::kAbove:
      return SceneLayout::kBelow;
    case SceneLayout::kBelow:
      return SceneLayout::kAbove;
  }
  return layout;
}

std::string Plural(const std::string& shape) {
  return absl::StrCat(shape, shape == "cross" ? "es" : "s");
}
std::string Named(SceneObject object) {
  return absl::StrCat(ColorName(object.color), " ", ShapeName(object.shape));
}

int RandomShape(bool old_only, int not_this, Random& random) {
  while (true) {
    const int shape = BelowInt(kNumShapes, random);
    if (shape != not_this && !(old_only && IsNewSceneShape(shape))) return shape;
  }
}
int RandomColor(bool old_only, int not_this, Random& random) {
  while (true) {
    const int color = BelowInt(kNumColors, random);
    if (color != not_this && !(old_only && IsNewSceneColor(color))) return color;
  }
}

// All objects of a scene have one shape, or each has another one.
bool AreEqual(const Scene& scene) {
  return scene.objects.size() == 1 || scene.objects[0] == scene.objects[1];
}

Json Object(int shape, size_t count) {
  return {{"class", ShapeName(shape)}, {"count", static_cast<int64_t>(count)}};
}

}  // namespace

bool IsNewSceneShape(int shape) { return kSceneShapes[static_cast<size_t>(shape)] == "triangle"; }
bool IsNewSceneColor(int color) {
  const std::string_view name = kSceneColors[static_cast<size_t>(color)];
  return name == "yellow" || name == "purple";
}

bool Scene::is_new() const {
  return std::any_of(objects.begin(), objects.end(),
                     [](SceneObject object) { return object.is_new(); });
}

Scene RandomScene(SceneTag tag, bool old_only, Random& random) {
  Scene scene{.tag = tag, .objects = {}};
  const SceneObject first = {RandomShape(old_only, -1, random), RandomColor(old_only, -1, random)};
  scene.objects.push_back(first);
  if (tag == SceneTag::kCounting) {
    scene.objects.resize(1 + static_cast<size_t>(BelowInt(4, random)), first);
  } else if (tag == SceneTag::kTwoObject || tag == SceneTag::kPosition ||
             tag == SceneTag::kColorAttr) {
    // Two colours, so that a question about one of them has one answer.
    scene.objects.push_back(
        {RandomShape(old_only, first.shape, random), RandomColor(old_only, first.color, random)});
    if (tag == SceneTag::kPosition) scene.layout = static_cast<SceneLayout>(BelowInt(4, random));
  }
  return scene;
}

GenevalPrompt PromptOf(const Scene& scene) {
  const SceneObject first = scene.objects.front(), last = scene.objects.back();
  const std::string photo = "a photo of ";
  std::string prompt;
  Json include = Json::array(), exclude = Json::array();
  switch (scene.tag) {
    case SceneTag::kSingleObject:
      prompt = absl::StrCat(photo, "a ", ShapeName(first.shape));
      include = Json::array({Object(first.shape, 1)});
      break;
    case SceneTag::kTwoObject:
      prompt = absl::StrCat(photo, "a ", ShapeName(first.shape), " and a ", ShapeName(last.shape));
      include = Json::array({Object(first.shape, 1), Object(last.shape, 1)});
      break;
    case SceneTag::kCounting: {
      const size_t count = scene.objects.size();
      const std::string shape = ShapeName(first.shape);
      prompt = absl::StrCat(photo, Number(count), " ", count == 1 ? shape : Plural(shape));
      include = Json::array({Object(first.shape, count)});
      exclude = Json::array({Object(first.shape, count + 1)});
      break;
    }
    case SceneTag::kColors:
      prompt = absl::StrCat(photo, "a ", Named(first));
      include = Json::array({Object(first.shape, 1)});
      include[0]["color"] = ColorName(first.color);
      break;
    case SceneTag::kPosition:
      prompt = absl::StrCat(photo, "a ", ShapeName(first.shape), " ", Relation(scene.layout), " a ",
                            ShapeName(last.shape));
      include = Json::array({Object(last.shape, 1), Object(first.shape, 1)});
      include[1]["position"] = Json::array({Relation(scene.layout), 0});
      break;
    case SceneTag::kColorAttr:
      prompt = absl::StrCat(photo, "a ", Named(first), " and a ", Named(last));
      include = Json::array({Object(first.shape, 1), Object(last.shape, 1)});
      include[0]["color"] = ColorName(first.color);
      include[1]["color"] = ColorName(last.color);
  }
  Json line = {{"tag", std::string(NameOf(scene.tag))}, {"include", include}};
  if (!exclude.empty()) line["exclude"] = exclude;
  line["prompt"] = prompt;
  // The line is read by the parser that reads the official prompts: it cannot fail on this text.
  return *ParseGenevalPrompt(line.dump());
}

std::string ContentOf(const Scene& scene) {
  const SceneObject first = scene.objects.front();
  if (scene.objects.size() == 1) return absl::StrCat("a ", Named(first));
  if (AreEqual(scene)) {
    return absl::StrCat(Number(scene.objects.size()), " ", ColorName(first.color), " ",
                        Plural(ShapeName(first.shape)));
  }
  return absl::StrCat("a ", Named(first), " and a ", Named(scene.objects.back()));
}

SceneQuestion YesNoQuestionOf(const Scene& scene, bool old_only, Random& random) {
  const auto shows = [&](auto matches) {
    return std::any_of(scene.objects.begin(), scene.objects.end(), matches);
  };
  const SceneObject shown = scene.objects[random.Below(scene.objects.size())];
  const bool yes = random.Uniform() < 0.5;
  const double kind = random.Uniform();
  SceneObject named = shown;
  if (kind < 1.0 / 3) {  // the shape
    while (!yes && shows([&](SceneObject one) { return one.shape == named.shape; })) {
      named.shape = RandomShape(old_only, -1, random);
    }
    return {absl::StrCat("is there a ", ShapeName(named.shape), "?"), yes ? "yes" : "no", "yes/no"};
  }
  if (kind < 2.0 / 3) {  // the colour
    while (!yes && shows([&](SceneObject one) { return one.color == named.color; })) {
      named.color = RandomColor(old_only, -1, random);
    }
    return {absl::StrCat("is there a ", ColorName(named.color), " shape?"), yes ? "yes" : "no",
            "yes/no"};
  }
  // Both. In half of the pictures of two objects a wrong pair is made of what they show.
  if (!yes && !AreEqual(scene) && random.Uniform() < 0.5) {
    named = {scene.objects[0].shape, scene.objects[1].color};
  }
  while (!yes && shows([&](SceneObject one) { return one == named; })) {
    if (random.Uniform() < 0.5) {
      named.shape = RandomShape(old_only, -1, random);
    } else {
      named.color = RandomColor(old_only, -1, random);
    }
  }
  return {absl::StrCat("is there a ", Named(named), "?"), yes ? "yes" : "no", "yes/no"};
}

SceneQuestion OpenQuestionOf(const Scene& scene, double content_share, Random& random) {
  if (random.Uniform() < content_share) {
    return {"what is in the image?", ContentOf(scene), "content"};
  }
  if (AreEqual(scene)) {
    const SceneObject object = scene.objects.front();
    if (scene.objects.size() > 1 || random.Uniform() < 0.3) {
      return {absl::StrCat("how many ", Plural(ShapeName(object.shape)), " are there?"),
              Number(scene.objects.size()), "count"};
    }
    return {absl::StrCat("what color is the ", ShapeName(object.shape), "?"),
            ColorName(object.color), "color"};
  }
  const size_t asked = random.Below(2);
  const SceneObject object = scene.objects[asked], other = scene.objects[1 - asked];
  if (scene.tag == SceneTag::kPosition || random.Uniform() < 0.5) {
    const SceneLayout layout = asked == 0 ? scene.layout : Opposite(scene.layout);
    return {absl::StrCat("where is the ", Named(object), "?"),
            absl::StrCat(Relation(layout), " the ", Named(other)), "position"};
  }
  return {absl::StrCat("what color is the ", ShapeName(object.shape), "?"), ColorName(object.color),
          "color"};
}

}  // namespace fedumm::model
