#include <csignal>
#include <memory>
#include <stop_token>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/fab.h"
#include "fedumm/super_link.h"
#include "programs/commands.h"
#include "programs/federation.h"
#include "programs/program.h"

namespace fedumm::programs {

absl::Status ServeCommand(const ServeArguments& arguments) {
  const SignalStop signals;  // before any thread
  // HTTP only if it is asked for: several fine-tunings of one machine are nothing unusual.
  FEDUMM_ASSIGN_OR_RETURN(SuperLinkOptions options, ToSuperLinkOptions(arguments.server, "off"));
  FEDUMM_ASSIGN_OR_RETURN(const RunConfig config, LoadConfig(arguments));
  RunOptions run{.fab_id = "fedumm/fine-tuning"};
  FEDUMM_ASSIGN_OR_RETURN(run.run_config, SettingsForNodes(config));
  if (!arguments.fab.empty()) {
    absl::StatusOr<Fab> fab = Fab::Load(arguments.fab);
    if (!fab.ok()) {
      return absl::Status(fab.status().code(),
                          absl::StrCat(arguments.fab, ": ", fab.status().message()));
    }
    run.fab = std::make_shared<const Fab>(*std::move(fab));
  }
  const std::string run_dir =
      arguments.run_dir.empty() ? "runs/" + config.Text("name") : arguments.run_dir;
  FEDUMM_RETURN_IF_ERROR(MakeRunDir(run_dir));
  FEDUMM_RETURN_IF_ERROR(StartLog(run_dir + "/superlink.log", arguments.server.verbose));
  RaiseDescriptorLimit();
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Experiment> experiment, Experiment::Create(config));

  options.on_event = PrintLine;
  options.host_apps = true;  // `flwr list` and `flwr stop` see this run
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<SuperLink> link, SuperLink::Start(options));
  const std::stop_callback stop_link(signals.token(), [&] { link->Stop(); });
  std::unique_ptr<KeyFile> keys;
  if (!arguments.server.supernode_keys.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(keys, KeyFile::Follow(*link, arguments.server.supernode_keys));
  }
  if (!arguments.server.port_file.empty()) {
    FEDUMM_RETURN_IF_ERROR(WritePorts(*link, arguments.server.port_file));
  }
  PrintLine(absl::StrCat("SuperLink on ", DescribePorts(*link, options), ", waiting for ",
                         config.Integer("federation.min-available-nodes"), " nodes; results go to ",
                         run_dir));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Grid> grid, link->CreateRun(run));
  FEDUMM_ASSIGN_OR_RETURN(const absl::Status recorded,
                          RunFederation(*experiment, *grid,
                                        {.run_dir = run_dir,
                                         .command = arguments.command,
                                         .evaluate = arguments.evaluate,
                                         .resume = arguments.resume}));
  return recorded;
}

}  // namespace fedumm::programs
