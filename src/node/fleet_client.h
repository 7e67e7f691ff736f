#pragma once

#include <stop_token>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "flwr/proto/fab.pb.h"
#include "flwr/proto/fleet.pb.h"
#include "flwr/proto/heartbeat.pb.h"
#include "flwr/proto/message.pb.h"
#include "flwr/proto/run.pb.h"

namespace fedumm {

struct CallOptions {
  absl::Duration timeout;
  std::stop_token cancel;  // ends the call with CANCELLED
};

// The twelve calls of Flower's Fleet API, whatever carries them. Thread-safe. Codes: UNAVAILABLE
// and DEADLINE_EXCEEDED may be tried again; PERMISSION_DENIED: the run is over; UNAUTHENTICATED,
// NOT_FOUND, FAILED_PRECONDITION: the server does not know this node, or refuses it.
class FleetClient {
 public:
  virtual ~FleetClient() = default;

  virtual absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> RegisterNode(
      const flwr::proto::RegisterNodeFleetRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::ActivateNodeResponse> ActivateNode(
      const flwr::proto::ActivateNodeRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::DeactivateNodeResponse> DeactivateNode(
      const flwr::proto::DeactivateNodeRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> UnregisterNode(
      const flwr::proto::UnregisterNodeFleetRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> SendNodeHeartbeat(
      const flwr::proto::SendNodeHeartbeatRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::PullMessagesResponse> PullMessages(
      const flwr::proto::PullMessagesRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::PushMessagesResponse> PushMessages(
      const flwr::proto::PushMessagesRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::GetRunResponse> GetRun(
      const flwr::proto::GetRunRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::GetFabResponse> GetFab(
      const flwr::proto::GetFabRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      const flwr::proto::PushObjectRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      const flwr::proto::PullObjectRequest& request, const CallOptions& options) = 0;
  virtual absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      const flwr::proto::ConfirmMessageReceivedRequest& request, const CallOptions& options) = 0;
};

}  // namespace fedumm
