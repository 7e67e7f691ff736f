#include "tests/transport/fake_fleet_http.h"

#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

namespace fedumm::testing {

template <typename Request, typename Response>
FakeFleetHttp::Route FakeFleetHttp::To(
    absl::StatusOr<Response> (FleetClient::*rpc)(const Request&, const CallOptions&)) {
  return [this, rpc](const std::string& body) -> absl::StatusOr<std::string> {
    Request request;
    if (!request.ParseFromString(body)) return absl::InvalidArgumentError("no protobuf");
    const absl::StatusOr<Response> response = (static_cast<FleetClient&>(fleet_).*rpc)(
        request, {.timeout = absl::Seconds(10), .cancel = stop_.get_token()});
    if (!response.ok()) return response.status();
    return response->SerializeAsString();
  };
}

FakeFleetHttp::FakeFleetHttp(FakeFleet& fleet)
    : fleet_(fleet),
      routes_{{"register-node", To(&FleetClient::RegisterNode)},
              {"activate-node", To(&FleetClient::ActivateNode)},
              {"deactivate-node", To(&FleetClient::DeactivateNode)},
              {"unregister-node", To(&FleetClient::UnregisterNode)},
              {"send-node-heartbeat", To(&FleetClient::SendNodeHeartbeat)},
              {"pull-messages", To(&FleetClient::PullMessages)},
              {"push-messages", To(&FleetClient::PushMessages)},
              {"get-run", To(&FleetClient::GetRun)},
              {"get-fab", To(&FleetClient::GetFab)},
              {"push-object", To(&FleetClient::PushObject)},
              {"pull-object", To(&FleetClient::PullObject)},
              {"confirm-message-received", To(&FleetClient::ConfirmMessageReceived)}},
      server_({.parallel = true}, [this](RawPeer& peer, int) { Serve(peer); }) {}

void FakeFleetHttp::Fail(const std::string& route, std::deque<Failure> failures) {
  const MutexLock lock(mutex_);
  failures_[route] = std::move(failures);
}

int FakeFleetHttp::num_calls(const std::string& route) {
  const MutexLock lock(mutex_);
  return num_calls_[route];
}

std::string FakeFleetHttp::last_head() {
  const MutexLock lock(mutex_);
  return last_head_;
}

void FakeFleetHttp::Serve(RawPeer& peer) {
  for (std::string request = peer.ReceiveRequest(); !request.empty();
       request = peer.ReceiveRequest()) {
    const size_t end = request.find("\r\n\r\n") + 4;
    const std::string path = request.substr(0, request.find(" HTTP/1.1"));
    const std::string route = path.substr(path.rfind('/') + 1);
    std::optional<Failure> failure;
    {
      const MutexLock lock(mutex_);
      ++num_calls_[route];
      last_head_ = request.substr(0, end);
      std::deque<Failure>& due = failures_[route];
      if (!due.empty()) {
        failure = due.front();
        due.pop_front();
      }
    }
    if (path == "GET /health") {
      peer.Answer(200, "");
      continue;
    }
    const auto to = routes_.find(route);
    absl::StatusOr<std::string> answer = absl::UnimplementedError("no such route");
    if (!failure.has_value() && to != routes_.end()) answer = to->second(request.substr(end));
    if (!failure.has_value() && !answer.ok()) {
      failure = Failure{absl::IsUnauthenticated(answer.status())      ? 401
                        : absl::IsFailedPrecondition(answer.status()) ? 412
                        : absl::IsUnimplemented(answer.status())      ? 404
                                                                      : 500};
    }
    if (!failure.has_value()) {
      peer.Answer(200, *answer, "content-type: application/protobuf\r\n");
      continue;
    }
    const std::string code =
        failure->code != 0 ? absl::StrCat("\"code\": ", failure->code, ", ") : "";
    peer.Answer(failure->status, absl::StrCat("{", code, "\"detail\": \"injected\"}"),
                "content-type: application/json\r\n");
  }
}

}  // namespace fedumm::testing
