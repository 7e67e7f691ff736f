#include "programs/draw_geneval.h"

#include <algorithm>
#include <filesystem>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "model/eval/geneval_prompts.h"
#include "nlohmann/json.hpp"
#include "programs/program.h"

namespace fedumm::programs {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxPromptsBytes = int64_t{64} << 20;
constexpr int64_t kGridPadding = 2;

struct GenevalPrompt {
  std::string line;  // the whole JSON object
  std::string text;
};

absl::StatusOr<std::vector<GenevalPrompt>> ParsePrompts(const std::string& lines,
                                                        const std::string& where) {
  std::vector<GenevalPrompt> prompts;
  int64_t number = 0;
  for (const std::string& raw : std::vector<std::string>(absl::StrSplit(lines, '\n'))) {
    ++number;
    const std::string line(absl::StripAsciiWhitespace(raw));
    if (line.empty()) continue;
    const nlohmann::json object = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!object.is_object() || !object.contains("prompt") || !object.at("prompt").is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(where, " line ", number, " is no JSON object with a prompt"));
    }
    prompts.push_back({line, object.at("prompt").get<std::string>()});
  }
  if (prompts.empty()) return absl::InvalidArgumentError(absl::StrCat(where, " has no prompts"));
  return prompts;
}

absl::StatusOr<std::vector<GenevalPrompt>> ReadPrompts(const std::string& file) {
  if (file.empty()) return ParsePrompts(std::string(model::GenevalPrompts()), "GenEval's prompts");
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(file, kMaxPromptsBytes));
  return ParsePrompts(text, file);
}

// The pictures one below the other on black, two pixels around each, as GenEval's script leaves
// them: torchvision's grid with one picture a row, which takes a single picture as it is. A level
// goes through [0, 1] and is cut to 8 bits on the way back, as there.
model::Image Grid(const std::vector<model::Image>& pictures) {
  const int64_t width = pictures[0].width;
  const int64_t height = pictures[0].height;
  const int64_t padding = pictures.size() == 1 ? 0 : kGridPadding;
  model::Image grid{.width = width + 2 * padding,
                    .height = (height + padding) * static_cast<int64_t>(pictures.size()) + padding,
                    .pixels = {}};
  grid.pixels.assign(static_cast<size_t>(3 * grid.width * grid.height), 0);
  int64_t top = padding;
  for (const model::Image& picture : pictures) {
    for (int64_t y = 0; y < height; ++y) {
      const auto row = picture.pixels.begin() + 3 * y * width;
      std::transform(row, row + 3 * width,
                     grid.pixels.begin() + 3 * ((top + y) * grid.width + padding),
                     [](uint8_t level) {
                       return static_cast<uint8_t>(static_cast<float>(level) / 255.0f * 255.0f);
                     });
    }
    top += height + padding;
  }
  return grid;
}

bool IsThere(const std::string& path) {
  std::error_code error;
  return fs::exists(path, error);
}

absl::Status DrawPrompt(model::Painter& painter, const model::DrawOptions& options,
                        const GenevalRequest& request, const GenevalPrompt& prompt,
                        const std::string& folder) {
  const std::string metadata = folder + "/metadata.jsonl";
  if (IsThere(metadata)) {
    FEDUMM_ASSIGN_OR_RETURN(const std::string there, ReadFile(metadata, kMaxPromptsBytes));
    if (there != prompt.line) {
      return absl::FailedPreconditionError(absl::StrCat(
          metadata,
          " is of another prompt; name an empty folder, or the --prompts it was made of"));
    }
  }
  FEDUMM_RETURN_IF_ERROR(MakeRunDir(folder + "/samples"));
  FEDUMM_RETURN_IF_ERROR(WriteFileAtomically(metadata, prompt.line));
  std::vector<model::Image> pictures;
  painter.Seed(request.seed);
  for (int64_t i = 0; i < request.samples; ++i) {
    const std::string path = absl::StrFormat("%s/samples/%05d.png", folder, i);
    if (IsThere(path)) {
      FEDUMM_RETURN_IF_ERROR(painter.Skip(options));
      FEDUMM_ASSIGN_OR_RETURN(model::Image picture, model::ReadPng(path));
      pictures.push_back(std::move(picture));
    } else {
      FEDUMM_ASSIGN_OR_RETURN(model::Image picture, painter.Draw(prompt.text, options));
      FEDUMM_RETURN_IF_ERROR(model::WritePng(path, picture));
      pictures.push_back(std::move(picture));
    }
    if (pictures.back().width != pictures[0].width ||
        pictures.back().height != pictures[0].height) {
      return absl::FailedPreconditionError(
          absl::StrCat(path, " has another size than the pictures beside it"));
    }
  }
  return model::WritePng(folder + "/grid.png", Grid(pictures));
}

}  // namespace

absl::Status DrawGeneval(model::Painter& painter, const model::DrawOptions& options,
                         const GenevalRequest& request,
                         const std::function<void(const std::string&)>& tell) {
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<GenevalPrompt> prompts,
                          ReadPrompts(request.prompts_file));
  bool negative_is_there = false;
  for (int64_t i = 0; i < std::ssize(prompts); ++i) {
    if (!request.shard.Has(i)) continue;
    const std::string folder = absl::StrFormat("%s/%05d", request.folder, i);
    if (IsThere(folder + "/grid.png")) continue;
    // The first prompt's first picture draws the negative condition between its own noises; every
    // other prompt finds it there, whoever draws it.
    if (i == 0) {
      painter.ForgetNegative();
    } else if (!negative_is_there && options.guidance != 1.0) {
      FEDUMM_RETURN_IF_ERROR(painter.PrepareNegative(request.seed, options));
    }
    negative_is_there = true;
    const GenevalPrompt& prompt = prompts[static_cast<size_t>(i)];
    FEDUMM_RETURN_IF_ERROR(DrawPrompt(painter, options, request, prompt, folder));
    tell(absl::StrFormat("%05d of %d: %s", i, std::ssize(prompts), prompt.text));
  }
  return absl::OkStatus();
}

}  // namespace fedumm::programs
