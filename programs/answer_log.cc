#include "programs/answer_log.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace fedumm::programs {
namespace {

using Json = nlohmann::json;

constexpr const char* kKind = "fedumm-answers";
constexpr int kVersion = 1;

std::string Line(const Json& json) {
  return json.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace) + "\n";
}

std::string HeaderLine(const LogHeader& header) {
  Json json = {{"kind", kKind}, {"version", kVersion}};
  for (const auto& [key, value] : header) json["of"][key] = value;
  return Line(json);
}

absl::Status CheckHeader(std::string_view line, const std::string& path, const LogHeader& header) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || json.value("kind", Json()) != kKind ||
      json.value("version", Json()) != kVersion || !json.value("of", Json()).is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is no log of answers: move it away or give another -o"));
  }
  for (const auto& [key, value] : header) {
    const Json logged = json["of"].value(key, Json());
    if (logged == value) continue;
    return absl::FailedPreconditionError(
        absl::StrCat(path, " holds answers with ", key, " ", logged.dump(), ", not ",
                     Json(value).dump(), ": give another -o, or remove it to start again"));
  }
  return absl::OkStatus();
}

// Reads whole lines of `text`; the result is their size in bytes, 0 without a header.
absl::StatusOr<size_t> ReadLines(std::string_view text, const std::string& path,
                                 const LogHeader& header, AnswersById& answers) {
  size_t begin = 0;
  for (int64_t number = 1;; ++number) {
    const size_t end = text.find('\n', begin);
    if (end == text.npos) return begin;
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    if (number == 1) {
      FEDUMM_RETURN_IF_ERROR(CheckHeader(line, path, header));
      continue;
    }
    const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const Json id = json.is_object() ? json.value("question_id", Json()) : Json();
    const Json answer = json.is_object() ? json.value("answer", Json()) : Json();
    if (!id.is_number_integer() || !answer.is_string()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ", line ", number, ": not an answer with its question_id"));
    }
    answers[id.get<int64_t>()] = answer.get<std::string>();
  }
}

}  // namespace

AnswerLog::AnswerLog(AnswerLog&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      path_(std::move(other.path_)),
      answers_(std::move(other.answers_)) {}

AnswerLog::~AnswerLog() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<AnswerLog> AnswerLog::Open(const std::string& path, const LogHeader& header) {
  const int fd = open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return absl::ErrnoToStatus(errno, absl::StrCat("cannot open ", path));
  AnswerLog log(fd, path);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " is in use by another process; one of them needs another -o"));
  }
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  FEDUMM_ASSIGN_OR_RETURN(const size_t whole, ReadLines(text, path, header, log.answers_));
  if (whole < text.size() && ftruncate(fd, static_cast<off_t>(whole)) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("cannot cut ", path));
  }
  if (whole == 0) FEDUMM_RETURN_IF_ERROR(WriteAll(fd, HeaderLine(header), path));
  return log;
}

absl::Status AnswerLog::Read(const std::string& path, const LogHeader& header,
                             AnswersById& answers) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  return ReadLines(text, path, header, answers).status();
}

absl::Status AnswerLog::Append(std::span<const LoggedAnswer> answers) {
  std::string lines;
  for (const LoggedAnswer& one : answers) {
    lines +=
        Line({{"question_id", one.question_id}, {"answer", one.answer}, {"prompt", one.prompt}});
  }
  FEDUMM_RETURN_IF_ERROR(WriteAll(fd_, lines, path_));
  for (const LoggedAnswer& one : answers) answers_[one.question_id] = one.answer;
  return absl::OkStatus();
}

}  // namespace fedumm::programs
