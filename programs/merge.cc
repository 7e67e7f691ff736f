#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "programs/model_commands.h"
#include "programs/model_flags.h"
#include "programs/program.h"

namespace fedumm::programs {
namespace {

namespace fs = std::filesystem;

struct MergeFlags {
  ModelFlags model;
  std::string out;
  int64_t shard_mb = 4000;
};

// Everything of the folder but its weights: configs, tokenizer, the pixel decoder.
absl::Status CopyTheRest(const fs::path& from, const fs::path& to) {
  std::error_code error;
  for (fs::directory_iterator it(from, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")) continue;
    fs::copy(it->path(), to / name, fs::copy_options::recursive, error);
    if (error) break;
  }
  if (!error) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("cannot copy ", from.string(), " to ", to.string(), ": ", error.message()));
}

absl::Status Merge(const MergeFlags& flags) {
  const SignalStop stop;
  if (flags.model.adapter.empty()) {
    return absl::InvalidArgumentError("--adapter must name the adapter to merge");
  }
  std::error_code error;
  if (fs::exists(flags.out, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.out, " exists already: choose another folder, or remove it"));
  }
  FEDUMM_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(flags.model, stop.token()));
  FEDUMM_RETURN_IF_ERROR(opened.adapter->Merge());
  model::StateDict state;
  for (const auto& [name, tensor] : opened.model->Parameters()) state[name] = *tensor;

  // Under another name until it is whole.
  const std::string unfinished = flags.out + ".unfinished";
  fs::remove_all(unfinished, error);
  absl::Cleanup remove_unfinished = [&] { fs::remove_all(unfinished, error); };
  fs::create_directories(unfinished, error);
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat("cannot make the folder ", unfinished, ": ", error.message()));
  }
  FEDUMM_RETURN_IF_ERROR(CopyTheRest(flags.model.folder, unfinished));
  FEDUMM_RETURN_IF_ERROR(model::SaveStateDict(state, unfinished, flags.shard_mb * 1'000'000));
  if (stop.token().stop_requested()) return absl::CancelledError("stopped: nothing was written");
  fs::rename(unfinished, flags.out, error);
  if (error) {
    return absl::InternalError(absl::StrCat("cannot rename ", unfinished, ": ", error.message()));
  }
  std::move(remove_unfinished).Cancel();
  std::printf("%s holds the merged checkpoint: %zu tensors\n", flags.out.c_str(), state.size());
  return absl::OkStatus();
}

}  // namespace

void AddMerge(CLI::App& app, Command& command) {
  const auto flags = std::make_shared<MergeFlags>();
  CLI::App* merge = app.add_subcommand(
      "merge", "Write a checkpoint folder with an adapter merged into its weights");
  AddModelFlags(*merge, flags->model);
  merge->add_option("-o,--out", flags->out, "The new folder; it must not exist")->required();
  merge->add_option("--shard-mb", flags->shard_mb, "Megabytes of a file of weights, at most")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  merge->callback([flags, &command] { command = [flags] { return Merge(*flags); }; });
}

}  // namespace fedumm::programs
