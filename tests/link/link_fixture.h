#pragma once

#include <gmock/gmock.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "fedumm/grid.h"
#include "link/fleet.h"
#include "link/link_state.h"
#include "link/run_grid.h"
#include "tests/link/test_node.h"
#include "tests/testing/status_matchers.h"

namespace fedumm::link {

// A SuperLink without network, whose time the test sets, and one run.
class LinkFixture : public ::testing::Test {
 protected:
  explicit LinkFixture(bool known_keys_only = false, const Limits& limits = {})
      : known_keys_only_(known_keys_only), limits_(limits) {}

  LinkOptions Options() {
    return {.limits = limits_,
            .known_keys_only = known_keys_only_,
            .on_event = [this](const std::string& event) { events_.push_back(event); },
            .clock = [this] { return now_; },
            .timer = [this] { return now_; }};
  }
  std::unique_ptr<Grid> NewRun() {
    MutexLock lock(state_.mu);
    return std::make_unique<RunGrid>(state_, *state_.runs.Create({}, now_));
  }
  static RecordDict Content(int64_t round) {
    RecordDict content;
    content.Set("arrays", ArrayRecord{{"w", Array::FromFloats({2}, std::vector<float>{1, 2})}});
    content.Set("config", ConfigRecord{{"server-round", round}});
    return content;
  }
  static Message Instruction(uint64_t node, double ttl = 3600) {
    Message message;
    message.metadata.dst_node_id = node;
    message.metadata.message_type = "train";
    message.metadata.ttl = ttl;
    message.content = Content(1);
    return message;
  }
  // Sends an instruction and returns what the node gets to know of it.
  Metadata Send(TestNode& node, double ttl = 3600) {
    const auto ids = grid_->PushMessages({Instruction(node.id, ttl)});
    const auto response = node.Pull();
    return *wire::MetadataFromProto(response->messages_list(0).metadata(), {});
  }
  // What the application gets now, without waiting.
  std::vector<Message> Replies(const std::vector<std::string>& ids) {
    return *grid_->PullMessages(ids, absl::InfinitePast());
  }

  const bool known_keys_only_;
  const Limits limits_;
  std::vector<std::string> events_;  // what the server reported of nodes
  absl::Time now_ = absl::FromUnixSeconds(1'800'000'000);
  LinkState state_{Options()};
  Fleet fleet_{state_};
  std::unique_ptr<Grid> grid_ = NewRun();
  TestNode node_{fleet_, now_};
  TestNode other_{fleet_, now_};
};

}  // namespace fedumm::link
