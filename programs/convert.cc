#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "programs/model_commands.h"
#include "programs/model_flags.h"

namespace fedumm::programs {
namespace {

struct ConvertFlags {
  ModelFlags model;
  std::string names;
  std::string out;
};

constexpr char kPublished[] = "published";
constexpr char kTransformers5[] = "transformers-5";

absl::Status Convert(const ConvertFlags& flags) {
  if (flags.model.adapter.empty()) {
    return absl::InvalidArgumentError("--adapter must name the adapter to convert");
  }
  std::error_code error;
  if (std::filesystem::exists(flags.out, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.out, " exists already: choose another folder, or remove it"));
  }
  FEDUMM_ASSIGN_OR_RETURN(const OpenedModel opened, OpenModel(flags.model));
  FEDUMM_RETURN_IF_ERROR(opened.adapter->Save(flags.out, flags.names == kTransformers5
                                                             ? model::ModuleLayout::kTransformers5
                                                             : model::ModuleLayout::kFile));
  std::printf(
      "%s holds the adapter under the names of %s\n", flags.out.c_str(),
      flags.names == kTransformers5 ? "transformers 4.52 and newer" : "the published checkpoint");
  return absl::OkStatus();
}

}  // namespace

void AddConvert(CLI::App& app, Command& command) {
  const auto flags = std::make_shared<ConvertFlags>();
  CLI::App* convert = app.add_subcommand(
      "convert", "Write an adapter under the module names that another transformers reads");
  AddModelFlags(*convert, flags->model);
  convert
      ->add_option("--names", flags->names,
                   "published: of the checkpoint's files, for BLIP-3o and transformers up to 4.51; "
                   "transformers-5: for transformers from 4.52 on")
      ->required()
      ->check(CLI::IsMember({kPublished, kTransformers5}));
  convert->add_option("-o,--out", flags->out, "The new folder; it must not exist")->required();
  convert->callback([flags, &command] { command = [flags] { return Convert(*flags); }; });
}

}  // namespace fedumm::programs
