// GenEval's folders, detections, results and summary.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "fedumm/model/geneval.h"

namespace fedumm::model {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int64_t kMaxMetadataBytes = 1 << 20;

// A text as Python's json.dumps writes it: ASCII only.
std::string PythonJson(const std::string& text) {
  return Json(text).dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
}

// The names in a folder, sorted.
std::vector<std::string> NamesIn(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<Detection> ParseDetection(const Json& json) {
  const auto bad = [] { return absl::InvalidArgumentError("a detection needs class, box, score"); };
  if (!json.is_object() || !json.contains("class") || !json.at("class").is_string() ||
      !json.contains("score") || !json.at("score").is_number() || !json.contains("box") ||
      !json.at("box").is_array() || json.at("box").size() != 4) {
    return bad();
  }
  Detection detection{.class_name = json.at("class").get<std::string>(),
                      .score = json.at("score").get<float>()};
  for (size_t i = 0; i < 4; ++i) {
    if (!json.at("box").at(i).is_number()) return bad();
    detection.box[i] = json.at("box").at(i).get<float>();
    if (!std::isfinite(detection.box[i])) return bad();
  }
  if (const auto color = json.find("color"); color != json.end() && color->is_string()) {
    detection.color = color->get<std::string>();
  }
  return detection;
}

}  // namespace

absl::StatusOr<GenevalFolder> ReadGenevalFolder(const std::string& folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    return absl::NotFoundError(absl::StrCat("no such folder: ", folder));
  }
  GenevalFolder read;
  for (const std::string& name : NamesIn(folder)) {
    const fs::path prompt_folder = fs::path(folder) / name;
    if (!fs::is_directory(prompt_folder, error)) continue;
    const fs::path metadata = prompt_folder / "metadata.jsonl";
    if (!fs::exists(metadata, error)) {
      read.left_out.push_back(name);
      continue;
    }
    FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(metadata.string(), kMaxMetadataBytes));
    const size_t end = text.find_last_not_of("\r\n");
    const absl::StatusOr<GenevalPrompt> prompt =
        ParseGenevalPrompt(std::string_view(text).substr(0, end == text.npos ? 0 : end + 1));
    if (!prompt.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(metadata.string(), ": ", prompt.status().message()));
    }
    for (const std::string& sample : NamesIn(prompt_folder / "samples")) {
      if (!sample.ends_with(".png")) continue;
      read.pictures.push_back({absl::StrCat(name, "/samples/", sample), *prompt});
    }
  }
  if (read.pictures.empty()) {
    return absl::NotFoundError(absl::StrCat(
        folder,
        " holds no pictures in GenEval's layout (00000/metadata.jsonl, 00000/samples/*.png)"));
  }
  return read;
}

absl::StatusOr<std::map<std::string, std::vector<Detection>>> ReadDetections(
    const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no JSON object from pictures to detections"));
  }
  std::map<std::string, std::vector<Detection>> by_picture;
  for (const auto& [name, list] : json.items()) {
    const auto in_picture = [&, &name = name](absl::string_view what) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": picture ", ValidUtf8(name, 200), ": ", what));
    };
    if (!list.is_array()) return in_picture("its detections are no list");
    std::vector<Detection>& detections = by_picture[name];
    for (const Json& item : list) {
      absl::StatusOr<Detection> detection = ParseDetection(item);
      if (!detection.ok()) return in_picture(detection.status().message());
      detections.push_back(*std::move(detection));
    }
  }
  return by_picture;
}

std::string GenevalResultLine(const GenevalResult& result) {
  std::vector<std::string> counts;
  for (const auto& [name, count] : result.verdict.counts) {
    counts.push_back(absl::StrCat(PythonJson(name), ": ", count));
  }
  const GenevalPrompt& prompt = result.picture.prompt;
  return absl::StrCat(
      "{\"filename\": ", PythonJson(result.picture.name), ", \"tag\": ", PythonJson(prompt.tag),
      ", \"prompt\": ", PythonJson(prompt.prompt),
      ", \"correct\": ", result.verdict.correct ? "true" : "false",
      ", \"reason\": ", PythonJson(absl::StrJoin(result.verdict.reasons, "\n")),
      ", \"metadata\": ", PythonJson(prompt.metadata),
      ", \"details\": ", PythonJson(absl::StrCat("{", absl::StrJoin(counts, ", "), "}")), "}");
}

GenevalSummary Summarize(std::span<const GenevalResult> results) {
  GenevalSummary summary{.images = std::ssize(results)};
  std::map<std::string, bool> prompts;  // by metadata: whether one picture is correct
  int64_t correct = 0;
  for (const GenevalResult& result : results) {
    const std::string& tag = result.picture.prompt.tag;
    auto task = std::ranges::find(summary.tasks, tag, &GenevalSummary::Task::tag);
    if (task == summary.tasks.end()) task = summary.tasks.insert(task, {.tag = tag});
    ++task->images;
    task->correct += result.verdict.correct ? 1 : 0;
    correct += result.verdict.correct ? 1 : 0;
    prompts[result.picture.prompt.metadata] |= result.verdict.correct;
  }
  summary.prompts = std::ssize(prompts);
  const auto share = [](int64_t part, int64_t whole) {
    return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
  };
  summary.correct_images = share(correct, summary.images);
  summary.correct_prompts =
      share(std::ranges::count_if(prompts, [](const auto& entry) { return entry.second; }),
            summary.prompts);
  for (const GenevalSummary::Task& task : summary.tasks) {
    summary.overall += task.score();
  }
  if (!summary.tasks.empty()) summary.overall /= static_cast<double>(summary.tasks.size());
  return summary;
}

std::string SummaryText(const GenevalSummary& summary) {
  std::string text = absl::StrFormat(
      "Summary\n=======\nTotal images: %d\nTotal prompts: %d\n%% correct images: %.2f%%\n"
      "%% correct prompts: %.2f%%\n\nTask breakdown\n==============\n",
      summary.images, summary.prompts, 100 * summary.correct_images, 100 * summary.correct_prompts);
  for (const GenevalSummary::Task& task : summary.tasks) {
    absl::StrAppendFormat(&text, "%-16s = %.2f%% (%d / %d)\n", task.tag, 100 * task.score(),
                          task.correct, task.images);
  }
  absl::StrAppendFormat(&text, "\nOverall score (avg. over tasks): %.5f\n", summary.overall);
  return text;
}

std::string SummaryJson(const GenevalSummary& summary,
                        const std::map<std::string, std::string>& models) {
  Json tasks = Json::object();
  for (const GenevalSummary::Task& task : summary.tasks) tasks[task.tag] = task.score();
  Json json = {{"images", summary.images},
               {"prompts", summary.prompts},
               {"correct_images", summary.correct_images},
               {"correct_prompts", summary.correct_prompts},
               {"tasks", tasks},
               {"overall", summary.overall}};
  for (const auto& [kind, name] : models) json[kind] = name;
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace fedumm::model
