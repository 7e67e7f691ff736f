#include "fedumm/simulation.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/countdown.h"
#include "base/mutex.h"

namespace fedumm {
namespace {

constexpr uint64_t kRunId = 1;
constexpr uint64_t kFirstNodeId = 2;

// Thread-safe. Instructions wait in one queue; each worker takes the first whose node is idle, so
// that a node handles its messages one by one and in order, as a SuperNode does. Unless somebody
// waits for a reply, no more of them are made than there are workers: memory does not grow with the
// number of nodes, however slowly replies are taken.
class Simulation final : public Grid {
 public:
  Simulation(const ClientApp& app, const SimulationOptions& options)
      : app_(app), num_workers_(static_cast<size_t>(options.num_threads)) {
    for (int64_t i = 0; i < options.num_nodes; ++i) {
      Context& context = contexts_.emplace_back();
      context.run_id = kRunId;
      context.node_id = kFirstNodeId + static_cast<uint64_t>(i);
      context.node_config = {{"partition-id", i}, {"num-partitions", options.num_nodes}};
      context.run_config = options.run_config;
    }
    for (int64_t i = 0; i < options.num_threads; ++i) {
      workers_.emplace_back([this] { Work(); });
    }
  }

  ~Simulation() override {
    {
      MutexLock lock(mutex_);
      stopping_ = true;
    }
    work_changed_.NotifyAll();
    for (std::thread& worker : workers_) worker.join();
  }

  uint64_t run_id() const override { return kRunId; }

  std::vector<uint64_t> NodeIds() override {
    std::vector<uint64_t> ids;
    for (const Context& context : contexts_) ids.push_back(context.node_id);
    return ids;
  }

  absl::StatusOr<std::vector<std::string>> PushMessages(std::vector<Message> messages) override {
    std::vector<std::string> ids;
    {
      MutexLock lock(mutex_);
      for (Message& message : messages) ids.push_back(Enqueue(std::move(message)));
    }
    work_changed_.NotifyAll();
    return ids;
  }

  absl::StatusOr<std::vector<Message>> PullMessages(const std::vector<std::string>& message_ids,
                                                    absl::Time deadline) override {
    const Countdown countdown(deadline - absl::Now());
    std::vector<Message> replies;
    MutexLock lock(mutex_);
    while (true) {
      for (const std::string& id : message_ids) {
        if (const auto reply = replies_.extract(id); !reply.empty()) {
          replies.push_back(std::move(reply.mapped()));
        }
      }
      const absl::Duration left = countdown.left();
      if (!replies.empty() || left <= absl::ZeroDuration()) break;
      starved_ = true;
      work_changed_.NotifyAll();
      replies_changed_.WaitFor(mutex_, left);
    }
    work_changed_.NotifyAll();  // there is room for further replies
    return replies;
  }

  void Withdraw(const std::vector<std::string>& message_ids) override {
    MutexLock lock(mutex_);
    for (const std::string& id : message_ids) {
      wanted_.erase(id);
      replies_.erase(id);
    }
    std::erase_if(queue_, [this](const Message& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !wanted_.contains(message.metadata.message_id);
    });
  }

  Traffic NodeTraffic(uint64_t) override { return {}; }

 private:
  // Returns the message's id, or "" for an unknown node.
  std::string Enqueue(Message message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Metadata& metadata = message.metadata;
    if (metadata.dst_node_id < kFirstNodeId ||
        metadata.dst_node_id - kFirstNodeId >= contexts_.size()) {
      return "";
    }
    metadata.run_id = kRunId;
    metadata.src_node_id = kSuperLinkNodeId;
    metadata.created_at = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
    metadata.message_id = absl::StrCat("simulated-", ++num_messages_);
    wanted_.insert(metadata.message_id);
    queue_.push_back(std::move(message));
    return queue_.back().metadata.message_id;
  }

  void Work() {
    MutexLock lock(mutex_);
    while (!stopping_) {
      if (!starved_ && replies_.size() + busy_.size() >= num_workers_) {
        work_changed_.Wait(mutex_);
        continue;
      }
      const auto next =
          std::find_if(queue_.begin(), queue_.end(),
                       [this](const Message& message) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
                         return !busy_.contains(message.metadata.dst_node_id);
                       });
      if (next == queue_.end()) {
        work_changed_.Wait(mutex_);
        continue;
      }
      const Message instruction = std::move(*next);
      queue_.erase(next);
      const uint64_t node_id = instruction.metadata.dst_node_id;
      busy_.insert(node_id);
      mutex_.Unlock();
      Message reply = Handle(instruction, contexts_[node_id - kFirstNodeId]);
      mutex_.Lock();
      busy_.erase(node_id);
      const std::string& id = instruction.metadata.message_id;
      if (wanted_.erase(id) > 0) {
        replies_.emplace(id, std::move(reply));
        starved_ = false;  // unless the one who waits wants another reply
      }
      replies_changed_.NotifyAll();
      work_changed_.NotifyAll();  // this node may have more to do
    }
  }

  Message Handle(const Message& instruction, Context& context) const {
    absl::StatusOr<RecordDict> outcome = app_.Handle(instruction, context);
    const double now = absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch());
    return MakeReply(instruction, std::move(outcome), now);
  }

  const ClientApp& app_;
  const size_t num_workers_;
  std::deque<Context> contexts_;  // one for each node; used by whoever holds the node in busy_

  Mutex mutex_;
  CondVar work_changed_;
  CondVar replies_changed_;
  std::deque<Message> queue_ ABSL_GUARDED_BY(mutex_);
  std::set<uint64_t> busy_ ABSL_GUARDED_BY(mutex_);                 // nodes with a handler running
  std::set<std::string> wanted_ ABSL_GUARDED_BY(mutex_);            // instructions without a reply
  std::map<std::string, Message> replies_ ABSL_GUARDED_BY(mutex_);  // by instruction
  int64_t num_messages_ ABSL_GUARDED_BY(mutex_) = 0;
  bool starved_ ABSL_GUARDED_BY(mutex_) = false;  // a call of PullMessages found nothing
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::vector<std::thread> workers_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Grid>> NewSimulation(const ClientApp& app,
                                                    SimulationOptions options) {
  if (options.num_nodes < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_nodes must be at least 1: ", options.num_nodes));
  }
  if (options.num_threads < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_threads must be at least 1: ", options.num_threads));
  }
  return std::make_unique<Simulation>(app, options);
}

}  // namespace fedumm
