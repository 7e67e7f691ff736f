#pragma once

#include <google/protobuf/message.h>

#include <string>

#include "flwr/proto/grpcadapter.pb.h"

namespace fedumm::transport {

// In a container's metadata, "true": the node must exit.
inline constexpr char kShouldExit[] = "should-exit";

// A message of the Fleet API in Flower's tunnel, with the metadata that Flower's peers attach.
flwr::proto::MessageContainer Contain(const google::protobuf::Message& message);

}  // namespace fedumm::transport
