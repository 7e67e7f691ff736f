#include "programs/model_flags.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "programs/report/format.h"

namespace fedumm::programs {
namespace {

absl::StatusOr<std::optional<at::ScalarType>> ParseDType(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  return absl::InvalidArgumentError(
      absl::StrCat("--dtype must be auto, float32, bfloat16 or float16: ", name));
}

// One line on stderr, at most ten times a second, which goes away with it.
class LoadingLine {
 public:
  LoadingLine() : is_shown_(isatty(STDERR_FILENO) == 1) {}
  ~LoadingLine() {
    if (is_drawn_) std::fprintf(stderr, "\r\033[K");
  }
  LoadingLine(const LoadingLine&) = delete;
  LoadingLine& operator=(const LoadingLine&) = delete;

  void Show(int64_t done, int64_t total) {
    const Clock::time_point now = Clock::now();
    if (!is_shown_ || total <= 0 || now < next_) return;
    next_ = now + std::chrono::milliseconds(100);
    is_drawn_ = true;
    const int filled = static_cast<int>(static_cast<double>(done) / total * kWidth);
    std::fprintf(stderr, "\rloading [%s%s] %s of %s\033[K", std::string(filled, '#').c_str(),
                 std::string(kWidth - filled, ' ').c_str(),
                 HumanBytes(static_cast<double>(done)).c_str(),
                 HumanBytes(static_cast<double>(total)).c_str());
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr int kWidth = 30;
  const bool is_shown_;
  bool is_drawn_ = false;
  // A loading that is over sooner draws nothing.
  Clock::time_point next_ = Clock::now() + std::chrono::milliseconds(100);
};

}  // namespace

void AddModelFlags(CLI::App& command, ModelFlags& flags) {
  command.add_option("--model", flags.folder, "Checkpoint folder")
      ->required()
      ->check(CLI::ExistingDirectory);
  command.add_option("--adapter", flags.adapter, "Adapter folder in PEFT's format")
      ->check(CLI::ExistingDirectory);
  command
      .add_option("--dtype", flags.dtype, "auto (that of the files), float32, bfloat16, float16")
      ->capture_default_str();
  command.add_option("--device", flags.device, "cpu")->capture_default_str();
  command.add_option("--threads", flags.threads, "Threads; 0: one for each core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

absl::StatusOr<OpenedModel> OpenModel(const ModelFlags& flags, std::stop_token stop) {
  if (flags.device != "cpu") {
    return absl::UnimplementedError(absl::StrCat("--device must be cpu: ", flags.device));
  }
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(flags.threads > 0 ? flags.threads : cores > 0 ? cores : 1);
  model::LoadOptions options;
  FEDUMM_ASSIGN_OR_RETURN(options.dtype, ParseDType(flags.dtype));
  OpenedModel opened;
  {
    LoadingLine line;
    options.progress = [&](int64_t done, int64_t total) {
      line.Show(done, total);
      return !stop.stop_requested();
    };
    FEDUMM_ASSIGN_OR_RETURN(opened.model, model::Load(flags.folder, options));
  }
  if (!flags.adapter.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(opened.adapter,
                            model::LoraAdapter::Load(opened.model->Linears(), flags.adapter));
  }
  return opened;
}

}  // namespace fedumm::programs
