#pragma once

#include <boost/beast/http/basic_parser.hpp>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/ascii.h"
#include "transport/http_server.h"

namespace fedumm::transport {

// Parses a request's header, and its body if it is chunked.
class RequestParser final : public boost::beast::http::basic_parser<true> {
 public:
  // Every chunked body ends with this many bytes. The base class must not be given fewer: an
  // assertion fails if the end arrives byte by byte.
  static constexpr size_t kMinChunkBytes = 5;

  HttpRequest request;
  bool http10 = false;
  bool odd_encoding = false;  // a transfer encoding that is not just `chunked`

 private:
  using StringView = boost::beast::string_view;

  void on_request_impl(boost::beast::http::verb /*method*/, StringView method, StringView target,
                       int version, boost::system::error_code& /*error*/) override {
    request.method.assign(method.data(), method.size());
    request.path.assign(target.data(), target.size());
    http10 = version == 10;
  }
  void on_response_impl(int /*code*/, StringView /*reason*/, int /*version*/,
                        boost::system::error_code& /*error*/) override {}
  void on_field_impl(boost::beast::http::field field, StringView name, StringView value,
                     boost::system::error_code& /*error*/) override {
    if (header_done_) return;  // a trailer
    if (field == boost::beast::http::field::transfer_encoding &&
        !boost::beast::iequals(value, "chunked")) {
      odd_encoding = true;
    }
    std::string& text = request.headers[absl::AsciiStrToLower({name.data(), name.size()})];
    if (!text.empty()) text += ", ";
    text.append(value.data(), value.size());
  }
  void on_header_impl(boost::system::error_code& /*error*/) override { header_done_ = true; }
  void on_body_init_impl(const boost::optional<uint64_t>& /*length*/,
                         boost::system::error_code& /*error*/) override {}
  size_t on_body_impl(StringView body, boost::system::error_code& /*error*/) override {
    return body.size();
  }
  void on_chunk_header_impl(uint64_t /*size*/, StringView /*extensions*/,
                            boost::system::error_code& /*error*/) override {}
  size_t on_chunk_body_impl(uint64_t /*remain*/, StringView body,
                            boost::system::error_code& /*error*/) override {
    request.body.append(body.data(), body.size());
    return body.size();
  }
  void on_finish_impl(boost::system::error_code& /*error*/) override {}

  bool header_done_ = false;
};

}  // namespace fedumm::transport
