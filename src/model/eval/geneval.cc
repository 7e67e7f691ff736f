// The rules by which GenEval judges a picture.
#include "fedumm/model/geneval.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "base/text.h"

namespace fedumm::model {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxCount = 10'000;
// In the order in which the official script lists colours.
constexpr std::array<const char*, 10> kColors = {"red",    "orange", "yellow", "green", "blue",
                                                 "purple", "pink",   "brown",  "black", "white"};

absl::Status BadPrompt(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("GenEval prompt: ", what));
}

absl::StatusOr<std::string> StringAt(const Json& object, const char* key) {
  const auto it = object.find(key);
  if (it == object.end() || !it->is_string()) {
    return BadPrompt(absl::StrCat("'", key, "' is missing or no text"));
  }
  return it->get<std::string>();
}

absl::StatusOr<GenevalObjects> ParseObjects(const Json& json) {
  if (!json.is_object()) return BadPrompt("an entry of include or exclude is no object");
  GenevalObjects objects;
  FEDUMM_ASSIGN_OR_RETURN(objects.class_name, StringAt(json, "class"));
  const auto count = json.find("count");
  if (count == json.end() || !count->is_number_integer() || *count < 0 || *count > kMaxCount) {
    return BadPrompt("'count' is missing or no small number");
  }
  objects.count = count->get<int64_t>();
  if (json.contains("color")) {
    FEDUMM_ASSIGN_OR_RETURN(objects.color, StringAt(json, "color"));
  }
  if (const auto position = json.find("position"); position != json.end()) {
    if (!position->is_array() || position->size() != 2 || !position->at(0).is_string() ||
        !position->at(1).is_number_integer()) {
      return BadPrompt("'position' is not a relation and the number of its target");
    }
    objects.position = position->at(0).get<std::string>();
    objects.target = position->at(1).get<int64_t>();
  }
  return objects;
}

absl::StatusOr<std::vector<GenevalObjects>> ParseList(const Json& json, const char* key) {
  std::vector<GenevalObjects> list;
  const auto it = json.find(key);
  if (it == json.end()) return list;
  if (!it->is_array()) return BadPrompt(absl::StrCat("'", key, "' is no list"));
  for (const Json& item : *it) {
    FEDUMM_ASSIGN_OR_RETURN(GenevalObjects objects, ParseObjects(item));
    list.push_back(std::move(objects));
  }
  return list;
}

// The detections of each class that count, the best first.
std::map<std::string, std::vector<Detection>> Kept(std::span<const Detection> detections,
                                                   double threshold,
                                                   const GenevalOptions& options) {
  std::map<std::string, std::vector<Detection>> by_class;
  for (const Detection& detection : detections) {
    if (detection.score > static_cast<float>(threshold)) {
      by_class[detection.class_name].push_back(detection);
    }
  }
  for (auto& [name, found] : by_class) {
    // Of equal scores the later one first: the official script reverses an ascending order.
    std::stable_sort(found.begin(), found.end(),
                     [](const Detection& a, const Detection& b) { return a.score < b.score; });
    std::reverse(found.begin(), found.end());
    if (std::ssize(found) > options.max_objects) {
      found.resize(static_cast<size_t>(options.max_objects));
    }
    if (options.max_overlap == 1) continue;
    std::vector<Detection> apart;
    for (const Detection& detection : found) {
      const bool overlaps = std::any_of(apart.begin(), apart.end(), [&](const Detection& better) {
        return BoxOverlap(better.box, detection.box) >= options.max_overlap;
      });
      if (!overlaps) apart.push_back(detection);
    }
    found = std::move(apart);
  }
  return by_class;
}

std::vector<std::string> ColorsOfDetections(std::span<const Detection> objects) {
  std::vector<std::string> colors;
  for (const Detection& object : objects) colors.push_back(object.color);
  return colors;
}

// Judges one entry of `include` after the other.
class Judge {
 public:
  Judge(const ColorsOf& colors_of, const GenevalOptions& options, GenevalVerdict& verdict)
      : colors_of_(colors_of), options_(options), verdict_(verdict) {}

  // `found` are the objects of the class, the best first.
  absl::Status Require(const GenevalObjects& wanted, std::span<const Detection> found) {
    const auto count = static_cast<size_t>(wanted.count);
    found = found.first(std::min(found.size(), count));
    bool matched = found.size() == count;
    if (!matched) {
      Fail(absl::StrCat("expected ", wanted.class_name, ">=", count, ", found ", found.size()));
    } else {
      FEDUMM_ASSIGN_OR_RETURN(matched, HasColor(wanted, found));
      if (matched && !wanted.position.empty()) {
        FEDUMM_ASSIGN_OR_RETURN(matched, IsAtPosition(wanted, found));
      }
    }
    groups_.push_back(matched ? std::optional(found) : std::nullopt);
    return absl::OkStatus();
  }

 private:
  void Fail(std::string reason) {
    verdict_.correct = false;
    verdict_.reasons.push_back(std::move(reason));
  }

  absl::StatusOr<bool> HasColor(const GenevalObjects& wanted, std::span<const Detection> found) {
    if (wanted.color.empty()) return true;
    std::vector<std::string> colors = ColorsOfDetections(found);
    if (colors_of_ != nullptr) {
      FEDUMM_ASSIGN_OR_RETURN(colors, colors_of_(found));
    }
    const auto count = [&](std::string_view color) {
      return std::count(colors.begin(), colors.end(), color);
    };
    if (count(wanted.color) >= wanted.count) return true;
    std::vector<std::string> seen;
    for (const char* color : kColors) {
      if (count(color) > 0) seen.push_back(absl::StrCat(count(color), " ", color));
    }
    Fail(absl::StrCat("expected ", wanted.color, " ", wanted.class_name, ">=", wanted.count,
                      ", found ", count(wanted.color), " ", wanted.color, "; and ",
                      absl::StrJoin(seen, ", ")));
    return false;
  }

  absl::StatusOr<bool> IsAtPosition(const GenevalObjects& wanted,
                                    std::span<const Detection> found) {
    if (wanted.target < 0 || wanted.target >= std::ssize(groups_)) {
      return BadPrompt(absl::StrCat("the target ", wanted.target, " of ", wanted.class_name,
                                    " is no earlier entry"));
    }
    const auto& targets = groups_[static_cast<size_t>(wanted.target)];
    if (!targets.has_value()) {
      Fail(absl::StrCat("no target for ", wanted.class_name, " to be ", wanted.position));
      return false;
    }
    for (const Detection& object : found) {
      for (const Detection& target : *targets) {
        const std::vector<std::string> positions =
            RelativePositions(object.box, target.box, options_.position_threshold);
        if (std::ranges::find(positions, wanted.position) != positions.end()) continue;
        Fail(absl::StrCat("expected ", wanted.class_name, " ", wanted.position, " target, found ",
                          absl::StrJoin(positions, " and "), " target"));
        return false;
      }
    }
    return true;
  }

  const ColorsOf& colors_of_;
  const GenevalOptions& options_;
  GenevalVerdict& verdict_;
  std::vector<std::optional<std::span<const Detection>>> groups_;  // unset: did not match
};

}  // namespace

absl::StatusOr<GenevalPrompt> ParseGenevalPrompt(std::string_view text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object())
    return BadPrompt(absl::StrCat("no JSON object: ", ValidUtf8(Text(text), 100)));
  GenevalPrompt prompt;
  FEDUMM_ASSIGN_OR_RETURN(prompt.tag, StringAt(json, "tag"));
  FEDUMM_ASSIGN_OR_RETURN(prompt.prompt, StringAt(json, "prompt"));
  FEDUMM_ASSIGN_OR_RETURN(prompt.include, ParseList(json, "include"));
  FEDUMM_ASSIGN_OR_RETURN(prompt.exclude, ParseList(json, "exclude"));
  prompt.metadata = std::string(text);
  return prompt;
}

absl::StatusOr<GenevalVerdict> JudgePicture(const GenevalPrompt& prompt,
                                            std::span<const Detection> detections,
                                            const ColorsOf& colors_of,
                                            const GenevalOptions& options) {
  const double threshold =
      prompt.tag == "counting" ? options.counting_threshold : options.threshold;
  const std::map<std::string, std::vector<Detection>> kept = Kept(detections, threshold, options);
  GenevalVerdict verdict{.correct = true};
  for (const auto& [name, found] : kept) verdict.counts[name] = std::ssize(found);
  const auto found = [&](const std::string& name) -> std::span<const Detection> {
    const auto it = kept.find(name);
    if (it == kept.end()) return {};
    return it->second;
  };
  Judge judge(colors_of, options, verdict);
  for (const GenevalObjects& wanted : prompt.include) {
    FEDUMM_RETURN_IF_ERROR(judge.Require(wanted, found(wanted.class_name)));
  }
  for (const GenevalObjects& unwanted : prompt.exclude) {
    const int64_t count = std::ssize(found(unwanted.class_name));
    if (count < unwanted.count) continue;
    verdict.correct = false;
    verdict.reasons.push_back(
        absl::StrCat("expected ", unwanted.class_name, "<", unwanted.count, ", found ", count));
  }
  return verdict;
}

std::vector<std::string> RelativePositions(const std::array<float, 4>& box,
                                           const std::array<float, 4>& other,
                                           double position_threshold) {
  // Offset of the centres, less the part of the sizes within which they are at one place.
  std::array<double, 2> offset, reduced;
  for (size_t axis = 0; axis < 2; ++axis) {
    const double center = (box[axis] + box[axis + 2]) / 2.0;
    const double other_center = (other[axis] + other[axis + 2]) / 2.0;
    const double sizes =
        std::fabs(box[axis + 2] - box[axis]) + std::fabs(other[axis + 2] - other[axis]);
    offset[axis] = center - other_center;
    reduced[axis] = std::copysign(
        std::max(std::fabs(offset[axis]) - position_threshold * sizes, 0.0), offset[axis]);
  }
  if (std::fabs(reduced[0]) < 1e-3 && std::fabs(reduced[1]) < 1e-3) return {};
  const double distance = std::hypot(offset[0], offset[1]);
  const double dx = reduced[0] / distance;
  const double dy = reduced[1] / distance;
  std::vector<std::string> positions;
  if (dy < -0.5) positions.emplace_back("above");
  if (dy > 0.5) positions.emplace_back("below");
  if (dx < -0.5) positions.emplace_back("left of");
  if (dx > 0.5) positions.emplace_back("right of");
  return positions;
}

double BoxOverlap(const std::array<float, 4>& a, const std::array<float, 4>& b) {
  const auto area = [](double left, double top, double right, double bottom) {
    return std::max(right - left + 1, 0.0) * std::max(bottom - top + 1, 0.0);
  };
  const double both =
      area(std::max(a[0], b[0]), std::max(a[1], b[1]), std::min(a[2], b[2]), std::min(a[3], b[3]));
  const double either = area(a[0], a[1], a[2], a[3]) + area(b[0], b[1], b[2], b[3]) - both;
  return either == 0 ? 0 : both / either;
}

}  // namespace fedumm::model
