#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/model/geneval.h"
#include "fedumm/model/geneval_models.h"
#include "fedumm/model/image.h"
#include "programs/model_commands.h"
#include "programs/program.h"

namespace fedumm::programs {
namespace {

struct GenevalFlags {
  std::string folder;
  std::string detections;
  std::string detector;
  std::string colors;
  std::string out;
};

// Detections by picture, or the models that find them.
struct Judges {
  std::string detections_file;
  std::map<std::string, std::vector<model::Detection>> detections;
  std::unique_ptr<model::GenevalModels> models;
};

absl::StatusOr<model::GenevalVerdict> Judge(Judges& judges, const std::string& folder,
                                            const model::GenevalPicture& picture) {
  if (judges.models != nullptr) {
    const std::string path = absl::StrCat(folder, "/", picture.name);
    // As the official script, which turns a picture as its EXIF orientation says.
    FEDUMM_ASSIGN_OR_RETURN(const model::Image image,
                            model::ReadImage(path, {.apply_exif_orientation = true}));
    absl::StatusOr<model::GenevalVerdict> verdict = judges.models->Judge(picture.prompt, image);
    if (verdict.ok()) return verdict;
    return absl::Status(verdict.status().code(),
                        absl::StrCat(path, ": ", verdict.status().message()));
  }
  const auto found = judges.detections.find(picture.name);
  if (found == judges.detections.end()) {
    return absl::InvalidArgumentError(absl::StrCat(judges.detections_file,
                                                   " has no entry for the picture ", picture.name,
                                                   "; an empty list says that nothing was found"));
  }
  return model::JudgePicture(picture.prompt, found->second);
}

absl::Status EvaluateGeneval(const GenevalFlags& flags) {
  FEDUMM_ASSIGN_OR_RETURN(const model::GenevalFolder folder,
                          model::ReadGenevalFolder(flags.folder));
  for (const std::string& name : folder.left_out) {
    std::fprintf(stderr, "fedumm: %s/%s has no metadata.jsonl: left out\n", flags.folder.c_str(),
                 name.c_str());
  }
  if (flags.detections.empty() == flags.detector.empty()) {
    return absl::InvalidArgumentError(
        "give either --detections FILE, or --detector FILE with --colors FILE");
  }
  Judges judges{.detections_file = flags.detections};
  std::map<std::string, std::string> models;
  if (flags.detector.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(judges.detections, model::ReadDetections(flags.detections));
  } else {
    FEDUMM_ASSIGN_OR_RETURN(judges.models,
                            model::GenevalModels::Load(flags.detector, flags.colors));
    models = {{"detector", judges.models->detector_name()},
              {"colors", judges.models->colors_name()}};
  }
  std::vector<model::GenevalResult> results;
  std::string lines;
  for (const model::GenevalPicture& picture : folder.pictures) {
    FEDUMM_ASSIGN_OR_RETURN(model::GenevalVerdict verdict, Judge(judges, flags.folder, picture));
    results.push_back({picture, std::move(verdict)});
    absl::StrAppend(&lines, model::GenevalResultLine(results.back()), "\n");
  }
  const model::GenevalSummary summary = model::Summarize(results);
  FEDUMM_RETURN_IF_ERROR(WriteFileAtomically(flags.out + ".jsonl", lines));
  FEDUMM_RETURN_IF_ERROR(
      WriteFileAtomically(flags.out + "-summary.json", model::SummaryJson(summary, models)));
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
      ->check(CLI::ExistingFile);
  geneval
      ->add_option("--detector", flags->detector,
                   "Instead: an object detector as TorchScript (scripts/export_geneval_models.py); "
                   "the file is a program, so take it from nobody you do not trust")
      ->check(CLI::ExistingFile);
  geneval
      ->add_option("--colors", flags->colors,
                   "With --detector: a colour classifier as TorchScript, by the same script")
      ->check(CLI::ExistingFile);
  geneval->add_option("-o,--out", flags->out,
                      "Results go to OUT.jsonl and OUT-summary.json (default: FOLDER/results)");
  geneval->callback([flags, &command] {
    if (flags->out.empty()) flags->out = flags->folder + "/results";
    command = [flags] { return EvaluateGeneval(*flags); };
  });
}

}  // namespace fedumm::programs
