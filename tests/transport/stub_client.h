#pragma once

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "flwr/proto/fleet.grpc.pb.h"
#include "node/node_key.h"

namespace fedumm {

// A bare client of the Fleet service: signs calls, and knows nothing of what they mean.
class StubClient {
 public:
  using Stub = flwr::proto::Fleet::Stub;

  explicit StubClient(int port)
      : key_(*NodeKey::Generate()), stub_(flwr::proto::Fleet::NewStub(Connect(port))) {}

  void Sign(grpc::ClientContext& context) const {
    const std::string timestamp =
        absl::FormatTime("%Y-%m-%dT%H:%M:%E6S+00:00", absl::Now(), absl::UTCTimeZone());
    context.AddMetadata("flwr-public-key-bin", key_.public_key_pem());
    context.AddMetadata("flwr-timestamp", timestamp);
    context.AddMetadata("flwr-signature-bin", *key_.Sign(timestamp));
  }
  template <typename Request, typename Response>
  grpc::Status Call(grpc::Status (Stub::*rpc)(grpc::ClientContext*, const Request&, Response*),
                    const Request& request, Response& response) {
    grpc::ClientContext context;
    Sign(context);
    return (*stub_.*rpc)(&context, request, &response);
  }
  // Registers and activates.
  grpc::Status Join() {
    flwr::proto::RegisterNodeFleetRequest reg;
    flwr::proto::RegisterNodeFleetResponse registered;
    reg.set_public_key(public_key());
    if (grpc::Status status = Call(&Stub::RegisterNode, reg, registered); !status.ok()) {
      return status;
    }
    node_id = registered.node_id();
    flwr::proto::ActivateNodeRequest activate;
    flwr::proto::ActivateNodeResponse activated;
    activate.set_public_key(public_key());
    activate.set_heartbeat_interval(30);
    return Call(&Stub::ActivateNode, activate, activated);
  }
  template <typename Request>
  Request New() const {
    Request request;
    request.mutable_node()->set_node_id(node_id);
    return request;
  }
  flwr::proto::PullMessagesResponse Pull() {
    flwr::proto::PullMessagesResponse response;
    Call(&Stub::PullMessages, New<flwr::proto::PullMessagesRequest>(), response);
    return response;
  }

  const std::string& public_key() const { return key_.public_key_pem(); }
  Stub& stub() { return *stub_; }
  uint64_t node_id = 0;

 private:
  static std::shared_ptr<grpc::Channel> Connect(int port) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    return grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", port),
                                     grpc::InsecureChannelCredentials(), arguments);
  }

  const NodeKey key_;
  const std::unique_ptr<Stub> stub_;
};

}  // namespace fedumm
