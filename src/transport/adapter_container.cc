#include "transport/adapter_container.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"

namespace fedumm::transport {

flwr::proto::MessageContainer Contain(const google::protobuf::Message& message) {
  const google::protobuf::Descriptor& type = *message.GetDescriptor();
  // flwr/proto/fleet.proto is Python's flwr.proto.fleet_pb2.
  const std::string module = absl::StrCat(
      absl::StrReplaceAll(absl::StripSuffix(type.file()->name(), ".proto"), {{"/", "."}}), "_pb2");
  flwr::proto::MessageContainer container;
  auto& metadata = *container.mutable_metadata();
  metadata["flower-package-name"] = "fedumm";
  metadata["flower-package-version"] = FEDUMM_VERSION;
  metadata["flower-version"] = FEDUMM_VERSION;
  metadata["grpc-message-module"] = module;
  metadata["grpc-message-qualname"] = type.name();
  container.set_grpc_message_name(type.name());
  message.SerializeToString(container.mutable_grpc_message_content());
  return container;
}

}  // namespace fedumm::transport
