// The serial part of a round on a server: instructions for many nodes, from the strategy's content
// to messages that wait for their nodes.
//   push_bench [NODES [ARRAYS [ROUNDS]]]
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "link/link_state.h"
#include "link/run_grid.h"

namespace fedumm::link {
namespace {

ArrayRecord SmallArrays(int64_t count, float value) {
  ArrayRecord arrays;
  for (int64_t i = 0; i < count; ++i) {
    arrays.Set(absl::StrCat("layers.", i / 2, i % 2 == 0 ? ".lora_A.weight" : ".lora_B.weight"),
               Array::FromFloats({4}, std::vector<float>(4, value + static_cast<float>(i))));
  }
  return arrays;
}

// The instructions of one phase: every node is sent the same content, or the same arrays with a
// configuration of its own.
std::vector<Message> Instructions(const std::vector<uint64_t>& nodes, const ArrayRecord& arrays,
                                  int64_t round, bool own_config) {
  const RecordDict shared = {{"arrays", arrays},
                             {"config", ConfigRecord{{"server-round", round}, {"lr", 0.1}}}};
  std::vector<Message> messages;
  for (const uint64_t node : nodes) {
    Message message;
    message.metadata.dst_node_id = node;
    message.metadata.message_type = std::string(message_type::kTrain);
    message.content = shared;
    if (own_config) {
      message.content->Set(
          "config", ConfigRecord{{"server-round", round}, {"node", static_cast<int64_t>(node)}});
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

int Main(int argc, char** argv) {
  const int64_t num_nodes = argc > 1 ? std::atoll(argv[1]) : 1000;
  const int64_t num_arrays = argc > 2 ? std::atoll(argv[2]) : 288;
  const int64_t rounds = argc > 3 ? std::atoll(argv[3]) : 5;
  LinkState state{LinkOptions()};
  std::vector<uint64_t> nodes;
  uint64_t run_id;
  {
    MutexLock lock(state.mu);
    for (int64_t i = 0; i < num_nodes; ++i) {
      const std::string key = absl::StrCat("key of node ", i);
      const absl::Time now = state.options.timer();
      if (!state.nodes.Register(key, now).ok()) return 1;
      const absl::StatusOr<uint64_t> node = state.nodes.Activate(key, 30, now);
      if (!node.ok()) return 1;
      nodes.push_back(*node);
    }
    run_id = *state.runs.Create({}, state.options.timer());
  }
  RunGrid grid(state, run_id);
  for (const bool own_config : {false, true}) {
    for (int64_t round = 1; round <= rounds; ++round) {
      const ArrayRecord arrays = SmallArrays(num_arrays, static_cast<float>(round));
      const absl::Time start = absl::Now();
      const auto ids = grid.PushMessages(Instructions(nodes, arrays, round, own_config));
      const absl::Duration pushed = absl::Now() - start;
      if (!ids.ok()) return 1;
      grid.Withdraw(*ids);
      std::printf("%s: %lld nodes, %lld arrays: push %.1f ms, withdraw %.1f ms\n",
                  own_config ? "configuration of each node's own" : "one content for all",
                  static_cast<long long>(num_nodes), static_cast<long long>(num_arrays),
                  absl::ToDoubleMilliseconds(pushed),
                  absl::ToDoubleMilliseconds(absl::Now() - start - pushed));
    }
  }
  return 0;
}

}  // namespace
}  // namespace fedumm::link

int main(int argc, char** argv) { return fedumm::link::Main(argc, argv); }
