#include "programs/program.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "spdlog/sinks/basic_file_sink.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"
#include "transport/grpc_log.h"

namespace fedumm::programs {
namespace {

constexpr size_t kMaxErrorCharacters = 10'000;

ConfigValue ScalarOf(const std::string& text, bool quoted) {
  int64_t integer = 0;
  double number = 0;
  if (quoted) return text;
  if (text == "true" || text == "false") return text == "true";
  if (absl::SimpleAtoi(text, &integer)) return integer;
  if (absl::SimpleAtod(text, &number)) return number;
  return text;
}

}  // namespace

int ParseArguments(CLI::App& app, int argc, char** argv) {
  app.set_version_flag("--version", std::string(app.get_name()) + " (fedumm) " FEDUMM_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    app.exit(done);
    return kExitOk;
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "%s: %s; see %s --help\n", app.get_name().c_str(),
                 Printable(error.what(), kMaxErrorCharacters).c_str(), app.get_name().c_str());
    return kExitUsage;
  }
  return -1;
}

int Fail(const std::string& program, const absl::Status& status) {
  if (absl::IsCancelled(status)) {
    std::fprintf(stderr, "%s: stopped\n", program.c_str());
    return kExitStopped;
  }
  std::fprintf(stderr, "%s: %s\n", program.c_str(),
               Printable(status.message(), kMaxErrorCharacters).c_str());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
    case absl::StatusCode::kUnimplemented:       // a file of a kind that we do not read
    case absl::StatusCode::kResourceExhausted:   // a file beyond its limit
    case absl::StatusCode::kFailedPrecondition:  // settings that do not fit what is there
      return kExitUsage;
    default:
      return kExitFailed;
  }
}

absl::Status Failed(const absl::Status& status) {
  if (status.ok() || absl::IsCancelled(status)) return status;
  return absl::InternalError(status.message());
}

SignalStop::SignalStop() {
  std::signal(SIGPIPE, SIG_IGN);
  sigemptyset(&signals_);
  sigaddset(&signals_, SIGINT);
  sigaddset(&signals_, SIGTERM);
  sigaddset(&signals_, SIGUSR1);  // ours, to end the thread
  pthread_sigmask(SIG_BLOCK, &signals_, nullptr);
  thread_ = std::thread([this] {
    for (;;) {
      int signal = 0;
      if (sigwait(&signals_, &signal) != 0) continue;
      if (signal == SIGUSR1) return;
      if (source_.stop_requested()) _exit(kExitStopped);
      source_.request_stop();
    }
  });
}

SignalStop::~SignalStop() {
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

absl::Status StartLog(const std::string& path, bool verbose) {
  try {
    std::vector<spdlog::sink_ptr> sinks;
    auto terminal = std::make_shared<spdlog::sinks::stderr_color_sink_mt>();
    terminal->set_level(verbose ? spdlog::level::debug : spdlog::level::warn);
    sinks.push_back(terminal);
    if (!path.empty()) {
      sinks.push_back(std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
    }
    auto logger = std::make_shared<spdlog::logger>("fedumm", sinks.begin(), sinks.end());
    logger->set_level(verbose ? spdlog::level::debug : spdlog::level::info);
    logger->flush_on(spdlog::level::info);
    spdlog::register_logger(logger);
    transport::RouteGrpcLog();
    return absl::OkStatus();
  } catch (const spdlog::spdlog_ex& error) {
    return absl::InvalidArgumentError(absl::StrCat("cannot log to ", path, ": ", error.what()));
  }
}

void RaiseDescriptorLimit() {
  constexpr rlim_t kMost = 1'000'000;  // some programs visit each number up to the limit
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  const rlim_t before = limit.rlim_cur;
  limit.rlim_cur = std::max(before, std::min(limit.rlim_max, kMost));
  if (limit.rlim_cur == before) return;
  if (setrlimit(RLIMIT_NOFILE, &limit) == 0) {
    Log()->info("raised the limit of open files from {} to {}", before, limit.rlim_cur);
  } else {
    Log()->warn("cannot raise the limit of open files from {}: {}", before, std::strerror(errno));
  }
}

absl::StatusOr<ConfigRecord> ParseKeyValues(const std::string& text) {
  ConfigRecord record;
  size_t i = 0;
  while (i < text.size()) {
    if (std::isspace(static_cast<unsigned char>(text[i])) != 0) {
      ++i;
      continue;
    }
    const size_t equals = text.find('=', i);
    const std::string key = text.substr(i, equals == std::string::npos ? equals : equals - i);
    if (equals == std::string::npos || key.empty() ||
        key.find_first_of(" \t\n\"'") != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", text.substr(i), "' is not of the form key=value"));
    }
    i = equals + 1;
    const char quote = i < text.size() && (text[i] == '"' || text[i] == '\'') ? text[i] : '\0';
    const size_t end = quote != '\0' ? text.find(quote, i + 1) : text.find_first_of(" \t\n", i);
    if (quote != '\0' && end == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("the value of '", key, "' lacks its closing quote"));
    }
    const size_t begin = quote != '\0' ? i + 1 : i;
    const std::string value = text.substr(begin, end == std::string::npos ? end : end - begin);
    if (record.contains(key)) {
      return absl::InvalidArgumentError(absl::StrCat("'", key, "' is given twice"));
    }
    record.Set(key, ScalarOf(value, quote != '\0'));
    if (end == std::string::npos) break;
    i = end + 1;
  }
  return record;
}

void PrintLine(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

std::string CommandLine(int argc, char** argv) {
  std::string line;
  for (int i = 0; i < argc; ++i) {
    std::string word = argv[i];
    if (i == 0) word = std::filesystem::path(word).filename().string();
    if (word.find(' ') != std::string::npos) word = absl::StrCat("'", word, "'");
    absl::StrAppend(&line, line.empty() ? "" : " ", word);
  }
  return line;
}

absl::Status MakeRunDir(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("cannot make ", path, ": ", error.message()));
}

}  // namespace fedumm::programs
