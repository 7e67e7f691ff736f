#include "store/object_store.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "base/sha256.h"
#include "base/status_macros.h"

namespace fedumm::store {

std::vector<std::string> ObjectStore::Announce(const std::vector<std::string>& ids) {
  std::vector<std::string> missing;
  MutexLock lock(mu_);
  for (const std::string& id : ids) {
    Entry& entry = entries_[id];
    ++entry.references;
    if (entry.bytes == nullptr) missing.push_back(id);
  }
  return missing;
}

void ObjectStore::Release(const std::vector<std::string>& ids) {
  std::vector<wire::ObjectBytes> freed;  // freed without the lock: they can be large
  MutexLock lock(mu_);
  for (const std::string& id : ids) {
    const auto it = entries_.find(id);
    if (it == entries_.end() || --it->second.references > 0) continue;
    if (it->second.bytes != nullptr) {
      num_bytes_ -= static_cast<int64_t>(it->second.bytes->size());
      freed.push_back(std::move(it->second.bytes));
    }
    entries_.erase(it);
  }
}

absl::Status ObjectStore::PutChecked(const std::string& id, std::string bytes,
                                     const Limits& limits) {
  FEDUMM_RETURN_IF_ERROR(wire::ParseObject(bytes, limits).status());
  if (Sha256Hex(bytes) != id) {
    return absl::DataLossError(absl::StrCat("the bytes do not hash to their id: ", id));
  }
  auto shared = std::make_shared<std::string>(std::move(bytes));
  MutexLock lock(mu_);
  const auto it = entries_.find(id);
  if (it == entries_.end()) {
    return absl::NotFoundError(absl::StrCat("no message announced the object ", id));
  }
  if (it->second.bytes == nullptr) {
    num_bytes_ += static_cast<int64_t>(shared->size());
    it->second.bytes = std::move(shared);
  }
  return absl::OkStatus();
}

void ObjectStore::Add(const wire::Object& object) {
  MutexLock lock(mu_);
  Entry& entry = entries_[object.id];
  ++entry.references;
  if (entry.bytes == nullptr) {
    num_bytes_ += static_cast<int64_t>(object.bytes->size());
    entry.bytes = object.bytes;
  }
}

wire::ObjectBytes ObjectStore::Find(std::string_view id) const {
  MutexLock lock(mu_);
  const auto it = entries_.find(absl::string_view(id.data(), id.size()));
  return it == entries_.end() ? nullptr : it->second.bytes;
}

int64_t ObjectStore::num_objects() const {
  MutexLock lock(mu_);
  return static_cast<int64_t>(entries_.size());
}

int64_t ObjectStore::num_bytes() const {
  MutexLock lock(mu_);
  return num_bytes_;
}

}  // namespace fedumm::store
