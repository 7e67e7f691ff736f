// FEDUMM_RETURN_IF_ERROR and FEDUMM_ASSIGN_OR_RETURN. Private: never included by a public header.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define FEDUMM_RETURN_IF_ERROR(expression)                                \
  do {                                                                    \
    if (absl::Status fedumm_status = (expression); !fedumm_status.ok()) { \
      return fedumm_status;                                               \
    }                                                                     \
  } while (false)

#define FEDUMM_CONCAT_INNER(a, b) a##b
#define FEDUMM_CONCAT(a, b) FEDUMM_CONCAT_INNER(a, b)
#define FEDUMM_ASSIGN_OR_RETURN_INNER(statusor, lhs, expression) \
  auto statusor = (expression);                                  \
  if (!statusor.ok()) return std::move(statusor).status();       \
  lhs = std::move(statusor).value()
#define FEDUMM_ASSIGN_OR_RETURN(lhs, expression) \
  FEDUMM_ASSIGN_OR_RETURN_INNER(FEDUMM_CONCAT(fedumm_statusor_, __LINE__), lhs, expression)
