#include "node/heartbeat.h"

#include <utility>

#include "base/random.h"
#include "node/caller.h"
#include "node/membership.h"

namespace fedumm {

Heartbeat::Heartbeat(FleetClient& fleet, const NodeEnvironment& environment, uint64_t node_id,
                     std::function<void()> on_refused)
    : fleet_(fleet),
      environment_(environment),
      node_id_(node_id),
      on_refused_(std::move(on_refused)),
      thread_([this](const std::stop_token& stop) { Run(stop); }) {}

void Heartbeat::Run(const std::stop_token& stop) {
  constexpr absl::Duration kTimeout = absl::Seconds(5);
  Random random(environment_.seed, {node_id_});
  Backoff backoff(random.Next());
  flwr::proto::SendNodeHeartbeatRequest beat;
  beat.mutable_node()->set_node_id(node_id_);
  beat.set_heartbeat_interval(absl::ToDoubleSeconds(kHeartbeatInterval));
  absl::Duration pause;
  do {
    const auto answer = fleet_.SendNodeHeartbeat(beat, {kTimeout, stop});
    if (stop.stop_requested()) return;
    if (answer.ok() ? !answer->success() : IsRefusal(answer.status())) {
      on_refused_();
      return;
    }
    if (answer.ok()) backoff.Reset();
    // Jittered, and early enough that one lost heartbeat does no harm.
    pause = answer.ok() ? kHeartbeatInterval * (0.58 + 0.17 * random.Uniform()) : backoff.Next();
  } while (environment_.heartbeat_wait(pause, stop));
}

}  // namespace fedumm
