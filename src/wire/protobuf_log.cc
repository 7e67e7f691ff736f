#include "wire/protobuf_log.h"

#include <google/protobuf/stubs/logging.h>

#include <mutex>
#include <string>

#include "base/log.h"

namespace fedumm::wire {
namespace {

void LogQuietly(google::protobuf::LogLevel level, const char* file, int line,
                const std::string& text) {
  if (level == google::protobuf::LOGLEVEL_FATAL) {  // Protobuf ends the process next
    Log()->critical("protobuf: {}:{}: {}", file, line, text);
  } else {
    Log()->debug("protobuf: {}:{}: {}", file, line, Printable(text));
  }
}

}  // namespace

void RedirectProtobufLog() {
  static std::once_flag once;
  std::call_once(once, [] { google::protobuf::SetLogHandler(&LogQuietly); });
}

}  // namespace fedumm::wire
