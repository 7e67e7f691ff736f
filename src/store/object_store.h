#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/mutex.h"
#include "fedumm/limits.h"
#include "wire/object.h"

namespace fedumm::store {

// Content-addressed objects in memory. An object is announced by the messages that refer to it, is
// available once its bytes are here, and is dropped when the last of those messages releases it.
// Thread-safe.
class ObjectStore {
 public:
  // Takes one reference on each id. Returns the ids whose bytes are missing, in the order given.
  std::vector<std::string> Announce(const std::vector<std::string>& ids);
  // Gives one reference on each id back.
  void Release(const std::vector<std::string>& ids);

  // Stores bytes from a peer. INVALID_ARGUMENT if they are no well-formed object, DATA_LOSS if they
  // are not what `id` names, NOT_FOUND if it was not announced. OK if the bytes are here already.
  absl::Status PutChecked(const std::string& id, std::string bytes, const Limits& limits);
  // Takes a reference and stores bytes of our own making, whose id is known to be right.
  void Add(const wire::Object& object);

  // Null unless the object is available. The bytes outlive their reference.
  wire::ObjectBytes Find(std::string_view id) const;

  int64_t num_objects() const;
  int64_t num_bytes() const;

 private:
  struct Entry {
    int64_t references = 0;
    wire::ObjectBytes bytes;
  };

  mutable Mutex mu_;
  absl::flat_hash_map<std::string, Entry> entries_ ABSL_GUARDED_BY(mu_);
  int64_t num_bytes_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace fedumm::store
