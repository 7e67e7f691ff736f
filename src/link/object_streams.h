#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/proto/objects.pb.h"
#include "link/link_state.h"
#include "wire/object.h"

namespace fedumm::link {

// Whose object a node uploads.
struct Upload {
  uint64_t node = 0;
  uint64_t run_id = 0;
  std::string session;  // may be empty
};

// Stores an object of a reply that was announced. False, and a line in the log, if it must not be
// stored: it was not announced, its bytes have another hash, it is too large. PERMISSION_DENIED if
// the run is over, UNAVAILABLE if the server is full.
absl::StatusOr<bool> StoreUpload(LinkState& state, const Upload& upload,
                                 const std::string& object_id, std::string bytes);

// A node that pulls many objects of its messages in one call. Not thread-safe. `state` outlives it.
class ObjectPull {
 public:
  ObjectPull(LinkState& state, uint64_t node, uint64_t run_id, std::vector<std::string> object_ids)
      : state_(&state), node_(node), run_id_(run_id), object_ids_(std::move(object_ids)) {}

  // The next of the objects, in the order asked: those that the node may have and that are there.
  // Up to `max_bytes` together, or one larger one; none at the end. PERMISSION_DENIED if the run is
  // over by now, UNAUTHENTICATED if the node is unregistered, UNAVAILABLE if the server stops.
  absl::StatusOr<std::vector<wire::Object>> Next(int64_t max_bytes);

 private:
  LinkState* state_;
  uint64_t node_;
  uint64_t run_id_;
  std::vector<std::string> object_ids_;
  size_t next_ = 0;
};

// A node that pushes many objects of a reply in one call. Not thread-safe. `state` outlives it.
class ObjectPush {
 public:
  ObjectPush(LinkState& state, Upload upload) : state_(&state), upload_(std::move(upload)) {}

  // False if the object was refused: the response says so, and the call is over. Errors as from
  // StoreUpload end it too.
  absl::StatusOr<bool> Add(std::string object_id, std::string bytes);
  const proto::PushObjectsResponse& response() const { return response_; }

 private:
  LinkState* state_;
  Upload upload_;
  proto::PushObjectsResponse response_;
};

}  // namespace fedumm::link
