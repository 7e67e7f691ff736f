#pragma once

#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "fedumm/limits.h"
#include "fedumm/message.h"
#include "node/caller.h"
#include "wire/object.h"

namespace fedumm {

// Moves messages between a node and its server, object by object. Keeps the objects of the last
// instruction: the next one often shares its arrays. Not thread-safe.
class MessageTransfer {
 public:
  explicit MessageTransfer(const Limits& limits) : limits_(limits) {}

  // Pulls the objects of `tree` that are not here yet, checks each against its id, and puts the
  // message together; its metadata are `metadata`. DATA_LOSS if an object is wrong or cannot be
  // had, INVALID_ARGUMENT if it is malformed or beyond the limits; else the error of the call.
  absl::StatusOr<Message> Fetch(Caller& caller, const Metadata& metadata,
                                const flwr::proto::ObjectTree& tree);

  // Announces a reply that was taken apart into `parts`, and pushes the objects that the server
  // asks for. May be repeated. DATA_LOSS if the server would not store one; else the error of the
  // call. Returns the number of objects pushed.
  absl::StatusOr<int64_t> Push(Caller& caller, const Message& reply,
                               const wire::DeflatedMessage& parts, absl::Duration runtime) const;

 private:
  absl::StatusOr<wire::ObjectBytes> Pull(Caller& caller, const Metadata& metadata,
                                         const std::string& id) const;

  const Limits limits_;
  absl::flat_hash_map<std::string, wire::ObjectBytes> held_;
};

}  // namespace fedumm
