#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "flwr/proto/message.pb.h"

namespace fedumm::link {

// Replies that were given to a run's process, which may have to be given again until it confirms
// them: the answer that held them can get lost. Not thread-safe.
class TakenReplies {
 public:
  struct Content {
    flwr::proto::Message message;  // as it travels
    flwr::proto::ObjectTree tree;
  };
  struct Reply {
    std::shared_ptr<const Content> content;  // shared, so that it is copied without a lock
    std::vector<std::string> object_ids;     // one reference on each is held
  };

  void Add(uint64_t run_id, const std::string& instruction_id, Reply reply);
  // Null if no reply to that instruction waits for its confirmation. Valid until the next call.
  const Reply* Find(uint64_t run_id, std::string_view instruction_id) const;
  bool MayPullObject(uint64_t run_id, const std::string& object_id) const;
  // Both return the ids whose references the caller releases.
  std::vector<std::string> Confirm(uint64_t run_id, std::string_view reply_id);
  std::vector<std::string> DropRun(uint64_t run_id);

 private:
  struct Run {
    std::map<std::string, Reply, std::less<>> replies;             // by instruction id
    std::map<std::string, std::string, std::less<>> instructions;  // by reply id
    absl::flat_hash_map<std::string, int> objects;                 // how many replies hold it
  };
  std::map<uint64_t, Run> runs_;
};

}  // namespace fedumm::link
