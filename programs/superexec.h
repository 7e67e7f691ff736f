// The process that runs ServerApps for a SuperLink: Flower's own flower-superexec.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"

namespace fedumm::programs {

struct SuperExecOptions {
  std::string program = "flower-superexec";  // a path, or a name to be found in PATH
  std::string runtime_api_address;
  std::string root_certificates;  // file; empty: plaintext
  bool install_dependencies = false;
};

// Runs a flower-superexec and restarts it when it exits. Destruction stops it and its children, at
// the latest after some seconds. Thread-safe.
class SuperExec {
 public:
  // NOT_FOUND, saying what to do, if there is no such program.
  static absl::StatusOr<std::unique_ptr<SuperExec>> Start(const SuperExecOptions& options);
  ~SuperExec();

 private:
  explicit SuperExec(std::vector<std::string> command) : command_(std::move(command)) {}
  void Run();
  pid_t Spawn();

  const std::vector<std::string> command_;
  Mutex mu_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  pid_t child_ ABSL_GUARDED_BY(mu_) = 0;  // leader of its own process group; 0: none runs
  std::thread thread_;
};

}  // namespace fedumm::programs
