// fedumm-superlink: a Flower SuperLink. It hosts the apps of `flwr run`; with --config it is
// `fedumm serve`, which brings a strategy of its own.
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/host_port.h"
#include "base/status_macros.h"
#include "fedumm/super_link.h"
#include "programs/program.h"
#include "programs/server_flags.h"
#include "programs/superexec.h"

namespace fedumm::programs {
namespace {

constexpr const char* kProgram = "fedumm-superlink";
constexpr const char* kSuperExec = "flower-superexec";
constexpr const char* kSubprocess = "subprocess";
constexpr const char* kProcess = "process";

struct Arguments {
  ServerFlags server;
  std::string isolation;  // empty: kSubprocess where HTTP is served
  std::string superexec;  // empty: kSuperExec
  bool install_dependencies = false;
};

bool IsConfig(const char* argument) {
  return std::strcmp(argument, "--config") == 0 ||
         std::strncmp(argument, "--config=", std::strlen("--config=")) == 0;
}

// Becomes `fedumm serve` with the same arguments. Returns only if that fails.
absl::Status BecomeServe(int argc, char** argv) {
  std::error_code error;
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe", error);
  std::string program = (self.parent_path() / "fedumm").string();
  std::string command = "serve";
  std::vector<char*> arguments = {program.data(), command.data()};
  for (int i = 1; i < argc; ++i) arguments.push_back(argv[i]);
  arguments.push_back(nullptr);
  execv(program.c_str(), arguments.data());
  return absl::NotFoundError(absl::StrCat(
      "--config needs the program 'fedumm', which is built with the model: cannot start ", program,
      ": ", std::strerror(errno)));
}

// Flags of the SuperExec, where none is started.
absl::Status CheckSuperExecFlags(const Arguments& arguments, bool starts_superexec) {
  if (starts_superexec) return absl::OkStatus();
  const char* flag = nullptr;
  if (!arguments.superexec.empty()) flag = "--superexec";
  if (arguments.install_dependencies) flag = "--allow-runtime-dependency-installation";
  if (arguments.isolation == kSubprocess) flag = "--isolation subprocess";
  if (flag == nullptr) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      flag, " has no effect: no flower-superexec is started here, since ",
      arguments.isolation == kProcess ? "--isolation is process" : "HTTP is off (--port)"));
}

absl::StatusOr<std::unique_ptr<SuperExec>> StartSuperExec(const Arguments& arguments,
                                                          const SuperLinkOptions& options,
                                                          const SuperLink& link) {
  FEDUMM_ASSIGN_OR_RETURN(HostPort http, HostPort::ParseListener(options.http_address));
  http.port = static_cast<uint16_t>(link.http_port());
  absl::StatusOr<std::unique_ptr<SuperExec>> superexec = SuperExec::Start(
      {.program = arguments.superexec.empty() ? kSuperExec : arguments.superexec,
       .runtime_api_address = http.ForLocalClient().ToString(),
       .root_certificates = arguments.server.insecure ? "" : arguments.server.ssl_ca_certfile,
       .install_dependencies = arguments.install_dependencies});
  // Nodes of other servers and apps of other SuperExecs can be served all the same.
  if (absl::IsNotFound(superexec.status()) && arguments.superexec.empty()) {
    std::fprintf(stderr, "%s: %s\n", kProgram, std::string(superexec.status().message()).c_str());
    return nullptr;
  }
  return superexec;
}

absl::Status Serve(const Arguments& arguments, const std::stop_token& stop) {
  FEDUMM_ASSIGN_OR_RETURN(SuperLinkOptions options, ToSuperLinkOptions(arguments.server, "8000"));
  const bool starts_superexec = arguments.isolation != kProcess && !options.http_address.empty();
  FEDUMM_RETURN_IF_ERROR(CheckSuperExecFlags(arguments, starts_superexec));
  if (options.tls.has_value() && arguments.server.ssl_ca_certfile.empty() && starts_superexec) {
    return absl::InvalidArgumentError(
        "--ssl-ca-certfile is needed too, for the SuperExec that is started here; or pass "
        "--isolation process and start one yourself");
  }
  FEDUMM_RETURN_IF_ERROR(StartLog("", arguments.server.verbose));
  RaiseDescriptorLimit();
  options.on_event = PrintLine;
  options.host_apps = true;
  options.max_pull_hold = absl::Seconds(15);
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<SuperLink> link, SuperLink::Start(options));
  std::unique_ptr<KeyFile> keys;
  if (!arguments.server.supernode_keys.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(keys, KeyFile::Follow(*link, arguments.server.supernode_keys));
  }
  std::unique_ptr<SuperExec> superexec;
  if (starts_superexec) {
    FEDUMM_ASSIGN_OR_RETURN(superexec, StartSuperExec(arguments, options, *link));
  }
  std::printf("SuperLink ready: %s\n", DescribePorts(*link, options).c_str());
  std::fflush(stdout);
  if (!arguments.server.port_file.empty()) {
    FEDUMM_RETURN_IF_ERROR(WritePorts(*link, arguments.server.port_file));
  }
  std::mutex mutex;
  std::condition_variable_any stopped;
  std::unique_lock<std::mutex> lock(mutex);
  stopped.wait(lock, stop, [] { return false; });
  return absl::OkStatus();
}

}  // namespace
}  // namespace fedumm::programs

namespace {

int Main(int argc, char** argv) {
  using namespace fedumm::programs;
  for (int i = 1; i < argc; ++i) {
    if (IsConfig(argv[i])) return Fail(kProgram, BecomeServe(argc, argv));
  }
  Arguments arguments;
  CLI::App app(
      "A Flower SuperLink: serves SuperNodes of Flower and fedumm over gRPC and HTTP at once, and "
      "hosts the apps that `flwr run` sends.",
      kProgram);
  std::string config;
  app.add_option("--config", config,
                 "Settings (TOML) of a fine-tuning with a strategy in C++: runs it instead, as "
                 "`fedumm serve` does, whose --help tells the other flags");
  AddServerFlags(app, arguments.server);
  app.add_option("--isolation", arguments.isolation,
                 "subprocess: start a flower-superexec, which runs the ServerApps; process: one is "
                 "started beside this server")
      ->check(CLI::IsMember({kSubprocess, kProcess}))
      ->default_str(kSubprocess);
  app.add_option("--superexec", arguments.superexec,
                 "The flower-superexec to start: a path, or a name to be found in PATH")
      ->default_str(kSuperExec);
  CLI::Option* const install =
      app.add_flag("--allow-runtime-dependency-installation", arguments.install_dependencies,
                   "Let ServerApps install what their pyproject.toml asks for");
  app.get_option("--disable-runtime-dependency-installation")->excludes(install);
  if (const int code = ParseArguments(app, argc, argv); code >= 0) return code;
  const SignalStop signals;
  const absl::Status status = Serve(arguments, signals.token());
  return status.ok() ? kExitOk : Fail(kProgram, status);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Main(argc, argv);
  } catch (const std::exception& error) {  // out of memory, say
    return fedumm::programs::Fail("fedumm-superlink", absl::InternalError(error.what()));
  }
}
