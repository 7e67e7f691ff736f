#include "link/reply_rules.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fedumm::link {
namespace {

constexpr double kEarliest =
    1740700800;                    // 28 February 2025, before which nothing spoke this protocol
constexpr double kMostAhead = 60;  // seconds that a node's clock may be ahead
constexpr double kTtlTolerance = 0.1;

}  // namespace

absl::Status CheckReply(const Metadata& reply, const Metadata& instruction, absl::Time now) {
  const double seconds = absl::ToDoubleSeconds(now - absl::UnixEpoch());
  if (reply.dst_node_id != kSuperLinkNodeId) {
    return absl::InvalidArgumentError(
        absl::StrCat("a reply goes to the server, not to node ", reply.dst_node_id));
  }
  if (reply.src_node_id != instruction.dst_node_id || reply.run_id != instruction.run_id) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the instruction is for node ", instruction.dst_node_id, " in run ", instruction.run_id));
  }
  if (reply.message_type.empty()) {
    return absl::InvalidArgumentError("the reply has no message type");
  }
  if (!std::isfinite(reply.created_at) || reply.created_at < kEarliest ||
      reply.created_at > seconds + kMostAhead) {
    return absl::InvalidArgumentError(
        absl::StrCat("created_at is impossible at ", seconds, ": ", reply.created_at));
  }
  if (!std::isfinite(reply.ttl) || reply.ttl <= 0 || reply.created_at + reply.ttl <= seconds) {
    return absl::InvalidArgumentError(absl::StrCat("the reply's ttl has passed: ", reply.ttl));
  }
  const double remaining = instruction.ttl - (reply.created_at - instruction.created_at);
  if (reply.ttl > remaining + kTtlTolerance) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the reply's ttl is ", reply.ttl, " s, the instruction has ", remaining, " s left"));
  }
  return absl::OkStatus();
}

absl::Status CheckInstruction(const Metadata& instruction, absl::Time now) {
  const double seconds = absl::ToDoubleSeconds(now - absl::UnixEpoch());
  if (instruction.src_node_id != kSuperLinkNodeId || instruction.dst_node_id == kSuperLinkNodeId) {
    return absl::InvalidArgumentError(
        absl::StrCat("an instruction goes from the server to a node, not from ",
                     instruction.src_node_id, " to ", instruction.dst_node_id));
  }
  if (instruction.message_type.empty() || !instruction.reply_to_message_id.empty()) {
    return absl::InvalidArgumentError("an instruction has a message type and answers nothing");
  }
  if (!std::isfinite(instruction.created_at) || instruction.created_at < kEarliest ||
      instruction.created_at > seconds + kMostAhead) {
    return absl::InvalidArgumentError(
        absl::StrCat("created_at is impossible at ", seconds, ": ", instruction.created_at));
  }
  if (!std::isfinite(instruction.ttl) || instruction.ttl <= 0 ||
      instruction.created_at + instruction.ttl <= seconds) {
    return absl::InvalidArgumentError(
        absl::StrCat("the instruction's ttl has passed: ", instruction.ttl));
  }
  return absl::OkStatus();
}

Error RefusedReply(const absl::Status& reason) {
  return {.code = ErrorCode::kReplyMessageUnavailable,
          .reason = absl::StrCat("the server refused the reply: ", reason.message())};
}

Message ErrorReply(const Metadata& instruction, Error error, absl::Time now) {
  Message reply;
  reply.metadata.run_id = instruction.run_id;
  reply.metadata.src_node_id = instruction.dst_node_id;
  reply.metadata.dst_node_id = kSuperLinkNodeId;
  reply.metadata.reply_to_message_id = instruction.message_id;
  reply.metadata.group_id = instruction.group_id;
  reply.metadata.message_type = instruction.message_type;
  reply.metadata.created_at = absl::ToDoubleSeconds(now - absl::UnixEpoch());
  reply.error = std::move(error);
  return reply;
}

}  // namespace fedumm::link
