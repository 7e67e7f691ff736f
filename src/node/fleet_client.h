#pragma once

#include <functional>
#include <span>
#include <stop_token>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/proto/objects.pb.h"
#include "flwr/proto/fab.pb.h"
#include "flwr/proto/fleet.pb.h"
#include "flwr/proto/heartbeat.pb.h"
#include "flwr/proto/message.pb.h"
#include "flwr/proto/run.pb.h"
#include "wire/object.h"

namespace fedumm {

struct CallOptions {
  absl::Duration timeout;
  std::stop_token cancel;  // ends the call with CANCELLED
};

// The twelve calls of Flower's Fleet API, whatever carries them. Thread-safe. Codes: UNAVAILABLE
// and DEADLINE_EXCEEDED may be tried again; PERMISSION_DENIED: the run is over; UNAUTHENTICATED,
// NOT_FOUND, FAILED_PRECONDITION: the server does not know this node, or refuses it; ABORTED: the
// server tells the node to exit.
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

  // All objects of a message in one call, where the server is fedumm's own; UNIMPLEMENTED where it
  // knows of Flower's calls only. A call that fails half way has moved what it has moved.

  // Hands over the objects that the server has, in the order asked, not verified yet. The first
  // error of `on_object` ends the call and is its result.
  using OnObject = std::function<absl::Status(std::string id, std::string bytes)>;
  virtual absl::Status PullObjects(const proto::PullObjectsRequest& /*request*/,
                                   const OnObject& /*on_object*/, const CallOptions& /*options*/) {
    return absl::UnimplementedError("objects travel one by one here");
  }
  // `sender` says whose objects these are; it holds none itself.
  virtual absl::StatusOr<proto::PushObjectsResponse> PushObjects(
      const proto::PushObjectsRequest& /*sender*/, std::span<const wire::Object> /*objects*/,
      const CallOptions& /*options*/) {
    return absl::UnimplementedError("objects travel one by one here");
  }
};

}  // namespace fedumm
