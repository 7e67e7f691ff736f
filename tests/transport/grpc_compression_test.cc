// Messages that were compressed are refused on both sides: a small one could unpack to gigabytes.
#include <gmock/gmock.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "fedumm/super_link.h"
#include "flwr/proto/fleet.grpc.pb.h"
#include "node/node_key.h"
#include "tests/testing/status_matchers.h"
#include "transport/grpc_client.h"

namespace fedumm {
namespace {

using flwr::proto::Fleet;
using flwr::proto::RegisterNodeFleetRequest;
using flwr::proto::RegisterNodeFleetResponse;

constexpr int64_t kUnpacked = 1 << 20;

TEST(GrpcCompressionTest, AServerRefusesACompressedRequest) {
  ASSERT_OK_AND_ASSIGN(const auto link, SuperLink::Start({.insecure = true}));
  RegisterNodeFleetRequest request;
  request.set_public_key(std::string(kUnpacked, 'a'));
  const auto outcome_of = [&](grpc_compression_algorithm algorithm) {
    grpc::ChannelArguments arguments;
    arguments.SetCompressionAlgorithm(algorithm);
    const auto stub =
        Fleet::NewStub(grpc::CreateCustomChannel(absl::StrCat("127.0.0.1:", link->fleet_port()),
                                                 grpc::InsecureChannelCredentials(), arguments));
    grpc::ClientContext context;
    RegisterNodeFleetResponse response;
    return stub->RegisterNode(&context, request, &response).error_code();
  };
  // Not compressed it comes to the Fleet API, which refuses the key.
  EXPECT_NE(outcome_of(GRPC_COMPRESS_NONE), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(outcome_of(GRPC_COMPRESS_GZIP), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(outcome_of(GRPC_COMPRESS_DEFLATE), grpc::StatusCode::UNIMPLEMENTED);
}

// Answers with a long text, compressed, whatever the client says that it takes.
class Compressing final : public Fleet::Service {
  grpc::Status GetRun(grpc::ServerContext* context, const flwr::proto::GetRunRequest*,
                      flwr::proto::GetRunResponse* response) override {
    context->set_compression_algorithm(algorithm);
    response->mutable_run()->set_fab_id(std::string(kUnpacked, 'a'));
    return grpc::Status::OK;
  }

 public:
  grpc_compression_algorithm algorithm = GRPC_COMPRESS_NONE;
};

TEST(GrpcCompressionTest, ANodeDoesNotUnpackACompressedResponse) {
  Compressing service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  ASSERT_OK_AND_ASSIGN(const NodeKey key, NodeKey::Generate());
  const auto client = NewGrpcFleetClient(
      {.server = {"127.0.0.1", static_cast<uint16_t>(port)}, .proxy = std::nullopt}, nullptr, key,
      {});
  const auto outcome_of = [&](grpc_compression_algorithm algorithm) {
    service.algorithm = algorithm;
    return client->GetRun({}, {.timeout = absl::Seconds(20)}).status();
  };
  EXPECT_THAT(outcome_of(GRPC_COMPRESS_NONE), testing::IsOk());
  EXPECT_FALSE(outcome_of(GRPC_COMPRESS_GZIP).ok());
  EXPECT_FALSE(outcome_of(GRPC_COMPRESS_DEFLATE).ok());
}

}  // namespace
}  // namespace fedumm
