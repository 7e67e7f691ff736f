#include "programs/server_flags.h"

#include <sys/stat.h>

#include <condition_variable>
#include <cstdint>
#include <limits>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "base/host_port.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace fedumm::programs {
namespace {

constexpr const char* kOff = "off";
constexpr const char* kDefaultHost = "127.0.0.1";
constexpr const char* kInMemory = ":memory:";
constexpr int64_t kMaxPemBytes = 1 << 20;
constexpr int64_t kMaxKeyFileBytes = 64 << 20;
constexpr auto kKeyFileInterval = std::chrono::seconds(1);

std::string AddressOf(const std::string& address) { return address == kOff ? "" : address; }

// Where HTTP listens; empty if it is off.
absl::StatusOr<std::string> HttpAddressOf(const ServerFlags& flags,
                                          const std::string& default_port) {
  if (!flags.control_api_address.empty()) {
    for (const auto& [name, value] : {std::pair("--host", &flags.host), {"--port", &flags.port}}) {
      if (value->empty()) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("--control-api-address and ", name, " exclude each other"));
    }
    return AddressOf(flags.control_api_address);
  }
  const std::string port = flags.port.empty() ? default_port : flags.port;
  if (port == kOff) {
    if (flags.host.empty()) return std::string();
    return absl::InvalidArgumentError("--host has no effect, since HTTP is off: pass --port too");
  }
  uint32_t number = 0;
  if (!absl::SimpleAtoi(port, &number) || number > std::numeric_limits<uint16_t>::max()) {
    return absl::InvalidArgumentError(absl::StrCat("--port is no port: ", port));
  }
  const absl::StatusOr<HostPort> address = HostPort::FromHost(
      flags.host.empty() ? kDefaultHost : flags.host, static_cast<uint16_t>(number));
  if (address.ok()) return address->ToString();
  return absl::InvalidArgumentError(absl::StrCat("--host: ", address.status().message()));
}

absl::StatusOr<std::optional<ServerTls>> TlsOf(const ServerFlags& flags) {
  const bool names_files = !flags.ssl_certfile.empty() || !flags.ssl_keyfile.empty() ||
                           !flags.ssl_ca_certfile.empty() || !flags.ssl_client_ca_certfile.empty();
  if (flags.insecure) {
    if (!names_files) return std::nullopt;
    return absl::InvalidArgumentError("--insecure and certificates exclude each other");
  }
  if (!names_files) {
    return absl::InvalidArgumentError(
        "pass --ssl-certfile and --ssl-keyfile to serve over TLS, or --insecure to serve in "
        "plaintext on a network that you trust");
  }
  if (flags.ssl_certfile.empty() && flags.ssl_keyfile.empty()) {
    return absl::InvalidArgumentError(
        "--ssl-ca-certfile and --ssl-client-ca-certfile need --ssl-certfile and --ssl-keyfile");
  }
  if (flags.ssl_certfile.empty() || flags.ssl_keyfile.empty()) {
    return absl::InvalidArgumentError("--ssl-certfile and --ssl-keyfile need each other");
  }
  ServerTls tls;
  FEDUMM_ASSIGN_OR_RETURN(tls.certificate_chain, ReadFile(flags.ssl_certfile, kMaxPemBytes));
  FEDUMM_ASSIGN_OR_RETURN(tls.private_key, ReadFile(flags.ssl_keyfile, kMaxPemBytes));
  if (!flags.ssl_client_ca_certfile.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(tls.client_ca, ReadFile(flags.ssl_client_ca_certfile, kMaxPemBytes));
  }
  return tls;
}

absl::StatusOr<std::vector<std::string>> ReadKeys(const std::string& path) {
  FEDUMM_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxKeyFileBytes));
  std::vector<std::string> keys;
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const absl::string_view key = absl::StripAsciiWhitespace(line);
    if (!key.empty() && key[0] != '#') keys.emplace_back(key);
  }
  return keys;
}

// Differs when the file was written or replaced.
std::string StampOf(const std::string& path) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return "";
  return absl::StrCat(info.st_ino, " ", info.st_size, " ", info.st_mtim.tv_sec, " ",
                      info.st_mtim.tv_nsec);
}

void AddCompatibilityFlags(CLI::App& app, ServerFlags& flags) {
  constexpr const char* kGroup = "Of Flower, for compatibility";
  app.add_option("--serverappio-api-address", flags.serverappio_api_address,
                 "Where apps connect, which is the address of HTTP")
      ->group(kGroup);
  const auto is_in_memory = [](const std::string& value) -> std::string {
    if (value == kInMemory) return "";
    return absl::StrCat("'", Printable(value),
                        "' is not supported: state is kept in memory and is "
                        "lost when the server stops; leave the flag out or pass '",
                        kInMemory, "'");
  };
  app.add_option("--database",
                 CLI::callback_t([](const std::vector<std::string>& /*values*/) { return true; }),
                 "Only ':memory:': state is kept in memory")
      ->check(is_in_memory)
      ->group(kGroup);
  app.add_flag_function(
         "--disable-runtime-dependency-installation", [](int64_t) {}, "So it is by default")
      ->group(kGroup);
}

}  // namespace

void AddServerFlags(CLI::App& app, ServerFlags& flags) {
  app.add_flag("--insecure", flags.insecure,
               "Serve in plaintext, which must be asked for: on a network that you trust");
  app.add_option("--ssl-certfile", flags.ssl_certfile,
                 "The server's certificate chain (PEM), for TLS on every transport")
      ->check(CLI::ExistingFile);
  app.add_option("--ssl-keyfile", flags.ssl_keyfile, "Private key of the certificate (PEM)")
      ->check(CLI::ExistingFile);
  app.add_option("--ssl-ca-certfile", flags.ssl_ca_certfile,
                 "CA certificate (PEM) that the SuperExec started here trusts")
      ->check(CLI::ExistingFile);
  app.add_option("--ssl-client-ca-certfile", flags.ssl_client_ca_certfile,
                 "CA certificate (PEM): peers must show a certificate that it signed (mTLS)")
      ->check(CLI::ExistingFile);
  app.add_option("--host", flags.host,
                 "Where HTTP listens: a name or an IP address, an IPv6 address with or without "
                 "brackets")
      ->default_str(kDefaultHost);
  app.add_option("--port", flags.port,
                 "Port of HTTP (SuperNodes from 1.40, flwr, flower-superexec); 0 takes a free one, "
                 "'off' leaves HTTP out");
  app.add_option("--control-api-address", flags.control_api_address,
                 "HOST:PORT in place of --host and --port, as some of Flower's versions call it");
  app.add_option("--fleet-api-address", flags.fleet_api_address,
                 "HOST:PORT of gRPC (SuperNodes up to 1.39); port 0 takes a free one, 'off' leaves "
                 "gRPC out")
      ->capture_default_str();
  app.add_option("--fleet-api-type", flags.fleet_api_type,
                 "What is spoken there; grpc-adapter is the tunnel of NVIDIA FLARE")
      ->check(CLI::IsMember({"grpc-rere", "grpc-adapter"}))
      ->capture_default_str();
  app.add_option("--grpc-adapter-address", flags.grpc_adapter_address,
                 "HOST:PORT of the grpc-adapter, beside gRPC. Its nodes have no keys: loopback "
                 "only");
  app.add_flag("--enable-supernode-auth", flags.enable_supernode_auth,
               "Only nodes with known keys may join: those of --supernode-keys, or registered with "
               "`flwr supernode register`");
  app.add_option("--supernode-keys", flags.supernode_keys,
                 "File of public keys that may join, one a line (OpenSSH); read again when it "
                 "changes")
      ->check(CLI::ExistingFile);
  app.add_flag("--allow-remote-control", flags.allow_remote_control,
               "Let other machines run apps here (flwr run). There are no accounts: whoever "
               "reaches the port runs code here and on all nodes");
  app.add_option("--port-file", flags.port_file,
                 "Write the ports here once nodes can connect: gRPC's, then NAME PORT lines");
  app.add_flag("-v,--verbose", flags.verbose, "Log everything to the terminal");
  AddCompatibilityFlags(app, flags);
}

absl::StatusOr<SuperLinkOptions> ToSuperLinkOptions(const ServerFlags& flags,
                                                    const std::string& default_port) {
  SuperLinkOptions options;
  FEDUMM_ASSIGN_OR_RETURN(options.tls, TlsOf(flags));
  options.insecure = flags.insecure;
  FEDUMM_ASSIGN_OR_RETURN(options.http_address, HttpAddressOf(flags, default_port));
  options.fleet_api_address = AddressOf(flags.fleet_api_address);
  options.grpc_adapter_address = AddressOf(flags.grpc_adapter_address);
  if (flags.fleet_api_type == "grpc-adapter") {
    if (!options.grpc_adapter_address.empty()) {
      return absl::InvalidArgumentError(
          "--fleet-api-type grpc-adapter and --grpc-adapter-address exclude each other");
    }
    std::swap(options.fleet_api_address, options.grpc_adapter_address);
  }
  if (options.http_address.empty() && options.fleet_api_address.empty() &&
      options.grpc_adapter_address.empty()) {
    return absl::InvalidArgumentError("all transports are off");
  }
  if (!flags.serverappio_api_address.empty() &&
      flags.serverappio_api_address != options.http_address) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--serverappio-api-address ", flags.serverappio_api_address,
        " is not supported: ServerApps connect over HTTP, whose address --host and --port give"));
  }
  if (flags.allow_remote_control && options.http_address.empty()) {
    return absl::InvalidArgumentError(
        "--allow-remote-control has no effect, since HTTP is off: pass --port too");
  }
  if (!flags.supernode_keys.empty() && !flags.enable_supernode_auth) {
    return absl::InvalidArgumentError("--supernode-keys needs --enable-supernode-auth");
  }
  options.enable_supernode_auth = flags.enable_supernode_auth;
  if (!flags.supernode_keys.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(options.allowed_keys, ReadKeys(flags.supernode_keys));
  }
  options.allow_remote_control = flags.allow_remote_control;
  return options;
}

absl::Status WritePorts(const SuperLink& link, const std::string& path) {
  std::string text = absl::StrCat(link.fleet_port(), "\n");
  if (link.http_port() != 0) absl::StrAppend(&text, "http ", link.http_port(), "\n");
  if (link.grpc_adapter_port() != 0) {
    absl::StrAppend(&text, "grpc-adapter ", link.grpc_adapter_port(), "\n");
  }
  return WriteFileAtomically(path, text);
}

std::string DescribePorts(const SuperLink& link, const SuperLinkOptions& options) {
  std::vector<std::string> parts;
  const auto add = [&](const char* name, const std::string& address, int port) {
    if (port == 0) return;
    // The server listens there, so it is an address.
    const std::string host = HostPort::ParseListener(address)->host;
    parts.push_back(
        absl::StrCat(name, " ", HostPort{host, static_cast<uint16_t>(port)}.ToString()));
  };
  add("gRPC", options.fleet_api_address, link.fleet_port());
  add("HTTP", options.http_address, link.http_port());
  add("grpc-adapter", options.grpc_adapter_address, link.grpc_adapter_port());
  return absl::StrJoin(parts, ", ");
}

absl::StatusOr<std::unique_ptr<KeyFile>> KeyFile::Follow(SuperLink& link, const std::string& path) {
  std::string stamp = StampOf(path);
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<std::string> keys, ReadKeys(path));
  FEDUMM_RETURN_IF_ERROR(link.AllowKeys(keys));
  std::jthread thread([&link, path, stamp](const std::stop_token& stop) mutable {
    std::mutex mutex;
    std::condition_variable_any wait;
    std::unique_lock<std::mutex> lock(mutex);
    while (!stop.stop_requested()) {
      wait.wait_for(lock, stop, kKeyFileInterval, [] { return false; });
      const std::string now = StampOf(path);
      if (now == stamp) continue;
      stamp = now;
      const absl::StatusOr<std::vector<std::string>> changed = ReadKeys(path);
      const absl::Status status = changed.ok() ? link.AllowKeys(*changed) : changed.status();
      if (status.ok()) {
        Log()->info("{} keys may join now, as {} says", changed->size(), path);
      } else {
        Log()->error("{} is not used, the last keys stay: {}", path, Printable(status.message()));
      }
    }
  });
  return std::unique_ptr<KeyFile>(new KeyFile(std::move(thread)));
}

}  // namespace fedumm::programs
