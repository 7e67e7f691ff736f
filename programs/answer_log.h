// Answers of a long evaluation, kept as they come: JSON Lines that a process which is killed at any
// time leaves good to go on from.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::programs {

// What the answers depend on, by name: the first line of the file. Files with other values are
// answers to something else.
using LogHeader = std::vector<std::pair<std::string, std::string>>;

struct LoggedAnswer {
  int64_t question_id = 0;
  std::string answer;  // as the model gave it
  std::string prompt;  // the whole text of the question
};

using AnswersById = absl::flat_hash_map<int64_t, std::string>;

// One open log. Not thread-safe; a second process that opens the same file is refused.
class AnswerLog {
 public:
  // Makes the file or reads what it holds; a last line that is not whole is cut off.
  // FAILED_PRECONDITION, naming the key and both values, if its header is another one, or if
  // another process has it open; INVALID_ARGUMENT for a file that is no such log.
  static absl::StatusOr<AnswerLog> Open(const std::string& path, const LogHeader& header);
  // Adds the answers of a log that another process wrote or writes. Errors as of Open.
  static absl::Status Read(const std::string& path, const LogHeader& header, AnswersById& answers);

  AnswerLog(AnswerLog&& other) noexcept;
  AnswerLog& operator=(AnswerLog&& other) = delete;
  ~AnswerLog();

  const AnswersById& answers() const { return answers_; }
  // All of them in one write.
  absl::Status Append(std::span<const LoggedAnswer> answers);

 private:
  AnswerLog(int fd, std::string path) : fd_(fd), path_(std::move(path)) {}

  int fd_;
  std::string path_;
  AnswersById answers_;
};

}  // namespace fedumm::programs
