// fedumm: everything around a federation that is done on one machine.
#include <cstdio>
#include <exception>
#include <functional>
#include <string>

#include "programs/commands.h"
#include "programs/model_commands.h"
#include "programs/program.h"
#include "programs/threads.h"

namespace {

int Main(int argc, char** argv) {
  using namespace fedumm::programs;
  CLI::App app(
      "Federated fine-tuning of unified multimodal models: pre-train, simulate, serve, compare, "
      "evaluate, draw, inspect.",
      "fedumm");
  app.require_subcommand(0, 1);  // an unknown flag is then named; none at all is noticed below
  Command command;
  std::string data;
  bool verbose = false;
  const auto with_data = [&](CLI::App* subcommand) {
    subcommand
        ->add_option("--data", data, "Folder with the data (default: data.folder of the settings)")
        ->check(CLI::ExistingDirectory);
  };
  const auto with_verbose = [&](CLI::App* subcommand) {
    subcommand->add_flag("-v,--verbose", verbose, "Log everything to the terminal");
  };
  const auto with_config = [&](CLI::App* subcommand, CommonArguments& arguments) {
    subcommand->add_option("config", arguments.config, "Settings of the run (TOML)")
        ->check(CLI::ExistingFile)
        ->capture_default_str();
    with_data(subcommand);
  };

  PretrainArguments pretrain_arguments;
  CLI::App* pretrain = app.add_subcommand(
      "pretrain", "Train the frozen model of a folder from scratch and write its weights there");
  pretrain
      ->add_option("folder", pretrain_arguments.folder,
                   "Folder with config.json, tokenizer.json and pretrain.toml")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  pretrain->add_option("--world", pretrain_arguments.world,
                       "The kind of world that the model is for (default: the first one)");
  pretrain->callback([&] { command = [&] { return PretrainCommand(pretrain_arguments); }; });

  SimulateArguments simulate_arguments;
  CLI::App* simulate =
      app.add_subcommand("simulate", "Run a whole federation in this process, on virtual nodes");
  with_config(simulate, simulate_arguments);
  simulate->add_option("--run-dir", simulate_arguments.run_dir,
                       "Where results go (default: runs/<name>)");
  simulate->add_flag("--resume", simulate_arguments.resume,
                     "Go on after the last whole round in the run folder");
  simulate->add_flag("!--no-evaluate", simulate_arguments.evaluate,
                     "Leave out evaluation on held-out examples");
  simulate->add_flag("--compare", simulate_arguments.compare,
                     "Then train each client alone and all together, and write the report");
  with_verbose(simulate);
  simulate->callback([&] { command = [&] { return SimulateCommand(simulate_arguments); }; });

  ServeArguments serve_arguments;
  CLI::App* serve = app.add_subcommand(
      "serve",
      "Serve a federated fine-tuning to SuperNodes of other processes, and run its "
      "strategy (also: fedumm-superlink --config)");
  serve->add_option("--config", serve_arguments.config, "Settings of the run (TOML)")
      ->required()
      ->check(CLI::ExistingFile);
  serve
      ->add_option("--data", data,
                   "Folder with the data, for held-out evaluation (default: data.folder of the "
                   "settings)")
      ->check(CLI::ExistingDirectory);
  serve->add_option("--fab", serve_arguments.fab, "App bundle (flwr build) for Python SuperNodes")
      ->check(CLI::ExistingFile);
  serve->add_option("--run-dir", serve_arguments.run_dir,
                    "Where results go (default: runs/<name>)");
  serve->add_flag("--resume", serve_arguments.resume,
                  "Go on after the last whole round in the run folder");
  serve->add_flag("!--no-evaluate", serve_arguments.evaluate, "Leave out evaluation by the server");
  AddServerFlags(*serve, serve_arguments.server);
  serve->callback([&] { command = [&] { return ServeCommand(serve_arguments); }; });

  CompareArguments compare_arguments;
  CLI::App* compare = app.add_subcommand(
      "compare",
      "Put a finished run beside clients alone and centralized training; write its report");
  with_config(compare, compare_arguments);
  compare->add_option("--run-dir", compare_arguments.run_dir, "Folder of the run")
      ->required()
      ->check(CLI::ExistingDirectory);
  compare->add_option("--jobs", compare_arguments.jobs, "Trainings side by side")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  compare->add_option("--started", compare_arguments.started,
                      "Unix time from which the report counts its seconds");
  with_verbose(compare);
  compare->callback([&] { command = [&] { return CompareCommand(compare_arguments); }; });

  EvaluateArguments evaluate_arguments;
  CLI::App* evaluate =
      app.add_subcommand("evaluate", "Held-out figures of the frozen model, or with an adapter");
  with_config(evaluate, evaluate_arguments);
  evaluate->add_option("--adapter", evaluate_arguments.adapter, "Adapter folder in PEFT's format")
      ->check(CLI::ExistingDirectory);
  evaluate->callback([&] {
    if (evaluate->get_subcommands().empty()) {
      command = [&] { return EvaluateCommand(evaluate_arguments); };
    }
  });

  AddEvaluateVqa(*evaluate, command);
  AddEvaluateGeneval(*evaluate, command);
  AddAnswer(app, command);
  AddDraw(app, command);
  AddEncode(app, command);
  AddMerge(app, command);
  AddConvert(app, command);

  SettingsArguments settings_arguments;
  CLI::App* settings = app.add_subcommand(
      "settings", "Print every setting of a run as a commented TOML file, or the value of one");
  CLI::Option* settings_config =
      settings
          ->add_option("--config", settings_arguments.config,
                       "With the values of this file (default: the defaults)")
          ->check(CLI::ExistingFile);
  settings->add_option("--world", settings_arguments.world, "The defaults of a world of this kind")
      ->excludes(settings_config);
  settings->add_option("--get", settings_arguments.get,
                       "Print the value of one setting only, e.g. federation.rounds");
  settings->callback([&] { command = [&] { return SettingsCommand(settings_arguments); }; });

  std::string path;
  bool check = false;
  CLI::App* inspect = app.add_subcommand(
      "inspect", "Say what an adapter, a checkpoint, an array or an object of a message holds");
  inspect->add_option("path", path, "File or folder")->required()->check(CLI::ExistingPath);
  inspect->add_flag("--check", check,
                    "Of a checkpoint: read all data, refuse numbers that are not finite");
  inspect->callback([&] { command = [&] { return InspectCommand(path, check); }; });

  if (const int code = ParseArguments(app, argc, argv); code >= 0) return code;
  if (!command) {
    return Fail("fedumm",
                absl::InvalidArgumentError("a subcommand is required; see fedumm --help"));
  }
  for (CommonArguments* arguments : {static_cast<CommonArguments*>(&simulate_arguments),
                                     static_cast<CommonArguments*>(&serve_arguments),
                                     static_cast<CommonArguments*>(&compare_arguments),
                                     static_cast<CommonArguments*>(&evaluate_arguments)}) {
    arguments->data = data;
    arguments->command = CommandLine(argc, argv);
  }
  if (!serve->parsed()) {  // which logs to its run folder
    if (const absl::Status status = StartLog("", verbose); !status.ok()) {
      return Fail("fedumm", status);
    }
  }
  UseOneThread();
  const absl::Status status = command();
  return status.ok() ? kExitOk : Fail("fedumm", status);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {  // out of memory, say
    return fedumm::programs::Fail("fedumm", absl::InternalError(error.what()));
  }
}
