#pragma once

namespace fedumm::transport {

// Sends what gRPC logs to our log, at level debug, for the whole process. gRPC would write it to
// stderr, where any peer could cause lines without limit. For programs; before other gRPC calls.
void RouteGrpcLog();

}  // namespace fedumm::transport
