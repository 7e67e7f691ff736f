#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"
#include "fedumm/limits.h"
#include "link/held_pulls.h"
#include "link/hosted_apps.h"
#include "link/line_limit.h"
#include "link/mailbox.h"
#include "link/node_auth.h"
#include "link/node_registry.h"
#include "link/reply_gate.h"
#include "link/runs.h"
#include "store/object_store.h"

namespace fedumm::link {

// Time that no change of the wall clock moves. Only differences mean anything.
absl::Time MonotonicNow();

struct LinkOptions {
  absl::Duration lease = absl::Seconds(60);
  absl::Duration session_timeout = absl::Seconds(180);
  Limits limits;
  ReplyGate::Options replies;
  bool known_keys_only = false;                      // see Admission
  std::function<void(const std::string&)> on_event;  // see SuperLinkOptions
  std::function<absl::Time()> clock = absl::Now;     // of signatures and messages
  std::function<absl::Time()> timer = MonotonicNow;  // of leases, holds and heartbeats
};

// Calls to make once the lock is released: answers to peers, log lines, events. They are made when
// this is destroyed.
class Answers {
 public:
  Answers() = default;
  Answers(const Answers&) = delete;
  Answers& operator=(const Answers&) = delete;
  ~Answers() {
    for (const std::function<void()>& answer : answers_) answer();
  }
  void Add(std::function<void()> answer) { answers_.push_back(std::move(answer)); }

 private:
  std::vector<std::function<void()>> answers_;
};

// All that a SuperLink knows, shared by its halves: `Fleet` (the nodes'), `RunGrid` (a server
// application's in this process), `Control` and `Runtime` (those of hosted ones). One lock; no call
// to a peer, hash or copy of an object is made under it.
struct LinkState {
  explicit LinkState(LinkOptions link_options)
      : options(std::move(link_options)),
        auth({.clock = options.clock, .timer = options.timer}),
        nodes({.max_nodes = options.limits.max_nodes,
               .known_keys_only = options.known_keys_only,
               .wall_clock = options.clock}),
        mailbox(objects, {.lease = options.lease,
                          .session_timeout = options.session_timeout,
                          .limits = options.limits}),
        gate(options.replies) {}

  // Reports what a node did, with its key, its address and the number of nodes online now; see
  // SuperLinkOptions::on_event.
  void Report(uint64_t node, std::string_view what, Answers& answers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Logs an error of a node, at most one line for each node in ten seconds.
  void Warn(uint64_t node, std::string_view what, Answers& answers)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  // A pull of the node came from `address` while another one, from `other`, was held. One process
  // has no two pulls at a time unless it lost a connection: several in a row are two live nodes
  // with one key, which is logged.
  void CheckSharedKey(uint64_t node, const std::string& other, const std::string& address,
                      Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  // Gives the oldest message that waits for the node to its held pull, if there are both.
  void Deliver(uint64_t node, Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  // Admits held replies that the memory budget allows by now.
  void AdmitHeldReplies(Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  // Ends a run, whoever runs it, and all that belongs to it. False if it was over already, or may
  // not end this way.
  bool FinishRun(uint64_t run_id, std::string_view sub_status, const std::string& details,
                 Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Gives pending runs to the SuperExecs that wait for one.
  void OfferRuns(Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // To be called whenever a reply is complete, an instruction has failed, a node has come, is lost
  // or will be lost earlier than was known: wakes WaitForChange, and answers the hosted ServerApps
  // that have all replies they wait for.
  void NotifyWaiters(Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Waits for the next NotifyWaiters, or until the timeout.
  void WaitForChange(absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    changed_.WaitFor(mu, timeout);
  }
  void WakeLogReaders(uint64_t run_id, Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Does what time alone makes due for hosted runs; the next time when there is more.
  void ExpireApps(absl::Time now, Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  absl::Time NextAppsDue() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);
  // Ends all that waits on hosted runs.
  void StopApps(Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  const LinkOptions options;
  store::ObjectStore objects;  // thread-safe
  NodeAuth auth;               // thread-safe

  Mutex mu;
  NodeRegistry nodes ABSL_GUARDED_BY(mu);
  Runs runs ABSL_GUARDED_BY(mu);
  Mailbox mailbox ABSL_GUARDED_BY(mu);
  HeldPulls pulls ABSL_GUARDED_BY(mu);
  HostedApps apps ABSL_GUARDED_BY(mu);
  ReplyGate gate ABSL_GUARDED_BY(mu);
  // Incremented when a node is lost, or will be, earlier than its lease said.
  uint64_t early_losses ABSL_GUARDED_BY(mu) = 0;
  bool stopping ABSL_GUARDED_BY(mu) = false;
  // Of each node whose pulls collide: how often, and since when.
  struct Collisions {
    int count = 0;
    absl::Time since = absl::InfinitePast();
    absl::Time told = absl::InfinitePast();
  };
  std::map<uint64_t, Collisions> collisions ABSL_GUARDED_BY(mu);
  LineLimit warnings ABSL_GUARDED_BY(mu){1, absl::Seconds(10)};
  LineLimit events ABSL_GUARDED_BY(mu){200, absl::Seconds(10)};
  CondVar timer_changed;  // something is due earlier than before, stopping

 private:
  // Answers the hosted ServerApps that have all replies they wait for.
  void WakeApps(Answers& answers) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu);

  CondVar changed_;
};

}  // namespace fedumm::link
