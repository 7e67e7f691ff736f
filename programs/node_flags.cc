#include "programs/node_flags.h"

#include <array>
#include <cmath>
#include <utility>
#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "fedumm/settings.h"
#include "programs/program.h"

namespace fedumm::programs {
namespace {

constexpr std::array<std::pair<const char*, Transport>, 4> kTransports = {
    {{"auto", Transport::kAuto},
     {"grpc-rere", Transport::kGrpcRere},
     {"grpc-adapter", Transport::kGrpcAdapter},
     {"http", Transport::kHttp}}};

absl::StatusOr<Transport> TransportOf(const NodeFlags& flags) {
  std::vector<std::string> named;
  if (!flags.transport.empty()) named.push_back(flags.transport);
  if (flags.grpc_rere) named.emplace_back("grpc-rere");
  if (flags.grpc_adapter) named.emplace_back("grpc-adapter");
  for (const std::string& name : named) {
    if (name != named.front()) {
      return absl::InvalidArgumentError(absl::StrCat("the transport cannot be both ", named.front(),
                                                     " and ", name, ": pass --transport only"));
    }
  }
  for (const auto& [name, transport] : kTransports) {
    if (!named.empty() && named.front() == name) return transport;
  }
  return Transport::kAuto;
}

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  constexpr int64_t kMaxBytes = 1 << 20;
  if (path.empty()) return std::string();
  return ReadFile(path, kMaxBytes);
}

}  // namespace

void AddNodeFlags(CLI::App& app, NodeFlags& flags) {
  app.add_option("--superlink", flags.superlink, "HOST:PORT of the SuperLink")
      ->capture_default_str();
  app.add_option("--transport", flags.transport,
                 "What the SuperLink speaks: auto (finds out), grpc-rere (Flower up to 1.39), "
                 "grpc-adapter (under NVIDIA FLARE) or http (Flower from 1.40)")
      ->check(CLI::IsMember({"auto", "grpc-rere", "grpc-adapter", "http"}))
      ->default_str("auto");
  app.add_flag("--grpc-rere", flags.grpc_rere, "The same as --transport grpc-rere, as in Flower");
  app.add_flag("--grpc-adapter", flags.grpc_adapter,
               "The same as --transport grpc-adapter, as in Flower");
  app.add_flag("--insecure", flags.insecure,
               "Connect in plaintext, on a network that you trust. Without it the SuperLink must "
               "prove who it is (TLS)");
  app.add_option(
         "--root-certificates", flags.root_certificates,
         "PEM file of the certificate authorities that the SuperLink is checked by (default: the "
         "system's)")
      ->check(CLI::ExistingFile);
  app.add_option("--client-certfile", flags.client_certfile,
                 "This node's certificate chain (PEM), for a SuperLink that asks for one")
      ->check(CLI::ExistingFile);
  app.add_option("--client-keyfile", flags.client_keyfile, "Private key of that certificate (PEM)")
      ->check(CLI::ExistingFile);
  app.add_option("--auth-supernode-private-key", flags.private_key,
                 "File of the EC key that identifies this node (OpenSSH or PEM); the SuperLink "
                 "must know it (default: a fresh key)")
      ->check(CLI::ExistingFile);
  app.add_option("--node-config", flags.node_config,
                 "Properties of this node, e.g. 'partition-id=0 num-partitions=4'");
  app.add_option("--max-retries", flags.max_retries,
                 "Failed tries in a row before giving up (default: never)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--max-wait-time", flags.max_wait_time_s,
                 "Seconds without the SuperLink before giving up (default: never)")
      ->check(CLI::NonNegativeNumber);

  // They say how Flower's ClientApp processes are served. Here is none: the app runs in the node.
  constexpr const char* kIgnored = "Accepted for compatibility with Flower, without effect";
  const auto ignore = [](const std::vector<std::string>& /*values*/) { return true; };
  for (const char* name : {"--clientappio-api-address", "--host", "--port"}) {
    app.add_option(name, CLI::callback_t(ignore), "Where Flower's ClientApp processes connect")
        ->group(kIgnored);
  }
  app.add_flag_function(
         "--allow-runtime-dependency-installation", [](int64_t) {}, "There are none to install")
      ->group(kIgnored);
}

absl::StatusOr<SuperNodeOptions> ToSuperNodeOptions(const NodeFlags& flags) {
  SuperNodeOptions options{.superlink = flags.superlink, .insecure = flags.insecure};
  FEDUMM_ASSIGN_OR_RETURN(options.transport, TransportOf(flags));
  if (flags.insecure && !(flags.root_certificates.empty() && flags.client_certfile.empty() &&
                          flags.client_keyfile.empty())) {
    return absl::InvalidArgumentError("--insecure and certificates exclude each other");
  }
  if (flags.client_certfile.empty() != flags.client_keyfile.empty()) {
    return absl::InvalidArgumentError("--client-certfile and --client-keyfile need each other");
  }
  FEDUMM_ASSIGN_OR_RETURN(options.tls.root_certificates, ReadPem(flags.root_certificates));
  if (!flags.root_certificates.empty() && options.tls.root_certificates.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--root-certificates is an empty file: ", flags.root_certificates));
  }
  FEDUMM_ASSIGN_OR_RETURN(options.tls.certificate_chain, ReadPem(flags.client_certfile));
  FEDUMM_ASSIGN_OR_RETURN(options.tls.private_key, ReadPem(flags.client_keyfile));
  if (!flags.private_key.empty() && options.transport == Transport::kGrpcAdapter) {
    return absl::InvalidArgumentError(
        "--auth-supernode-private-key has no effect: the grpc-adapter carries no keys");
  }
  FEDUMM_ASSIGN_OR_RETURN(options.private_key, ReadPem(flags.private_key));
  if (!flags.private_key.empty() && options.private_key.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--auth-supernode-private-key is an empty file: ", flags.private_key));
  }
  FEDUMM_ASSIGN_OR_RETURN(options.node_config, ParseKeyValues(flags.node_config));
  options.max_retries = flags.max_retries;
  if (std::isnan(flags.max_wait_time_s)) {
    return absl::InvalidArgumentError("--max-wait-time is no number");
  }
  if (flags.max_wait_time_s >= 0) options.max_wait_time = absl::Seconds(flags.max_wait_time_s);
  return options;
}

absl::Status CheckNodeConfig(const ConfigRecord& node_config,
                             const std::function<void(const std::string&)>& tell) {
  const std::array<Setting, 2> table = {{{.key = "partition-id"}, {.key = "num-partitions"}}};
  for (const Setting& setting : table) {
    const ConfigValue* value = node_config.Find(setting.key);
    if (value == nullptr || !std::holds_alternative<int64_t>(*value)) {
      return absl::InvalidArgumentError(
          absl::StrCat("--node-config must say which part of the data is here: 'partition-id=0 "
                       "num-partitions=4'; it lacks a whole number for '",
                       setting.key, "'"));
    }
  }
  const auto id = std::get<int64_t>(*node_config.Find("partition-id"));
  const auto count = std::get<int64_t>(*node_config.Find("num-partitions"));
  if (count < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--node-config: num-partitions must be at least 1: ", count));
  }
  if (id < 0 || id >= count) {
    return absl::InvalidArgumentError(absl::StrCat("--node-config: partition-id must be from 0 to ",
                                                   count - 1, " (num-partitions - 1): ", id));
  }
  for (const auto& [key, value] : node_config) {
    if (FindSetting(table, key) != nullptr) continue;
    tell(absl::StrCat("--node-config: ", Quoted(key), " has no effect", DidYouMean(table, key)));
  }
  return absl::OkStatus();
}

}  // namespace fedumm::programs
