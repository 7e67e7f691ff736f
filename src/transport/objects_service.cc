#include "transport/objects_service.h"

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/proto/objects.grpc.pb.h"
#include "link/object_streams.h"
#include "transport/grpc_calls.h"
#include "transport/object_buffers.h"

namespace fedumm::transport {
namespace {

using grpc::ByteBuffer;
using grpc::CallbackServerContext;
using grpc::ServerReadReactor;
using grpc::ServerWriteReactor;
using link::Caller;
using link::Fleet;

// One call of PullObjects: a frame is made when the last one has left. Deletes itself in
// OnDone.
class PullReactor final : public ServerWriteReactor<ByteBuffer> {
 public:
  PullReactor(Fleet& fleet, const Caller& caller, ByteBuffer request) : fleet_(fleet) {
    const auto num_bytes = static_cast<int64_t>(request.Length());  // parsing empties it
    proto::PullObjectsRequest parsed;
    const grpc::Status status =
        grpc::SerializationTraits<proto::PullObjectsRequest>::Deserialize(&request, &parsed);
    if (!status.ok()) {
      Finish({grpc::StatusCode::INVALID_ARGUMENT, "the request is malformed"});
      return;
    }
    node_ = parsed.node_id();
    absl::StatusOr<link::ObjectPull> pull = fleet_.PullObjects(caller, parsed);
    if (!pull.ok()) {
      Finish(ToGrpcStatus(pull.status()));
      return;
    }
    fleet_.CountTraffic(node_, num_bytes + kGrpcFrameBytes, 0);
    pull_.emplace(*std::move(pull));
    WriteNext();
  }

 private:
  void WriteNext() {
    const absl::StatusOr<std::vector<wire::Object>> objects = pull_->Next(wire::kFrameBytes);
    if (!objects.ok() || objects->empty()) {
      Finish(ToGrpcStatus(objects.status()));
      return;
    }
    frame_ = FrameBuffer({}, *objects);
    fleet_.CountTraffic(node_, 0, static_cast<int64_t>(frame_.Length()) + kGrpcFrameBytes);
    StartWrite(&frame_);
  }
  void OnWriteDone(bool ok) override {
    if (ok) {
      WriteNext();
    } else {
      Finish(grpc::Status::CANCELLED);
    }
  }
  void OnDone() override { delete this; }

  Fleet& fleet_;
  uint64_t node_ = 0;
  std::optional<link::ObjectPull> pull_;
  ByteBuffer frame_;
};

// One call of PushObjects: a frame is read when the last one has been stored. Deletes itself in
// OnDone.
class PushReactor final : public ServerReadReactor<ByteBuffer> {
 public:
  PushReactor(Fleet& fleet, const Limits& limits, Caller caller, ByteBuffer& response)
      : fleet_(fleet), limits_(limits), caller_(std::move(caller)), response_(response) {
    StartRead(&frame_);
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) {  // the end of the stream, or the peer disconnected
      FinishWith(push_.has_value() ? push_->response() : proto::PushObjectsResponse());
      return;
    }
    const absl::StatusOr<bool> stored = StoreFrame();
    if (!stored.ok()) {
      Finish(ToGrpcStatus(stored.status()));
    } else if (!*stored) {
      FinishWith(push_->response());
    } else {
      StartRead(&frame_);
    }
  }
  void OnDone() override { delete this; }

  absl::StatusOr<bool> StoreFrame() {
    const auto num_bytes = static_cast<int64_t>(frame_.Length());
    // A signature is good for one check: in a call that goes on, the first frame has passed it.
    if (num_bytes > limits_.max_call_bytes && !push_.has_value() &&
        num_bytes > fleet_.MaxUploadBytes(caller_, num_bytes)) {
      return absl::InvalidArgumentError(absl::StrCat("a frame of ", num_bytes, " bytes"));
    }
    FEDUMM_ASSIGN_OR_RETURN(wire::ReceivedFrame frame, ParseFrameBuffer(frame_, limits_));
    frame_.Clear();
    if (!push_.has_value()) {
      node_ = frame.node_id;
      FEDUMM_ASSIGN_OR_RETURN(
          link::ObjectPush push,
          fleet_.PushObjects(caller_, {frame.node_id, frame.run_id, std::move(frame.session_id)}));
      push_.emplace(std::move(push));
    }
    fleet_.CountTraffic(node_, num_bytes + kGrpcFrameBytes, 0);
    for (wire::ReceivedObject& object : frame.objects) {
      FEDUMM_ASSIGN_OR_RETURN(const bool stored,
                              push_->Add(std::move(object.id), std::move(object.bytes)));
      if (!stored) return false;
    }
    return true;
  }
  void FinishWith(const proto::PushObjectsResponse& response) {
    bool own = false;
    const grpc::Status status = grpc::SerializationTraits<proto::PushObjectsResponse>::Serialize(
        response, &response_, &own);
    Finish(status);
  }

  Fleet& fleet_;
  const Limits& limits_;
  const Caller caller_;
  ByteBuffer& response_;
  ByteBuffer frame_;
  uint64_t node_ = 0;
  std::optional<link::ObjectPush> push_;  // set by the first frame
};

using RawPull = proto::Objects::WithRawCallbackMethod_PullObjects<proto::Objects::Service>;
using RawService = proto::Objects::WithRawCallbackMethod_PushObjects<RawPull>;

class ObjectsService final : public RawService {
 public:
  ObjectsService(Fleet& fleet, const Limits& limits) : fleet_(fleet), limits_(limits) {}

  ServerWriteReactor<ByteBuffer>* PullObjects(CallbackServerContext* context,
                                              const ByteBuffer* request) override {
    return new PullReactor(fleet_, CallerOf(*context), *request);
  }
  ServerReadReactor<ByteBuffer>* PushObjects(CallbackServerContext* context,
                                             ByteBuffer* response) override {
    return new PushReactor(fleet_, limits_, CallerOf(*context), *response);
  }

 private:
  Fleet& fleet_;
  const Limits limits_;
};

}  // namespace

std::unique_ptr<grpc::Service> NewObjectsService(Fleet& fleet, const Limits& limits) {
  return std::make_unique<ObjectsService>(fleet, limits);
}

}  // namespace fedumm::transport
