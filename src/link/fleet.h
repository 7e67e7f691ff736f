#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "flwr/proto/fleet.pb.h"
#include "link/held_pulls.h"
#include "link/link_state.h"
#include "link/node_auth.h"
#include "link/object_streams.h"
#include "wire/object.h"

namespace fedumm::link {

// The nodes' half of a SuperLink: one function for each call of `flwr.proto.Fleet`, whatever the
// transport. Thread-safe; no function waits. Errors are those that a Flower node understands:
// UNAVAILABLE (try again), PERMISSION_DENIED (the run has ended), UNAUTHENTICATED (not your node),
// FAILED_PRECONDITION and INVALID_ARGUMENT (refused permanently). FAILED_PRECONDITION of
// RegisterNode and UnregisterNode means "only operators do that" where LinkOptions::known_keys_only
// is set, and "the key was used" else.
//
// A node that restarts with its key takes over from the previous process with that key, which may
// still be calling: ActivateNode ends its held pull and offers again what it had not answered. From
// then on, its confirmations of earlier offers are ignored, and so is a DeactivateNode that it
// signed before.
class Fleet {
 public:
  // `state` outlives the fleet.
  explicit Fleet(LinkState& state) : state_(state) {}

  absl::StatusOr<flwr::proto::RegisterNodeFleetResponse> RegisterNode(
      const Caller& caller, const flwr::proto::RegisterNodeFleetRequest& request);
  absl::StatusOr<flwr::proto::ActivateNodeResponse> ActivateNode(
      const Caller& caller, const flwr::proto::ActivateNodeRequest& request);
  absl::StatusOr<flwr::proto::DeactivateNodeResponse> DeactivateNode(
      const Caller& caller, const flwr::proto::DeactivateNodeRequest& request);
  absl::StatusOr<flwr::proto::UnregisterNodeFleetResponse> UnregisterNode(
      const Caller& caller, const flwr::proto::UnregisterNodeFleetRequest& request);
  absl::StatusOr<flwr::proto::SendNodeHeartbeatResponse> SendNodeHeartbeat(
      const Caller& caller, const flwr::proto::SendNodeHeartbeatRequest& request);

  // Calls `done` exactly once, perhaps before it returns: as soon as a message is there for the
  // node, with none after `hold`, at Stop, or when the node pulls or activates again. `ticket` is
  // any number that no other pull has.
  void PullMessages(const Caller& caller, const flwr::proto::PullMessagesRequest& request,
                    absl::Duration hold, uint64_t ticket, PullDone done);
  // The caller of that pull has disconnected. A held pull is done with CANCELLED; a message that it
  // was given is offered again.
  void CancelPull(uint64_t node, uint64_t ticket);

  absl::StatusOr<flwr::proto::PushMessagesResponse> PushMessages(
      const Caller& caller, const flwr::proto::PushMessagesRequest& request);
  // As PushMessages, but the answer waits up to half a minute until the memory budget admits the
  // reply; UNAVAILABLE if it does not.
  // Calls `done` exactly once, perhaps before it returns.
  using PushDone = std::function<void(absl::StatusOr<flwr::proto::PushMessagesResponse>)>;
  void AnnounceReply(const Caller& caller, flwr::proto::PushMessagesRequest request, PushDone done);
  absl::StatusOr<flwr::proto::GetRunResponse> GetRun(const Caller& caller,
                                                     const flwr::proto::GetRunRequest& request);
  absl::StatusOr<flwr::proto::GetFabResponse> GetFab(const Caller& caller,
                                                     const flwr::proto::GetFabRequest& request);
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      const Caller& caller, const flwr::proto::PushObjectRequest& request);
  absl::StatusOr<flwr::proto::PushObjectResponse> PushObject(
      const Caller& caller, flwr::proto::PushObjectRequest&& request);  // takes the bytes over
  absl::StatusOr<flwr::proto::PullObjectResponse> PullObject(
      const Caller& caller, const flwr::proto::PullObjectRequest& request);
  // PullObject without a copy of the bytes; null if they are not to be had.
  absl::StatusOr<wire::ObjectBytes> FindObject(const Caller& caller,
                                               const flwr::proto::PullObjectRequest& request);
  absl::StatusOr<flwr::proto::ConfirmMessageReceivedResponse> ConfirmMessageReceived(
      const Caller& caller, const flwr::proto::ConfirmMessageReceivedRequest& request);

  // The longest call by which the caller may upload objects, to be asked before the call is read:
  // longer than Limits::max_call_bytes only for a node that was sent a message and whose signature
  // is valid. Its upload then has time for `num_bytes` at 64 KiB/s.
  int64_t MaxUploadBytes(const Caller& caller, int64_t num_bytes);

  // Many objects in one call, of peers that know more than Flower's own. The caller is checked here
  // once; the objects as they pass.
  absl::StatusOr<ObjectPull> PullObjects(const Caller& caller,
                                         const proto::PullObjectsRequest& request);
  absl::StatusOr<ObjectPush> PushObjects(const Caller& caller, Upload upload);

  // Adds to what the server application sees as the node's traffic.
  void CountTraffic(uint64_t node, int64_t bytes_up, int64_t bytes_down);

  // Does what time alone makes due: ends holds, leases and sessions.
  void Tick();
  // Ticks whenever something is due, until Stop. For a thread of its own.
  void RunTimers();
  // Ends all waiting; calls that come later are UNAVAILABLE.
  void Stop();

 private:
  // The registry's name of the caller, which names `public_key` in the request. Checks the caller.
  absl::StatusOr<std::string> Identify(const Caller& caller, const std::string& public_key);
  // Whether the caller owns the node, and the server still serves.
  absl::Status Admit(const Caller& caller, uint64_t node);
  absl::Status CheckServing();
  // Reports that the node was offline until it called.
  void ReportBack(const Caller& caller, uint64_t node, Answers& answers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(state_.mu);
  struct Announcement;  // what is kept of a PushMessages that waits
  static absl::StatusOr<Announcement> ParseAnnouncement(
      const flwr::proto::PushMessagesRequest& request, const Limits& limits);
  // PushMessages of a caller that was admitted.
  absl::StatusOr<flwr::proto::PushMessagesResponse> Push(absl::StatusOr<Announcement> announcement);

  LinkState& state_;
};

}  // namespace fedumm::link
