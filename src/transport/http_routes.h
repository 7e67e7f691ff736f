#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "transport/http_server.h"

namespace fedumm::transport {

// Routes a request to the handler whose prefix its path has, the longest if several have one.
// Others are answered with 404.
HttpHandler RouteByPrefix(std::map<std::string, HttpHandler> handlers);

// Flower's error JSON: `{"code": …, "detail": …}`, or without a code.
HttpResponse ErrorResponse(int status, std::optional<int> code, std::string_view detail);

// Whether a Content-Type is that of a protobuf message; parameters are allowed.
bool IsProtobuf(std::string_view content_type);
inline constexpr std::string_view kProtobufType = "application/protobuf";

// Error codes of Flower's HTTP API.
inline constexpr int kUnsupportedContentType = 1002;
inline constexpr int kInvalidProtobuf = 1003;

}  // namespace fedumm::transport
