// fedumm-supernode: one client of a federated fine-tuning. Its data stays here; adapters are all
// that travels.
#include <cstdio>
#include <exception>
#include <memory>
#include <stop_token>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/super_node.h"
#include "programs/federation.h"
#include "programs/node_flags.h"
#include "programs/program.h"
#include "programs/threads.h"

namespace fedumm::programs {
namespace {

// The app of a node: the model is loaded when the first message tells the run's settings, and again
// only if they change.
class FineTuningApp {
 public:
  FineTuningApp(std::string data_folder, std::string checkpoint)
      : data_folder_(std::move(data_folder)), checkpoint_(std::move(checkpoint)) {}

  ClientApp AsClientApp() {
    const auto handle = [this](const Message& message,
                               Context& context) -> absl::StatusOr<RecordDict> {
      FEDUMM_RETURN_IF_ERROR(Prepare(context.run_config));
      return client_->Handle(message, context);
    };
    ClientApp app;
    app.OnTrain(handle).OnEvaluate(handle);
    return app;
  }

 private:
  absl::Status Prepare(const ConfigRecord& run_config) {
    if (client_ != nullptr && run_config == run_config_) return absl::OkStatus();
    FEDUMM_ASSIGN_OR_RETURN(RunConfig config, RunConfig::FromRecord(run_config));
    // Which checkpoint lies where is this node's own business.
    if (!checkpoint_.empty()) config.values.Set("model.checkpoint", checkpoint_);
    client_.reset();
    experiment_.reset();
    FEDUMM_ASSIGN_OR_RETURN(data_, model::EasyVqa::Load(data_folder_, config.Flag("data.negated")));
    FEDUMM_ASSIGN_OR_RETURN(experiment_, Experiment::Create(config, data_));
    client_ = NewExperimentClient(*experiment_);
    run_config_ = run_config;
    return absl::OkStatus();
  }

  const std::string data_folder_;
  const std::string checkpoint_;
  ConfigRecord run_config_;
  model::EasyVqa data_;
  std::unique_ptr<Experiment> experiment_;  // uses data_
  std::unique_ptr<ClientApp> client_;       // uses experiment_
};

struct Arguments {
  NodeFlags node;
  std::string data = DefaultDataFolder();
  std::string checkpoint;
  bool verbose = false;
};

absl::Status Serve(Arguments arguments, const std::stop_token& stop) {
  FEDUMM_RETURN_IF_ERROR(StartLog("", arguments.verbose));
  RaiseDescriptorLimit();
  FEDUMM_ASSIGN_OR_RETURN(SuperNodeOptions options, ToSuperNodeOptions(arguments.node));
  for (const char* key : {"partition-id", "num-partitions"}) {
    const ConfigValue* value = options.node_config.Find(key);
    if (value == nullptr || !std::holds_alternative<int64_t>(*value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--node-config must say which part of the data is here: 'partition-id=0 "
                       "num-partitions=4'; it lacks a whole number for '",
                       key, "'"));
    }
  }
  FineTuningApp app(arguments.data, arguments.checkpoint);
  options.on_event = [](const std::string& event) {
    std::printf("%s\n", event.c_str());
    std::fflush(stdout);
  };
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
  app.add_option("--data", arguments.data, "Data folder of easy-VQA")
      ->check(CLI::ExistingDirectory)
      ->capture_default_str();
  app.add_option("--checkpoint", arguments.checkpoint,
                 "Folder of the backbone here (default: what the run's settings name)")
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
