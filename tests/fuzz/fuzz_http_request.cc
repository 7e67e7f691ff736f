// A request as it comes to the HTTP server. How the network cuts it must not matter.
#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/error.hpp>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <tuple>

#include "transport/http_request_parser.h"

namespace fedumm::transport {
namespace {

constexpr uint64_t kMaxBody = 1 << 16;

struct Outcome {
  bool done = false;
  HttpRequest request;
};

// Feeds `step` bytes at a time, after the header, which the server waits for.
Outcome Parse(std::string text, size_t header_size, size_t step) {
  RequestParser parser;
  parser.header_limit(static_cast<uint32_t>(header_size + 1));
  parser.body_limit(kMaxBody);
  boost::system::error_code error;
  const size_t parsed = parser.put(boost::asio::const_buffer(text.data(), header_size), error);
  if (error || !parser.is_header_done() || parsed != header_size) return {};
  if (!parser.chunked()) return {.done = true, .request = parser.request};
  parser.eager(true);
  std::string waiting;
  for (size_t at = header_size; at < text.size() && !parser.is_done(); at += step) {
    waiting.append(text, at, step);
    if (waiting.size() < RequestParser::kMinChunkBytes) continue;
    waiting.erase(0, parser.put(boost::asio::const_buffer(waiting.data(), waiting.size()), error));
    if (error && error != boost::beast::http::error::need_more) return {};
  }
  return {.done = parser.is_done(), .request = parser.request};
}

}  // namespace
}  // namespace fedumm::transport

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fedumm::transport;
  const std::string text(reinterpret_cast<const char*>(data), size);
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos) return 0;
  const Outcome whole = Parse(text, end + 4, std::max<size_t>(size, 1));
  const Outcome cut = Parse(text, end + 4, 1);
  if (whole.done != cut.done) std::abort();
  if (!whole.done) return 0;
  if (std::tie(whole.request.method, whole.request.path, whole.request.headers) !=
      std::tie(cut.request.method, cut.request.path, cut.request.headers)) {
    std::abort();
  }
  if (whole.request.body != cut.request.body || whole.request.body.size() > kMaxBody) std::abort();
  return 0;
}
