// fedumm-supernode: one client of a federated fine-tuning. Its data stays here; only adapters are
// sent.
#include <exception>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/super_node.h"
#include "programs/node_app.h"
#include "programs/node_flags.h"
#include "programs/program.h"
#include "programs/threads.h"

namespace fedumm::programs {
namespace {

struct Arguments {
  NodeFlags node;
  std::string config;
  std::string data;
  std::string checkpoint;
  bool verbose = false;
};

absl::Status Serve(Arguments arguments, const std::stop_token& stop) {
  FEDUMM_RETURN_IF_ERROR(StartLog("", arguments.verbose));
  RaiseDescriptorLimit();
  FEDUMM_ASSIGN_OR_RETURN(SuperNodeOptions options, ToSuperNodeOptions(arguments.node));
  FEDUMM_RETURN_IF_ERROR(CheckNodeConfig(options.node_config, PrintLine));
  // Where files lie is this node's own decision.
  ConfigRecord local;
  if (!arguments.config.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, RunConfig::Load(arguments.config));
    local = LocalSettings(config);
  }
  if (!arguments.data.empty()) local.Set("data.folder", arguments.data);
  if (!arguments.checkpoint.empty()) local.Set("model.checkpoint", arguments.checkpoint);
  NodeApp app(std::move(local), PrintLine);
  options.on_event = PrintLine;
  return RunSuperNode(app.AsClientApp(), std::move(options), stop);
}

}  // namespace
}  // namespace fedumm::programs

namespace {

int Main(int argc, char** argv) {
  using namespace fedumm::programs;
  Arguments arguments;
  CLI::App app("Join a federated fine-tuning as one client. Sends adapters, never data.",
               "fedumm-supernode");
  AddNodeFlags(app, arguments.node);
  app.add_option("--config", arguments.config,
                 "Settings (TOML) of which this node takes those that name files, such as "
                 "data.folder; the others are the server's")
      ->check(CLI::ExistingFile);
  app.add_option("--data", arguments.data,
                 "Folder with this node's data (default: where the kind of world expects it)")
      ->check(CLI::ExistingDirectory);
  app.add_option(
         "--checkpoint", arguments.checkpoint,
         "Folder of the frozen model here (default: configs/tiny); the server cannot name one")
      ->check(CLI::ExistingDirectory);
  app.add_flag("-v,--verbose", arguments.verbose, "Log everything");
  if (const int code = ParseArguments(app, argc, argv); code >= 0) return code;
  const SignalStop signals;
  UseOneThread();
  const absl::Status status = Serve(std::move(arguments), signals.token());
  if (!status.ok()) return Fail("fedumm-supernode", status);
  return kExitOk;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {  // out of memory, say
    return fedumm::programs::Fail("fedumm-supernode", absl::InternalError(error.what()));
  }
}
