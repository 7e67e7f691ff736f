// What a node of the programs does with a message: it loads the world that the run's settings
// describe, and trains the adapter on its share.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "fedumm/client_app.h"
#include "fedumm/record.h"
#include "programs/experiment.h"

namespace fedumm::programs {

// The model is loaded at the first message, which brings the run's settings, and again only if they
// change. Messages are handled one at a time.
class NodeApp {
 public:
  // `local` has the settings that name files of this machine (model.checkpoint, data.folder); the
  // others are the server's. `tell` gets a line, once for each run's settings, if they had to be
  // completed.
  NodeApp(ConfigRecord local, std::function<void(const std::string&)> tell)
      : local_(std::move(local)), tell_(std::move(tell)) {}

  // This must outlive the app.
  ClientApp AsClientApp();

 private:
  absl::Status Prepare(const ConfigRecord& received);

  const ConfigRecord local_;
  const std::function<void(const std::string&)> tell_;
  ConfigRecord received_;  // the settings that `experiment_` was made from
  std::unique_ptr<Experiment> experiment_;
  std::unique_ptr<ClientApp> client_;  // uses experiment_
};

}  // namespace fedumm::programs
