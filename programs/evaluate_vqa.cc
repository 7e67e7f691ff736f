#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/status_macros.h"
#include "fedumm/model/tokenizer.h"
#include "fedumm/model/vqa.h"
#include "fedumm/model/vqa_folder.h"
#include "model/tasks/answering.h"
#include "model/tasks/prompt_format.h"
#include "programs/answer_log.h"
#include "programs/model_commands.h"
#include "programs/model_flags.h"
#include "programs/program.h"
#include "programs/report/format.h"
#include "programs/shard.h"

namespace fedumm::programs {
namespace {

namespace fs = std::filesystem;
using model::VqaQuestion;

// What follows a question, by the name that --prompt takes: nothing, or the sentence of lmms-eval's
// vqav2_test.
struct PromptVariant {
  const char* name;
  const char* instruction;
};
constexpr std::array<PromptVariant, 2> kPrompts = {
    {{"plain", ""}, {"short", "\nAnswer the question using a single word or phrase."}}};

struct NamedScorer {
  const char* name;
  model::VqaScorer scorer;
};
constexpr std::array<NamedScorer, 3> kScorers = {
    {{"official", model::VqaScorer::kOfficial},
     {"lmms", model::VqaScorer::kLmms},
     {"fedumm-legacy", model::VqaScorer::kFedummLegacy}}};

struct Arguments {
  ModelFlags model;
  std::string questions;
  std::string annotations;
  std::string images;
  std::string out;
  std::string prompt = "short";
  std::string processor = "hub";
  bool jpeg_again = false;
  int64_t limit = 0;
  int64_t batch = 16;
  int picture_threads = 2;
  std::string shard = "1/1";
  bool per_question_type = false;
};

// `out` with `part` before its extension: results.json, "short" -> results.short.json.
std::string WithPart(const std::string& out, const std::string& part) {
  if (part.empty()) return out;
  fs::path path(out);
  return path.replace_extension(absl::StrCat(".", part, path.extension().string())).string();
}

std::string WithExtension(const std::string& path, const char* extension) {
  return fs::path(path).replace_extension(extension).string();
}

// What tells one checkpoint from another without reading its weights: its config, and the names and
// sizes of its files.
absl::StatusOr<std::string> ModelId(const std::string& folder) {
  FEDUMM_ASSIGN_OR_RETURN(std::string text, ReadFile(folder + "/config.json"));
  std::vector<std::string> files;
  std::error_code error;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    if (it->path().extension() != ".safetensors") continue;
    std::error_code unknown;
    files.push_back(absl::StrCat(it->path().filename().string(), " ", it->file_size(unknown)));
  }
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) absl::StrAppend(&text, "\n", file);
  return Sha256Hex(text);
}

absl::StatusOr<std::string> AdapterId(const std::string& folder) {
  if (folder.empty()) return std::string("none");
  FEDUMM_ASSIGN_OR_RETURN(std::string text, ReadFile(folder + "/adapter_config.json"));
  FEDUMM_ASSIGN_OR_RETURN(const std::string weights,
                          ReadFile(folder + "/adapter_model.safetensors"));
  return Sha256Hex(absl::StrCat(Sha256Hex(text), Sha256Hex(weights)));
}

// The pixel limits that each published use of the model has.
absl::StatusOr<model::ImageProcessorOptions> ProcessorOf(const std::string& name,
                                                         const model::VisionConfig& vision) {
  FEDUMM_ASSIGN_OR_RETURN(const model::ImageProcessorOptions preset, model::ProcessorPreset(name));
  return model::ProcessorFor(vision, preset);
}

// The questions of this process with the path of each one's picture.
struct Asked {
  std::vector<VqaQuestion> questions;
  std::vector<std::string> pictures;
  int64_t in_all = 0;
};

absl::StatusOr<Asked> ReadQuestions(const Arguments& arguments, const Shard& shard) {
  Asked asked;
  FEDUMM_ASSIGN_OR_RETURN(std::vector<VqaQuestion> all,
                          model::ReadVqaV2(arguments.questions, arguments.annotations));
  FEDUMM_ASSIGN_OR_RETURN(const auto pictures, model::PicturesById(arguments.images));
  asked.in_all = std::ssize(all);
  if (arguments.limit > 0 && arguments.limit < asked.in_all) {
    all.resize(static_cast<size_t>(arguments.limit));
  }
  for (int64_t i = 0; i < std::ssize(all); ++i) {
    if (!shard.Has(i)) continue;
    VqaQuestion& question = all[static_cast<size_t>(i)];
    const auto picture = pictures.find(question.image_id);
    if (picture == pictures.end()) {
      return absl::NotFoundError(absl::StrCat(arguments.images, " has no picture ",
                                              question.image_id, ", which question ",
                                              question.question_id, " is about"));
    }
    asked.pictures.push_back(picture->second);
    asked.questions.push_back(std::move(question));
  }
  if (asked.questions.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(arguments.questions, " leaves no questions"));
  }
  return asked;
}

// How far the answering is: a line that is written over on a terminal, a new one every half minute
// elsewhere.
class Progress {
 public:
  Progress(std::string name, int64_t done, int64_t total)
      : name_(std::move(name)), before_(done), done_(done), total_(total) {}

  void Add(int64_t count) {
    done_ += count;
    const absl::Time now = absl::Now();
    const bool last = done_ >= total_;
    if (!last && now - shown_ < (terminal_ ? absl::Milliseconds(200) : absl::Seconds(30))) return;
    shown_ = now;
    const double seconds = absl::ToDoubleSeconds(now - start_);
    const double rate = static_cast<double>(done_ - before_) / std::max(seconds, 1e-9);
    const absl::Duration left = absl::Seconds(
        static_cast<int64_t>(static_cast<double>(total_ - done_) / std::max(rate, 1e-9)));
    std::printf("%s%s: %s of %s answers, %.1f a second, %s%s", terminal_ ? "\r\033[K" : "",
                name_.c_str(), Thousands(done_).c_str(), Thousands(total_).c_str(), rate,
                last ? "done" : absl::StrCat(absl::FormatDuration(left), " left").c_str(),
                terminal_ && !last ? "" : "\n");
    std::fflush(stdout);
  }

 private:
  const std::string name_;
  const bool terminal_ = isatty(STDOUT_FILENO) != 0;
  const int64_t before_;
  int64_t done_;
  const int64_t total_;
  const absl::Time start_ = absl::Now();
  absl::Time shown_ = start_;
};

// One prompt variant: its log, and what the log still lacks.
struct Variant {
  PromptVariant prompt;
  std::string out;
  AnswerLog log;
  AnswersById of_shards;     // that other processes wrote
  std::vector<size_t> open;  // indices into Asked::questions

  const std::string* AnswerTo(int64_t id) const {
    if (const auto it = log.answers().find(id); it != log.answers().end()) return &it->second;
    const auto it = of_shards.find(id);
    return it == of_shards.end() ? nullptr : &it->second;
  }
};

// Adds the answers in results.<i>-of-<n>.jsonl beside `out`.
absl::Status ReadShards(const std::string& out, const LogHeader& header, AnswersById& answers) {
  const std::string prefix = fs::path(out).stem().string() + ".";
  const fs::path folder = fs::path(out).has_parent_path() ? fs::path(out).parent_path() : ".";
  std::error_code error;
  for (auto it = fs::directory_iterator(folder, error); !error && it != fs::directory_iterator();
       it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with(prefix) || it->path().extension() != ".jsonl") continue;
    const std::string middle = name.substr(
        prefix.size(), name.size() - std::min(name.size(), prefix.size() + sizeof("jsonl")));
    const std::vector<std::string> parts = absl::StrSplit(middle, "-of-");
    int64_t index = 0, count = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &index) ||
        !absl::SimpleAtoi(parts[1], &count)) {
      continue;
    }
    FEDUMM_RETURN_IF_ERROR(AnswerLog::Read(it->path().string(), header, answers));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Variant>> OpenVariants(const Arguments& arguments, const Shard& shard,
                                                  const Asked& asked) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string model_id, ModelId(arguments.model.folder));
  FEDUMM_ASSIGN_OR_RETURN(const std::string adapter_id, AdapterId(arguments.model.adapter));
  FEDUMM_ASSIGN_OR_RETURN(const std::string questions, ReadFile(arguments.questions));
  const std::string questions_id = Sha256Hex(questions);
  std::vector<Variant> variants;
  for (const PromptVariant& prompt : kPrompts) {
    if (arguments.prompt != "both" && arguments.prompt != prompt.name) continue;
    const std::string whole =
        WithPart(arguments.out, arguments.prompt == "both" ? prompt.name : "");
    const bool sharded = shard.count > 1;
    const std::string out =
        sharded ? WithPart(whole, absl::StrCat(shard.number, "-of-", shard.count)) : whole;
    const LogHeader header = {{"model", model_id},
                              {"dtype", arguments.model.dtype},
                              {"adapter", adapter_id},
                              {"questions", questions_id},
                              {"prompt", prompt.name},
                              {"processor", arguments.processor},
                              {"jpeg-again", arguments.jpeg_again ? "yes" : "no"}};
    FEDUMM_ASSIGN_OR_RETURN(AnswerLog log, AnswerLog::Open(WithExtension(out, ".jsonl"), header));
    Variant variant = {.prompt = prompt, .out = out, .log = std::move(log)};
    if (!sharded) FEDUMM_RETURN_IF_ERROR(ReadShards(out, header, variant.of_shards));
    for (size_t i = 0; i < asked.questions.size(); ++i) {
      if (variant.AnswerTo(asked.questions[i].question_id) == nullptr) variant.open.push_back(i);
    }
    variants.push_back(std::move(variant));
  }
  return variants;
}

// Answers what the variant lacks; each batch is in the log before the next one begins.
absl::Status AnswerOpen(const Arguments& arguments, const model::UnifiedModel& model,
                        const Asked& asked, const std::stop_token& stop, Variant& variant) {
  FEDUMM_ASSIGN_OR_RETURN(model::Tokenizer tokenizer,
                          model::Tokenizer::Load(arguments.model.folder));
  FEDUMM_ASSIGN_OR_RETURN(const model::PromptFormat format,
                          model::PromptFormat::Create(std::move(tokenizer), model.config(), "auto",
                                                      variant.prompt.instruction));
  model::AnsweringOptions options = {.jpeg_again = arguments.jpeg_again,
                                     .threads = arguments.picture_threads,
                                     .evaluation_batch = arguments.batch};
  FEDUMM_ASSIGN_OR_RETURN(options.processor,
                          ProcessorOf(arguments.processor, model.config().vision));
  const int64_t total = std::ssize(asked.questions);
  Progress progress(variant.prompt.name, total - std::ssize(variant.open), total);
  const size_t batch = static_cast<size_t>(arguments.batch);
  for (size_t begin = 0; begin < variant.open.size(); begin += batch) {
    if (stop.stop_requested()) {
      return absl::CancelledError("stopped; the same command goes on from here");
    }
    const size_t count = std::min(batch, variant.open.size() - begin);
    std::vector<std::vector<int64_t>> tokens;
    std::vector<model::PictureQuestion> questions;
    std::vector<LoggedAnswer> answered;
    tokens.reserve(count);
    for (size_t n = 0; n < count; ++n) {
      const size_t i = variant.open[begin + n];
      const VqaQuestion& question = asked.questions[i];
      absl::StatusOr<std::vector<int64_t>> ids = format.Question(question.question);
      if (!ids.ok()) {
        return absl::Status(ids.status().code(), absl::StrCat("question ", question.question_id,
                                                              ": ", ids.status().message()));
      }
      tokens.push_back(*std::move(ids));
      questions.push_back({.picture = asked.pictures[i], .question = tokens.back()});
      answered.push_back({.question_id = question.question_id,
                          .prompt = absl::StrCat(question.question, variant.prompt.instruction)});
    }
    FEDUMM_ASSIGN_OR_RETURN(std::vector<std::string> answers,
                            model::AnswerPictures(model, format, options, questions));
    for (size_t n = 0; n < count; ++n) answered[n].answer = std::move(answers[n]);
    FEDUMM_RETURN_IF_ERROR(variant.log.Append(answered));
    progress.Add(static_cast<int64_t>(count));
  }
  return absl::OkStatus();
}

void PrintReport(const std::string& name, const model::VqaReport& report, bool per_question_type) {
  std::printf("  %-14s %6.2f", name.c_str(), report.overall);
  for (const auto& [type, percent] : report.per_answer_type) {
    std::printf("   %s %.2f", type.c_str(), percent);
  }
  std::printf("\n");
  if (!per_question_type) return;
  for (const auto& [type, percent] : report.per_question_type) {
    std::printf("    %6.2f  %s\n", percent, type.c_str());
  }
}

// Writes the results file and, if the answers are known, the figures of all scorers beside it.
absl::Status Finish(const Arguments& arguments, const Asked& asked, const Variant& variant) {
  std::vector<model::VqaResult> results;
  for (const VqaQuestion& question : asked.questions) {
    const std::string* const answer = variant.AnswerTo(question.question_id);
    if (answer == nullptr) return absl::InternalError("a question was left out");
    results.push_back({.question_id = question.question_id, .answer = *answer});
  }
  FEDUMM_RETURN_IF_ERROR(model::WriteVqaResults(variant.out, results));
  std::printf("%s: wrote %s answers to %s\n", variant.prompt.name,
              Thousands(std::ssize(results)).c_str(), variant.out.c_str());
  if (arguments.annotations.empty()) return absl::OkStatus();
  nlohmann::json scores = {{"prompt", variant.prompt.name},
                           {"questions", results.size()},
                           {"questions_in_file", asked.in_all}};
  std::printf("%s: accuracy in %%, of %s questions%s\n", variant.prompt.name,
              Thousands(std::ssize(results)).c_str(),
              std::ssize(results) < asked.in_all
                  ? absl::StrCat(" (the file has ", Thousands(asked.in_all), ")").c_str()
                  : "");
  for (const NamedScorer& named : kScorers) {
    FEDUMM_ASSIGN_OR_RETURN(const model::VqaReport report,
                            model::ScoreVqa(asked.questions, results, named.scorer));
    PrintReport(named.name, report,
                arguments.per_question_type && named.scorer == model::VqaScorer::kOfficial);
    scores["accuracy"][named.name] = {{"overall", report.overall},
                                      {"per_answer_type", report.per_answer_type},
                                      {"per_question_type", report.per_question_type}};
  }
  return WriteFileAtomically(WithExtension(variant.out, ".scores.json"), scores.dump(1) + "\n");
}

absl::Status Evaluate(const Arguments& arguments) {
  FEDUMM_ASSIGN_OR_RETURN(const Shard shard, ParseShard(arguments.shard));
  if (fs::path(arguments.out).extension() == ".jsonl") {
    return absl::InvalidArgumentError(
        absl::StrCat("-o must not end in .jsonl, which is the log's: ", arguments.out));
  }
  const SignalStop stop;
  FEDUMM_ASSIGN_OR_RETURN(const Asked asked, ReadQuestions(arguments, shard));
  FEDUMM_ASSIGN_OR_RETURN(std::vector<Variant> variants, OpenVariants(arguments, shard, asked));
  const bool any = std::any_of(variants.begin(), variants.end(),
                               [](const Variant& variant) { return !variant.open.empty(); });
  if (any) {
    FEDUMM_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(arguments.model, stop.token()));
    for (Variant& variant : variants) {
      FEDUMM_RETURN_IF_ERROR(AnswerOpen(arguments, *opened.model, asked, stop.token(), variant));
    }
  }
  for (const Variant& variant : variants) {
    FEDUMM_RETURN_IF_ERROR(Finish(arguments, asked, variant));
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvaluateVqa(CLI::App& evaluate, Command& command) {
  CLI::App* vqa = evaluate.add_subcommand("vqa",
                                          "Answer the questions of VQA v2 and judge the answers. "
                                          "Goes on where an earlier call with the "
                                          "same -o was stopped");
  const auto arguments = std::make_shared<Arguments>();
  AddModelFlags(*vqa, arguments->model);
  vqa->add_option("--questions", arguments->questions, "v2_OpenEnded_mscoco_*_questions.json")
      ->required()
      ->check(CLI::ExistingFile);
  vqa->add_option("--annotations", arguments->annotations,
                  "v2_mscoco_*_annotations.json; without it the answers are not judged")
      ->check(CLI::ExistingFile);
  vqa->add_option("--images", arguments->images,
                  "Folder of the pictures; a picture's name ends in its image_id")
      ->required()
      ->check(CLI::ExistingDirectory);
  vqa->add_option("--prompt", arguments->prompt,
                  "plain: the question; short: and 'Answer the question using a single word or "
                  "phrase.'; both: one after the other, in RESULTS.plain and RESULTS.short")
      ->check(CLI::IsMember({"plain", "short", "both"}))
      ->capture_default_str();
  vqa->add_option("--processor", arguments->processor,
                  "Pixel limits of a picture: hub (3136 to 12845056), lmms (200704 to 1605632) or "
                  "blip3o-train (the middle 448x448)")
      ->check(CLI::IsMember(model::ProcessorPresets()))
      ->capture_default_str();
  vqa->add_flag("--jpeg-again", arguments->jpeg_again,
                "Write each picture as JPEG of quality 75 and read that, as lmms-eval does");
  vqa->add_option("--limit", arguments->limit, "Only the first N questions; 0: all")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  vqa->add_option("--batch", arguments->batch, "Questions in one batch")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  vqa->add_option("--picture-threads", arguments->picture_threads,
                  "Threads that decode and resize pictures")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  vqa->add_option("--shard", arguments->shard,
                  "i/n: only the i-th of n equal parts, from 1/n; then the same command without "
                  "--shard puts the parts together")
      ->capture_default_str();
  vqa->add_flag("--per-question-type", arguments->per_question_type,
                "Print the official accuracy for each question type, too");
  vqa->add_option("-o,--out", arguments->out,
                  "The results file; the raw answers go to the same name with .jsonl, the figures "
                  "to .scores.json")
      ->required();
  vqa->callback([&command, arguments] { command = [arguments] { return Evaluate(*arguments); }; });
}

}  // namespace fedumm::programs
