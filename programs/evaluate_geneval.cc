#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/geneval.h"
#include "programs/model_commands.h"
#include "programs/program.h"

namespace fedumm::programs {
namespace {

struct GenevalFlags {
  std::string folder;
  std::string detections;
  std::string out;
};

absl::Status EvaluateGeneval(const GenevalFlags& flags) {
  FEDUMM_ASSIGN_OR_RETURN(const model::GenevalFolder folder,
                          model::ReadGenevalFolder(flags.folder));
  for (const std::string& name : folder.left_out) {
    std::fprintf(stderr, "fedumm: %s/%s has no metadata.jsonl: left out\n", flags.folder.c_str(),
                 name.c_str());
  }
  FEDUMM_ASSIGN_OR_RETURN(const auto detections, model::ReadDetections(flags.detections));
  std::vector<model::GenevalResult> results;
  std::string lines;
  for (const model::GenevalPicture& picture : folder.pictures) {
    const auto found = detections.find(picture.name);
    if (found == detections.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(flags.detections, " has no entry for the picture ", picture.name,
                       "; an empty list says that nothing was found"));
    }
    FEDUMM_ASSIGN_OR_RETURN(model::GenevalVerdict verdict,
                            model::JudgePicture(picture.prompt, found->second));
    results.push_back({picture, std::move(verdict)});
    absl::StrAppend(&lines, model::GenevalResultLine(results.back()), "\n");
  }
  const model::GenevalSummary summary = model::Summarize(results);
  FEDUMM_RETURN_IF_ERROR(WriteFileAtomically(flags.out + ".jsonl", lines));
  FEDUMM_RETURN_IF_ERROR(
      WriteFileAtomically(flags.out + "-summary.json", model::SummaryJson(summary)));
  std::printf("%s", model::SummaryText(summary).c_str());
  return absl::OkStatus();
}

}  // namespace

void AddEvaluateGeneval(CLI::App& evaluate, Command& command) {
  const auto flags = std::make_shared<GenevalFlags>();
  CLI::App* geneval = evaluate.add_subcommand(
      "geneval", "Judge drawn pictures by GenEval, from what an object detector found in them");
  geneval
      ->add_option("folder", flags->folder,
                   "Pictures in the official layout (fedumm draw --geneval)")
      ->required()
      ->check(CLI::ExistingDirectory);
  geneval
      ->add_option("--detections", flags->detections,
                   "JSON: picture -> [{class, box, score, color}], as fedumm's README describes")
      ->required()
      ->check(CLI::ExistingFile);
  geneval->add_option("-o,--out", flags->out,
                      "Results go to OUT.jsonl and OUT-summary.json (default: FOLDER/results)");
  geneval->callback([flags, &command] {
    if (flags->out.empty()) flags->out = flags->folder + "/results";
    command = [flags] { return EvaluateGeneval(*flags); };
  });
}

}  // namespace fedumm::programs
