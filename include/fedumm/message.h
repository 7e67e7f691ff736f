#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "fedumm/record.h"

namespace fedumm {

// Flower's message types. An action may follow: "train.warm_up".
namespace message_type {
inline constexpr std::string_view kTrain = "train";
inline constexpr std::string_view kEvaluate = "evaluate";
inline constexpr std::string_view kQuery = "query";
}  // namespace message_type

inline constexpr uint64_t kSuperLinkNodeId = 1;
inline constexpr double kDefaultTtlSeconds = 43'200;

// Flower's error codes.
enum class ErrorCode : int64_t {
  kUnknown = 0,
  kLoadClientAppFailed = 1,
  kClientAppRaisedException = 2,
  kMessageUnavailable = 3,
  kReplyMessageUnavailable = 4,
  kNodeUnavailable = 5,
  kModFailedPrecondition = 6,
  kInvalidFab = 7,
  kClientAppCrashed = 8,
};

struct Error {
  ErrorCode code = ErrorCode::kUnknown;
  std::string reason;
  friend bool operator==(const Error&, const Error&) = default;
};

struct Metadata {
  uint64_t run_id = 0;
  std::string message_id;  // the id of the message's root object; set by whoever sends it
  uint64_t src_node_id = 0;
  uint64_t dst_node_id = 0;
  std::string reply_to_message_id;  // empty in an instruction
  std::string group_id;
  double ttl = kDefaultTtlSeconds;  // seconds
  std::string message_type;
  double created_at = 0;  // seconds since the Unix epoch
  std::optional<uint64_t> src_task_id;
  std::optional<uint64_t> dst_task_id;
  friend bool operator==(const Metadata&, const Metadata&) = default;
};

// What travels between a ServerApp and a ClientApp. Has content or an error, never both.
struct Message {
  Metadata metadata;
  std::optional<RecordDict> content;
  std::optional<Error> error;

  bool has_error() const { return error.has_value(); }
};

}  // namespace fedumm
