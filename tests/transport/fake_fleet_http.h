#pragma once

#include <deque>
#include <functional>
#include <map>
#include <stop_token>
#include <string>

#include "base/mutex.h"
#include "tests/node/fake_fleet.h"
#include "tests/transport/raw_server.h"

namespace fedumm::testing {

// A FakeFleet behind HTTP, as a SuperLink of Flower 1.40 or newer is.
class FakeFleetHttp {
 public:
  struct Failure {
    int status;
    int code = 0;  // of Flower, 0 for none
  };

  explicit FakeFleetHttp(FakeFleet& fleet);
  ~FakeFleetHttp() { stop_.request_stop(); }

  // The next calls of `route` ("get-run") are answered by these instead, one each.
  void Fail(const std::string& route, std::deque<Failure> failures);
  // How many calls of `route` came, with those that failed.
  int num_calls(const std::string& route);
  // The head of the last request.
  std::string last_head();
  std::string address() const { return server_.address(); }

 private:
  using Route = std::function<absl::StatusOr<std::string>(const std::string& body)>;

  void Serve(RawPeer& peer);
  template <typename Request, typename Response>
  Route To(absl::StatusOr<Response> (FleetClient::*rpc)(const Request&, const CallOptions&));

  FakeFleet& fleet_;
  std::stop_source stop_;  // ends held pulls
  const std::map<std::string, Route> routes_;
  Mutex mutex_;
  std::map<std::string, std::deque<Failure>> failures_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> num_calls_ ABSL_GUARDED_BY(mutex_);
  std::string last_head_ ABSL_GUARDED_BY(mutex_);
  RawServer server_;  // last: it uses the others
};

}  // namespace fedumm::testing
