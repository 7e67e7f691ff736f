#include "link/object_streams.h"

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "link/reply_rules.h"
#include "wire/object_frame.h"

namespace fedumm::link {

absl::StatusOr<bool> StoreUpload(LinkState& state, const Upload& upload,
                                 const std::string& object_id, std::string bytes) {
  const auto num_bytes = static_cast<int64_t>(bytes.size());
  absl::Status stored;
  {
    MutexLock lock(state.mu);
    FEDUMM_RETURN_IF_ERROR(state.runs.Check(upload.run_id));
    stored =
        state.mailbox.CheckUpload(upload.node, upload.run_id, object_id, upload.session, num_bytes);
  }
  if (state.objects.num_bytes() + num_bytes > state.options.limits.max_stored_bytes) {
    return absl::UnavailableError("the server holds all it may, try again later");
  }
  if (stored.ok()) {
    stored = state.objects.PutChecked(object_id, std::move(bytes), state.options.limits);
  }
  if (!stored.ok()) {
    // The reply is never complete: who waits for it hears why.
    Answers answers;
    MutexLock lock(state.mu);
    state.Warn(upload.node,
               absl::StrCat("refused an object in run ", upload.run_id, ": ", stored.message()),
               answers);
    if (!absl::IsNotFound(stored) &&
        state.mailbox.FailUpload(upload.node, upload.run_id, object_id, upload.session,
                                 RefusedReply(stored))) {
      state.NotifyWaiters(answers);
    }
    return false;
  }
  Answers answers;
  MutexLock lock(state.mu);
  if (state.mailbox.Uploaded(upload.node, upload.run_id, object_id, num_bytes,
                             state.options.timer())) {
    state.NotifyWaiters(answers);
  }
  return true;
}

absl::StatusOr<std::vector<wire::Object>> ObjectPull::Next(int64_t max_bytes) {
  std::vector<wire::Object> objects;
  int64_t num_bytes = 0;
  MutexLock lock(state_->mu);
  if (state_->stopping) return absl::UnavailableError("the server is stopping");
  FEDUMM_RETURN_IF_ERROR(state_->runs.Check(run_id_));
  if (!state_->nodes.IsRegistered(node_)) {
    return absl::UnauthenticatedError(absl::StrCat("node ", node_, " is not registered"));
  }
  for (; next_ < object_ids_.size(); ++next_) {
    std::string& id = object_ids_[next_];
    if (!state_->mailbox.MayPull(node_, run_id_, id, state_->options.timer())) continue;
    wire::ObjectBytes bytes = state_->objects.Find(id);
    if (bytes == nullptr) continue;
    num_bytes += static_cast<int64_t>(bytes->size()) + wire::kObjectOverhead;
    if (num_bytes > max_bytes && !objects.empty()) break;
    objects.push_back({.id = std::move(id), .bytes = std::move(bytes)});
  }
  return objects;
}

absl::StatusOr<bool> ObjectPush::Add(std::string object_id, std::string bytes) {
  FEDUMM_ASSIGN_OR_RETURN(const bool stored,
                          StoreUpload(*state_, upload_, object_id, std::move(bytes)));
  if (stored) {
    response_.set_num_stored(response_.num_stored() + 1);
  } else {
    response_.set_refused_object_id(std::move(object_id));
  }
  return stored;
}

}  // namespace fedumm::link
