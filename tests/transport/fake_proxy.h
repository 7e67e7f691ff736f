#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "tests/transport/raw_server.h"

namespace fedumm::testing {

// An HTTP proxy on loopback: tunnels (CONNECT), and forwards requests in absolute form.
class FakeProxy {
 public:
  struct Options {
    std::string authorization;  // what Proxy-Authorization must say; "" takes all
    // "host:port" that requests name, and where it is. Others are what they say.
    std::map<std::string, std::string> hosts;
    int connect_refusal = 0;  // the status that answers every CONNECT, 0: none is refused
    int forward_refusal = 0;  // and every other request
  };
  FakeProxy() : FakeProxy(Options()) {}
  explicit FakeProxy(Options options);

  std::string address() const { return server_.address(); }
  std::string url() const { return "http://" + server_.address(); }
  // Request lines and headers in the order of their arrival.
  std::vector<std::string> requests() const;

 private:
  void Serve(RawPeer& peer);
  void Tunnel(RawPeer& peer, const std::string& target) const;
  void Forward(RawPeer& peer, const std::string& request) const;
  // A socket, or -1.
  int Dial(const std::string& target) const;

  const Options options_;
  mutable Mutex mutex_;
  std::vector<std::string> requests_ ABSL_GUARDED_BY(mutex_);
  RawServer server_;
};

}  // namespace fedumm::testing
