#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/limits.h"
#include "fedumm/message.h"
#include "node/caller.h"
#include "wire/object.h"

namespace fedumm {

// Moves messages between a node and its server: all objects in one call where the server knows how,
// else object by object. Keeps the objects of the last instruction: the next one often shares its
// arrays. Not thread-safe.
class MessageTransfer {
 public:
  explicit MessageTransfer(const Limits& limits) : limits_(limits) {}

  // Pulls the objects of `tree` that are not here yet, checks each against its id, and puts the
  // message together; its metadata are `metadata`. DATA_LOSS if an object is wrong or cannot be
  // had, INVALID_ARGUMENT if it is malformed or beyond the limits; else the error of the call.
  absl::StatusOr<Message> Fetch(Caller& caller, const Metadata& metadata,
                                const flwr::proto::ObjectTree& tree);

  // Announces a reply that was taken apart into `parts`, and pushes the objects that the server
  // asks for. May be repeated. INVALID_ARGUMENT if the reply is beyond the limits, or the server
  // refuses it; DATA_LOSS if the server would not store an object; else the error of the call.
  // Returns the number of objects pushed.
  absl::StatusOr<int64_t> Push(Caller& caller, const Message& reply,
                               const wire::DeflatedMessage& parts, absl::Duration runtime);

  // The server may be another one now: finds out anew what it knows.
  void ForgetServer() { in_streams_ = true; }

 private:
  // Pulls what `held_` lacks of `ids`, as far as the server gives it away in one call.
  absl::Status PullStream(Caller& caller, const Metadata& metadata,
                          const std::vector<std::string>& ids);
  // Announces a reply and pushes what is asked for in one call. Returns the number of objects
  // pushed; DATA_LOSS if the server refused one.
  absl::StatusOr<int64_t> PushStream(FleetClient& fleet, const CallOptions& options,
                                     const flwr::proto::PushMessagesRequest& announcement,
                                     const wire::DeflatedMessage& parts) const;
  absl::StatusOr<int64_t> PushOneByOne(Caller& caller,
                                       const flwr::proto::PushMessagesRequest& announcement,
                                       const wire::DeflatedMessage& parts) const;
  // Checks an object's bytes against its id and adds it to `held_`.
  absl::Status Keep(const std::string& id, std::string bytes);
  absl::Status TooLarge() const;
  // Pulls one object, and waits for it if it is announced only.
  absl::Status Pull(Caller& caller, const Metadata& metadata, const std::string& id);

  const Limits limits_;
  bool in_streams_ = true;  // until the server turns out not to know them
  absl::flat_hash_map<std::string, wire::ObjectBytes> held_;
};

}  // namespace fedumm
