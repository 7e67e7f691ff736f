#pragma once

namespace fedumm::wire {

// Sends what Protobuf logs by itself to our logger, at level debug, for the whole process. Protobuf
// writes a line to stderr for each text that is no UTF-8, which any peer can send. May be called
// several times; thread-safe.
void RedirectProtobufLog();

}  // namespace fedumm::wire
