// What all programs share: arguments, exit codes, signals, the log.
#pragma once

#include <csignal>
#include <stop_token>
#include <string>
#include <thread>

#include "CLI/App.hpp"
#include "CLI/Config.hpp"
#include "CLI/Formatter.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace fedumm::programs {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;      // a wrong flag, a bad or missing file
inline constexpr int kExitStopped = 130;  // by a signal

// Parses the arguments. Returns -1, or the code to exit with: after --help and --version, which
// print to stdout, or after a mistake, which prints one line to stderr.
int ParseArguments(CLI::App& app, int argc, char** argv);

// Prints a failure as one line on stderr and returns its exit code: kExitUsage for what the caller
// can correct (flags, files), kExitStopped for CANCELLED, else kExitFailed.
int Fail(const std::string& program, const absl::Status& status);

// `status` as a failure of the work and not of what the user named: INTERNAL with the same message,
// so that the exit code is 1. OK and CANCELLED stay.
absl::Status Failed(const absl::Status& status);

// Turns the first SIGINT or SIGTERM into a stop request; the second ends the process at once. From
// then on SIGPIPE is ignored: a closed output pipe or connection is an error of the write, and does
// not end the process. Make it before any other thread.
class SignalStop {
 public:
  SignalStop();
  ~SignalStop();
  SignalStop(const SignalStop&) = delete;
  SignalStop& operator=(const SignalStop&) = delete;

  std::stop_token token() const { return source_.get_token(); }

 private:
  std::stop_source source_;
  sigset_t signals_;
  std::thread thread_;
};

// The logger named "fedumm": to `path` if it is not empty, and warnings (or, if `verbose`, all) to
// stderr. gRPC's own lines go there too, at level debug.
absl::Status StartLog(const std::string& path, bool verbose);

// Raises the limit of open files from the soft one, which a login shell sets to 1024, to the hard
// one, at most a million; each connection takes one. Logged at info: call it after StartLog.
void RaiseDescriptorLimit();

// `text` of the form 'key=value key2="two words"' as Flower's --node-config takes it. Numbers and
// booleans are recognised. INVALID_ARGUMENT names what is wrong.
absl::StatusOr<ConfigRecord> ParseKeyValues(const std::string& text);

// Prints a line to stdout at once. Thread-safe.
void PrintLine(const std::string& line);

// The command line as it could be typed again, for the report.
std::string CommandLine(int argc, char** argv);

// Makes the folder of a run, and those above it.
absl::Status MakeRunDir(const std::string& path);

}  // namespace fedumm::programs
