// IsOk, StatusIs and IsOkAndHolds for absl::Status and absl::StatusOr, after Abseil's own, which
// the distributions do not ship yet.
#pragma once

#include <gmock/gmock.h>

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace fedumm::testing {

inline const absl::Status& StatusOf(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& StatusOf(const absl::StatusOr<T>& status_or) {
  return status_or.status();
}

MATCHER(IsOk, negation ? "is an error" : "is OK") {
  *result_listener << StatusOf(arg);
  return StatusOf(arg).ok();
}

MATCHER_P(StatusIs, code, "has status code " + absl::StatusCodeToString(code)) {
  *result_listener << StatusOf(arg);
  return StatusOf(arg).code() == code;
}

MATCHER_P2(StatusIs, code, message, "has that status code and message") {
  *result_listener << StatusOf(arg);
  return StatusOf(arg).code() == code &&
         ::testing::ExplainMatchResult(message, std::string(StatusOf(arg).message()),
                                       result_listener);
}

MATCHER_P(IsOkAndHolds, matcher, "is OK and holds a matching value") {
  if (!arg.ok()) {
    *result_listener << arg.status();
    return false;
  }
  return ::testing::ExplainMatchResult(matcher, *arg, result_listener);
}

}  // namespace fedumm::testing

#define FEDUMM_TEST_CONCAT_INNER(a, b) a##b
#define FEDUMM_TEST_CONCAT(a, b) FEDUMM_TEST_CONCAT_INNER(a, b)
// ASSERT that the expression is OK, then bind its value.
#define ASSERT_OK_AND_ASSIGN(lhs, expression) \
  ASSERT_OK_AND_ASSIGN_INNER(FEDUMM_TEST_CONCAT(fedumm_value_, __LINE__), lhs, expression)
#define ASSERT_OK_AND_ASSIGN_INNER(result, lhs, expression) \
  auto result = (expression);                               \
  ASSERT_TRUE(result.ok()) << result.status();              \
  lhs = std::move(result).value()
