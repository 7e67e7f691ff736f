#include "fedumm/model/world.h"

#include <array>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "model/world/easy_vqa_world.h"
#include "model/world/kinds.h"
#include "model/world/scenes_world.h"
#include "model/world/vqa_folder_world.h"

namespace fedumm::model {
namespace {

constexpr std::array<WorldKind, 4> kKinds = {{
    {"easy-vqa", &EasyVqaSettings, &LoadEasyVqaWorld, &PretrainEasyVqa},
    {"scenes", &ScenesSettings, &LoadScenesWorld, &PretrainScenesWorld},
    {"vqa-folder", &VqaFolderSettings, &LoadVqaFolderWorld, nullptr},
    {"vqa-v2", &VqaV2Settings, &LoadVqaV2World, nullptr},
}};

absl::StatusOr<const WorldKind*> KindNamed(std::string_view name) {
  for (const WorldKind& kind : kKinds) {
    if (kind.name == name) return &kind;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "'world.kind' must be one of ", absl::StrJoin(WorldKinds(), ", "), ": ", Text(name)));
}

}  // namespace

absl::StatusOr<std::string> World::Generate(const GenerateRequest& /*options*/) {
  return absl::UnimplementedError("this kind of world cannot draw");
}

std::vector<std::string> WorldKinds() {
  std::vector<std::string> names;
  for (const WorldKind& kind : kKinds) names.emplace_back(kind.name);
  return names;
}

absl::StatusOr<std::vector<Setting>> WorldSettings(std::string_view kind) {
  FEDUMM_ASSIGN_OR_RETURN(const WorldKind* found, KindNamed(kind));
  std::vector<Setting> settings = {
      {.key = "world.kind",
       .default_value = std::string(found->name),
       .help = "what the model is, where the examples come from and how the result is judged",
       .choices = WorldKinds()}};
  for (Setting& setting : found->settings()) settings.push_back(std::move(setting));
  return settings;
}

bool IsLocalSetting(std::string_view key) {
  const std::string_view last = key.substr(key.rfind('.') + 1);
  for (const std::string_view word : {"checkpoint", "folder", "file"}) {
    if (last == word || absl::EndsWith(Text(last), absl::StrCat("-", Text(word)))) return true;
  }
  return false;
}

absl::StatusOr<std::unique_ptr<World>> NewWorld(const ConfigRecord& settings) {
  FEDUMM_ASSIGN_OR_RETURN(const WorldKind* kind, KindNamed(TextOr(settings, "world.kind", "")));
  return kind->load(settings);
}

absl::Status PretrainWorld(const ConfigRecord& settings,
                           const std::function<void(const PretrainStep&)>& progress) {
  FEDUMM_ASSIGN_OR_RETURN(const WorldKind* kind, KindNamed(TextOr(settings, "world.kind", "")));
  if (kind->pretrain == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("a world of kind '", Text(kind->name), "' takes a trained model as it is"));
  }
  return kind->pretrain(settings, progress);
}

}  // namespace fedumm::model
