#include "transport/adapter_server.h"

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <map>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "flwr/proto/grpcadapter.grpc.pb.h"
#include "transport/adapter_container.h"
#include "transport/grpc_calls.h"
#include "transport/grpc_listener.h"
#include "wire/value_count.h"

namespace fedumm::transport {
namespace {

using flwr::proto::MessageContainer;
using link::Caller;
using link::Fleet;

absl::Status CheckLoopback(const std::string& address) {
  FEDUMM_ASSIGN_OR_RETURN(const HostPort parsed, HostPort::ParseListener(address));
  if (parsed.IsLoopback()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("the grpc-adapter has no keys and is for loopback addresses only: ", address));
}

// A failed call as a response: the tunnel has no error codes. The fields of an empty message mean
// failure in most responses: no success, not stored, not found, nothing to push.
template <typename Response>
Response FailedResponse(const absl::Status& /*status*/) {
  return Response();
}
template <>
flwr::proto::PullObjectResponse FailedResponse(const absl::Status& status) {
  flwr::proto::PullObjectResponse response;
  response.set_object_found(absl::IsUnavailable(status));  // found, but not available yet
  return response;
}

// Whether a node can continue after that failure.
template <typename Response>
bool MayContinue(const absl::Status& status) {
  if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status)) return false;
  // Their responses hold a node id, and there is none.
  return !std::is_same_v<Response, flwr::proto::RegisterNodeFleetResponse> &&
         !std::is_same_v<Response, flwr::proto::ActivateNodeResponse>;
}

template <typename Request>
uint64_t NodeOf(const Request& request) {
  if constexpr (requires { request.node(); }) {
    return request.node().node_id();
  } else if constexpr (requires { request.node_id(); }) {
    return request.node_id();
  } else {
    return 0;
  }
}

MessageContainer WithShouldExit(MessageContainer answer, absl::string_view reason) {
  Log()->warn("told a node of the grpc-adapter to exit: {}", Printable(reason));
  (*answer.mutable_metadata())[kShouldExit] = "true";
  return answer;
}

// What is larger than this uploads an object, and has few fields.
constexpr size_t kLargeBytes = size_t{24} << 20;
constexpr int64_t kMaxLargeValues = 1000;

bool MayParse(const google::protobuf::Descriptor& type, const std::string& content) {
  return content.size() <= kLargeBytes ||
         wire::CheckValueCount(type, content, kMaxLargeValues).ok();
}

class AdapterService final : public flwr::proto::GrpcAdapter::WithRawCallbackMethod_SendReceive<
                                 flwr::proto::GrpcAdapter::Service> {
 public:
  explicit AdapterService(Fleet& fleet) : fleet_(fleet) {
    Add(&Fleet::RegisterNode);
    Add(&Fleet::ActivateNode);
    Add(&Fleet::DeactivateNode);
    Add(&Fleet::UnregisterNode);
    Add(&Fleet::SendNodeHeartbeat);
    Add(&Fleet::PushMessages);
    Add(&Fleet::GetRun);
    Add(&Fleet::GetFab);
    Add(&Fleet::PullObject);
    Add(&Fleet::ConfirmMessageReceived);
    Add<flwr::proto::PushObjectRequest, flwr::proto::PushObjectResponse>(
        [this](flwr::proto::PushObjectRequest& request) {
          return fleet_.PushObject(Caller::Keyless(), std::move(request));
        });
    Add<flwr::proto::PullMessagesRequest, flwr::proto::PullMessagesResponse>(
        [this](const flwr::proto::PullMessagesRequest& request) { return PullMessages(request); });
  }

  grpc::ServerUnaryReactor* SendReceive(grpc::CallbackServerContext* context,
                                        const grpc::ByteBuffer* bytes,
                                        grpc::ByteBuffer* response) override {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    absl::StatusOr<MessageContainer> request = ParseContainer(*bytes);
    const_cast<grpc::ByteBuffer*>(bytes)->Clear();
    if (!request.ok()) {
      reactor->Finish(ToGrpcStatus(request.status()));
      return reactor;
    }
    const auto call = calls_.find(request->grpc_message_name());
    const MessageContainer answer =
        call != calls_.end()
            ? call->second(request->grpc_message_content())
            : WithShouldExit({}, absl::StrCat("no such call: ", request->grpc_message_name()));
    bool own = false;
    reactor->Finish(grpc::SerializationTraits<MessageContainer>::Serialize(answer, response, &own));
    return reactor;
  }

 private:
  static absl::StatusOr<MessageContainer> ParseContainer(grpc::ByteBuffer bytes) {
    if (bytes.Length() > kLargeBytes) {
      grpc::ByteBuffer copy = bytes;
      grpc::ProtoBufferReader reader(&copy);
      FEDUMM_RETURN_IF_ERROR(
          wire::CheckValueCount(*MessageContainer::descriptor(), reader, kMaxLargeValues));
    }
    MessageContainer container;
    if (!grpc::SerializationTraits<MessageContainer>::Deserialize(&bytes, &container).ok()) {
      return absl::InvalidArgumentError("the container is malformed");
    }
    return container;
  }

  template <typename Request, typename Response>
  void Add(std::function<absl::StatusOr<Response>(Request&)> serve) {
    calls_[Request::descriptor()->name()] = [this, serve](const std::string& content) {
      Request request;
      if (!MayParse(*Request::descriptor(), content) || !request.ParseFromString(content)) {
        return WithShouldExit(Contain(Response()),
                              absl::StrCat("a malformed ", Request::descriptor()->name()));
      }
      const uint64_t node = NodeOf(request);
      const absl::StatusOr<Response> response = serve(request);
      const MessageContainer answer =
          Contain(response.ok() ? *response : FailedResponse<Response>(response.status()));
      if (!response.ok() && !MayContinue<Response>(response.status())) {
        return WithShouldExit(answer, response.status().message());
      }
      fleet_.CountTraffic(node, static_cast<int64_t>(content.size()) + kGrpcFrameBytes,
                          static_cast<int64_t>(answer.ByteSizeLong()) + kGrpcFrameBytes);
      return answer;
    };
  }
  template <typename Request, typename Response>
  void Add(absl::StatusOr<Response> (Fleet::*rpc)(const Caller&, const Request&)) {
    // Not .*: GCC 12 miscompiles that on a captured member pointer with -fsanitize=undefined.
    Add<Request, Response>([this, rpc](const Request& request) {
      return std::invoke(rpc, fleet_, Caller::Keyless(), request);
    });
  }

  // Answers at once: the owner of the tunnel may end a call that takes long.
  absl::StatusOr<flwr::proto::PullMessagesResponse> PullMessages(
      const flwr::proto::PullMessagesRequest& request) {
    absl::StatusOr<flwr::proto::PullMessagesResponse> pulled;
    fleet_.PullMessages(Caller::Keyless(), request, absl::ZeroDuration(), /*ticket=*/0,
                        [&pulled](absl::StatusOr<flwr::proto::PullMessagesResponse> response) {
                          pulled = std::move(response);
                        });
    return pulled;
  }

  Fleet& fleet_;
  std::map<std::string, std::function<MessageContainer(const std::string& content)>, std::less<>>
      calls_;  // by the name of the request
};

}  // namespace

class AdapterServer::Impl {
 public:
  explicit Impl(Fleet& fleet) : service(fleet) {}

  AdapterService service;
  GrpcListener listener;  // destroyed before the service
};

absl::StatusOr<std::unique_ptr<AdapterServer>> AdapterServer::Start(Fleet& fleet, Options options) {
  FEDUMM_RETURN_IF_ERROR(CheckLoopback(options.address));
  auto impl = std::make_unique<Impl>(fleet);
  FEDUMM_ASSIGN_OR_RETURN(impl->listener, StartGrpcListener({.address = options.address,
                                                             .tls = std::move(options.tls),
                                                             .limits = options.limits},
                                                            {&impl->service}));
  return std::unique_ptr<AdapterServer>(new AdapterServer(std::move(impl)));
}

AdapterServer::AdapterServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
AdapterServer::~AdapterServer() { Shutdown(); }

int AdapterServer::port() const { return impl_->listener.port; }

void AdapterServer::Shutdown() { impl_->listener.Shutdown(); }

}  // namespace fedumm::transport
