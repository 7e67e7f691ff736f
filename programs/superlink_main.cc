// fedumm-superlink: the server of a federated fine-tuning and its strategy.
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fedumm/super_link.h"
#include "programs/federation.h"
#include "programs/program.h"
#include "programs/threads.h"

namespace fedumm::programs {
namespace {

struct Arguments {
  std::string config;
  std::string address = "127.0.0.1:9092";
  std::string data = DefaultDataFolder();
  std::string run_dir;
  std::string port_file;
  std::string command;
  bool insecure = false;
  bool resume = false;
  bool no_evaluate = false;
  bool verbose = false;
};

absl::Status Serve(const Arguments& arguments, const std::stop_token& stop) {
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, RunConfig::Load(arguments.config));
  const std::string run_dir =
      arguments.run_dir.empty() ? "runs/" + config.Text("name") : arguments.run_dir;
  FEDUMM_RETURN_IF_ERROR(MakeRunDir(run_dir));
  FEDUMM_RETURN_IF_ERROR(StartLog(run_dir + "/superlink.log", arguments.verbose));
  FEDUMM_ASSIGN_OR_RETURN(const model::EasyVqa data,
                          model::EasyVqa::Load(arguments.data, config.Flag("data.negated")));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment,
                          Experiment::Create(config, data));

  FEDUMM_ASSIGN_OR_RETURN(
      const std::unique_ptr<SuperLink> link,
      SuperLink::Start({.fleet_api_address = arguments.address, .insecure = arguments.insecure}));
  const std::stop_callback stop_link(stop, [&] { link->Stop(); });
  if (!arguments.port_file.empty()) {
    FEDUMM_RETURN_IF_ERROR(
        WriteFileAtomically(arguments.port_file, absl::StrCat(link->fleet_port(), "\n")));
  }
  std::printf(
      "SuperLink on port %d, waiting for %lld nodes; results go to %s\n", link->fleet_port(),
      static_cast<long long>(config.Integer("federation.min-available-nodes")), run_dir.c_str());
  std::fflush(stdout);
  FEDUMM_ASSIGN_OR_RETURN(
      const std::unique_ptr<Grid> grid,
      link->CreateRun({.fab_id = "fedumm/fine-tuning", .run_config = config.values}));
  return RunFederation(*experiment, *grid,
                       {.run_dir = run_dir,
                        .command = arguments.command,
                        .evaluate = !arguments.no_evaluate,
                        .resume = arguments.resume})
      .status();
}

}  // namespace
}  // namespace fedumm::programs

namespace {

int Main(int argc, char** argv) {
  using namespace fedumm::programs;
  Arguments arguments;
  CLI::App app(
      "Serve one federated fine-tuning to Flower SuperNodes over gRPC, and run its strategy.",
      "fedumm-superlink");
  app.add_option("--config", arguments.config, "Settings of the run (TOML)")
      ->required()
      ->check(CLI::ExistingFile);
  app.add_flag(
      "--insecure", arguments.insecure,
      "Serve in plaintext. There is no TLS yet, so this is required: use a trusted network");
  app.add_option("--fleet-api-address", arguments.address,
                 "HOST:PORT for SuperNodes; port 0 takes a free one")
      ->capture_default_str();
  app.add_option("--data", arguments.data, "Data folder of easy-VQA, for held-out evaluation")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--run-dir", arguments.run_dir, "Where results go (default: runs/<name>)");
  app.add_option("--port-file", arguments.port_file, "Write the port here once nodes can connect");
  app.add_flag("--resume", arguments.resume, "Go on after the last whole round in the run folder");
  app.add_flag("--no-evaluate", arguments.no_evaluate, "Leave out evaluation by the server");
  app.add_flag("-v,--verbose", arguments.verbose, "Log everything to the terminal too");
  if (const int code = ParseArguments(app, argc, argv); code >= 0) return code;
  if (!arguments.insecure) {
    return Fail("fedumm-superlink",
                absl::InvalidArgumentError("TLS is not built yet: pass --insecure to serve in "
                                           "plaintext on a network that you trust"));
  }
  arguments.command = CommandLine(argc, argv);
  const SignalStop signals;
  UseOneThread();
  const absl::Status status = Serve(arguments, signals.token());
  return status.ok() ? kExitOk : Fail("fedumm-superlink", status);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {  // out of memory, say
    return fedumm::programs::Fail("fedumm-superlink", absl::InternalError(error.what()));
  }
}
