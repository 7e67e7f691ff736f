#include "transport/http_routes.h"

#include <memory>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "base/text.h"
#include "nlohmann/json.hpp"

namespace fedumm::transport {

HttpHandler RouteByPrefix(std::map<std::string, HttpHandler> handlers) {
  return [handlers = std::move(handlers)](std::shared_ptr<HttpExchange> exchange) {
    const std::string& path = exchange->request().path;
    // Of the prefixes of a path, the longest sorts last.
    for (auto it = handlers.rbegin(); it != handlers.rend(); ++it) {
      if (!path.starts_with(it->first)) continue;
      it->second(std::move(exchange));
      return;
    }
    exchange->Respond(ErrorResponse(404, std::nullopt, "Not Found"));
  };
}

HttpResponse ErrorResponse(int status, std::optional<int> code, std::string_view detail) {
  nlohmann::ordered_json json;
  if (code.has_value()) json["code"] = *code;
  json["detail"] = detail;
  return {.status = status,
          .content_type = "application/json",
          .body = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

bool IsProtobuf(std::string_view content_type) {
  const std::string_view type = content_type.substr(0, content_type.find(';'));
  return absl::EqualsIgnoreCase(absl::StripAsciiWhitespace(Text(type)), Text(kProtobufType));
}

}  // namespace fedumm::transport
