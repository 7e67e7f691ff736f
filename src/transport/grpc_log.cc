#include "transport/grpc_log.h"

#include <grpc/support/log.h>

#include "base/log.h"

namespace fedumm::transport {

void RouteGrpcLog() {
  gpr_set_log_function(
      [](gpr_log_func_args* line) { Log()->debug("grpc: {}", Printable(line->message)); });
}

}  // namespace fedumm::transport
