// Where LibTorch's exceptions end.
#pragma once

#include <c10/util/Exception.h>

#include <exception>

#include "absl/status/status.h"

namespace fedumm::model {

// Runs `body`, which returns a Status or StatusOr; what it throws becomes an INTERNAL error.
template <typename Body>
auto Guarded(Body&& body) -> decltype(body()) {
  try {
    return body();
  } catch (const c10::Error& error) {
    return absl::InternalError(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  } catch (...) {
    return absl::InternalError("an exception of an unknown type was thrown");
  }
}

}  // namespace fedumm::model
