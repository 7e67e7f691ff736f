#include "programs/superexec.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/log.h"

namespace fedumm::programs {
namespace {

constexpr absl::Duration kLongestPause = absl::Seconds(30);
constexpr absl::Duration kStartupTime =
    absl::Minutes(1);  // an exit after this long is no failed start
constexpr absl::Duration kStopTime = absl::Seconds(5);

// The path of a program, as a shell finds it; empty if there is none.
std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return access(name.c_str(), X_OK) == 0 ? name : std::string();
  }
  const char* const path = std::getenv("PATH");
  for (const absl::string_view folder : absl::StrSplit(path == nullptr ? "" : path, ':')) {
    std::string file = absl::StrCat(folder.empty() ? "." : folder, "/", name);
    if (access(file.c_str(), X_OK) == 0) return file;
  }
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<SuperExec>> SuperExec::Start(const SuperExecOptions& options) {
  std::vector<std::string> command = {FindProgram(options.program), "--runtime-api-address",
                                      options.runtime_api_address};
  if (options.root_certificates.empty()) {
    command.emplace_back("--insecure");
  } else {
    command.emplace_back("--root-certificates");
    command.push_back(options.root_certificates);
  }
  if (options.install_dependencies) command.emplace_back("--allow-runtime-dependency-installation");
  if (command[0].empty()) {
    command[0] = "flower-superexec";
    return absl::NotFoundError(absl::StrCat(
        "there is no ", options.program,
        ", so runs stay pending: install Flower (pip install flwr) or start one beside this: ",
        absl::StrJoin(command, " ")));
  }
  command.emplace_back("--parent-pid");
  command.push_back(absl::StrCat(getpid()));
  std::unique_ptr<SuperExec> superexec(new SuperExec(std::move(command)));
  superexec->thread_ = std::thread([exec = superexec.get()] { exec->Run(); });
  return superexec;
}

SuperExec::~SuperExec() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    changed_.NotifyAll();
    if (child_ != 0) kill(-child_, SIGTERM);
    const absl::Time deadline = absl::Now() + kStopTime;
    while (child_ != 0 && absl::Now() < deadline) changed_.WaitFor(mu_, deadline - absl::Now());
    if (child_ != 0) kill(-child_, SIGKILL);
  }
  thread_.join();
}

void SuperExec::Run() {
  absl::Duration pause = absl::Seconds(1);
  while (true) {
    const absl::Time started = absl::Now();
    pid_t child = 0;
    {
      MutexLock lock(mu_);
      if (stopping_) return;
      child = child_ = Spawn();
    }
    if (child != 0) {
      siginfo_t info{};
      while (waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT) != 0 &&
             errno == EINTR) {
      }
      // Its children are killed too. The process group exists until its leader is reaped, so its
      // number cannot belong to another process yet.
      kill(-child, SIGKILL);
      MutexLock lock(mu_);
      waitpid(child, nullptr, 0);
      child_ = 0;
      changed_.NotifyAll();
      if (stopping_) return;
      Log()->error("{} exited ({} {}) and is restarted", command_[0],
                   info.si_code == CLD_EXITED ? "status" : "signal", info.si_status);
    }
    if (absl::Now() - started > kStartupTime) pause = absl::Seconds(1);
    const absl::Time next = absl::Now() + pause;
    pause = std::min(2 * pause, kLongestPause);
    MutexLock lock(mu_);
    while (!stopping_ && absl::Now() < next) changed_.WaitFor(mu_, next - absl::Now());
  }
}

pid_t SuperExec::Spawn() {
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  // A child would inherit which signals we block and ignore.
  sigset_t signals;
  sigemptyset(&signals);
  posix_spawnattr_setsigmask(&attributes, &signals);
  sigaddset(&signals, SIGPIPE);
  posix_spawnattr_setsigdefault(&attributes, &signals);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETPGROUP);
  std::vector<std::string> command = command_;
  std::vector<char*> arguments;
  for (std::string& word : command) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  pid_t child = 0;
  const int error =
      posix_spawn(&child, arguments[0], nullptr, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  if (error == 0) return child;
  Log()->error("cannot start {}: {}", command_[0], std::strerror(error));
  return 0;
}

}  // namespace fedumm::programs
