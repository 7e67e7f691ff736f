#include "link/taken_replies.h"

#include <utility>

namespace fedumm::link {

void TakenReplies::Add(uint64_t run_id, const std::string& instruction_id, Reply reply) {
  Run& run = runs_[run_id];
  for (const std::string& id : reply.object_ids) ++run.objects[id];
  run.instructions[reply.content->message.metadata().message_id()] = instruction_id;
  run.replies[instruction_id] = std::move(reply);
}

const TakenReplies::Reply* TakenReplies::Find(uint64_t run_id,
                                              std::string_view instruction_id) const {
  const auto run = runs_.find(run_id);
  if (run == runs_.end()) return nullptr;
  const auto it = run->second.replies.find(instruction_id);
  return it == run->second.replies.end() ? nullptr : &it->second;
}

bool TakenReplies::MayPullObject(uint64_t run_id, const std::string& object_id) const {
  const auto run = runs_.find(run_id);
  return run != runs_.end() && run->second.objects.contains(object_id);
}

std::vector<std::string> TakenReplies::Confirm(uint64_t run_id, std::string_view reply_id) {
  const auto run = runs_.find(run_id);
  if (run == runs_.end()) return {};
  const auto instruction = run->second.instructions.find(reply_id);
  if (instruction == run->second.instructions.end()) return {};
  const auto reply = run->second.replies.find(instruction->second);
  std::vector<std::string> object_ids = std::move(reply->second.object_ids);
  for (const std::string& id : object_ids) {
    const auto object = run->second.objects.find(id);
    if (--object->second == 0) run->second.objects.erase(object);
  }
  run->second.replies.erase(reply);
  run->second.instructions.erase(instruction);
  return object_ids;
}

std::vector<std::string> TakenReplies::DropRun(uint64_t run_id) {
  std::vector<std::string> object_ids;
  const auto run = runs_.find(run_id);
  if (run == runs_.end()) return object_ids;
  for (auto& [instruction, reply] : run->second.replies) {
    object_ids.insert(object_ids.end(), reply.object_ids.begin(), reply.object_ids.end());
  }
  runs_.erase(run);
  return object_ids;
}

}  // namespace fedumm::link
