#include "programs/node_app.h"

#include <algorithm>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fedumm/model/world.h"

namespace fedumm::programs {
namespace {

bool NamesAFile(absl::string_view message, const ConfigRecord& settings) {
  return std::any_of(settings.begin(), settings.end(), [&](const auto& item) {
    const auto* path = std::get_if<std::string>(&item.second);
    return model::IsLocalSetting(item.first) && path != nullptr && !path->empty() &&
           absl::StrContains(message, *path);
  });
}

// What the server may know of an error: not which files there are on this machine.
absl::Status ForServer(const absl::Status& status, const ConfigRecord& settings) {
  const bool is_local = absl::IsNotFound(status) || absl::IsPermissionDenied(status) ||
                        NamesAFile(status.message(), settings);
  if (!is_local) return status;
  Log()->error("cannot load the model or the data: {}", std::string(status.message()));
  return absl::FailedPreconditionError(
      "this node cannot load its model or its data; its log says why");
}

}  // namespace

ClientApp NodeApp::AsClientApp() {
  const auto handle = [this](const Message& message,
                             Context& context) -> absl::StatusOr<RecordDict> {
    FEDUMM_RETURN_IF_ERROR(Prepare(context.run_config));
    Context completed = context;
    completed.run_config = experiment_->config().values;
    absl::StatusOr<RecordDict> reply = client_->Handle(message, completed);
    context.state = std::move(completed.state);
    return reply;
  };
  ClientApp app;
  app.OnTrain(handle).OnEvaluate(handle);
  return app;
}

absl::Status NodeApp::Prepare(const ConfigRecord& received) {
  if (client_ != nullptr && received == received_) return absl::OkStatus();
  client_.reset();
  experiment_.reset();
  FEDUMM_ASSIGN_OR_RETURN(NodeSettings settings, SettingsOfNode(received, local_));
  if (!settings.note.empty() && received != received_) tell_(settings.note);
  received_ = received;
  absl::StatusOr<std::unique_ptr<Experiment>> experiment = Experiment::Create(settings.config);
  if (!experiment.ok()) return ForServer(experiment.status(), settings.config.values);
  experiment_ = *std::move(experiment);
  FEDUMM_ASSIGN_OR_RETURN(ClientApp client, NewExperimentClient(*experiment_, {.tell = tell_}));
  client_ = std::make_unique<ClientApp>(std::move(client));
  return absl::OkStatus();
}

}  // namespace fedumm::programs
