#include "programs/model_flags.h"

#include <ATen/Parallel.h>

#include <thread>

#include "base/status_macros.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/device.h"
#include "programs/report/progress_line.h"

namespace fedumm::programs {
void AddModelFlags(CLI::App& command, ModelFlags& flags) {
  command.add_option("--model", flags.folder, "Checkpoint folder")
      ->required()
      ->check(CLI::ExistingDirectory);
  command.add_option("--adapter", flags.adapter, "Adapter folder in PEFT's format")
      ->check(CLI::ExistingDirectory);
  command
      .add_option("--dtype", flags.dtype, "auto (that of the files), float32, bfloat16, float16")
      ->capture_default_str();
  command
      .add_option("--device", flags.device, "cpu, cuda, cuda:1, or auto: cuda where there is one")
      ->capture_default_str();
  command.add_option("--threads", flags.threads, "Threads; 0: one for each core")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
}

absl::StatusOr<OpenedModel> OpenModel(const ModelFlags& flags, const std::stop_token& stop) {
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  at::set_num_threads(flags.threads > 0 ? flags.threads : cores > 0 ? cores : 1);
  model::LoadOptions options;
  FEDUMM_ASSIGN_OR_RETURN(options.dtype, model::WeightType(flags.dtype));
  FEDUMM_ASSIGN_OR_RETURN(options.device, model::OpenDevice(flags.device));
  std::unique_ptr<ProgressLine> progress;
  options.progress = [&](int64_t done, int64_t total) {
    constexpr int64_t kMega = 1'000'000;
    if (progress == nullptr) {
      progress = std::make_unique<ProgressLine>("loading", total / kMega, "MB");
    }
    progress->Show(done / kMega);
    return !stop.stop_requested();
  };
  OpenedModel opened;
  FEDUMM_ASSIGN_OR_RETURN(opened.model, model::Load(flags.folder, options));
  progress.reset();
  if (!flags.adapter.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(opened.adapter,
                            model::LoraAdapter::Load(opened.model->Linears(), flags.adapter));
  }
  return opened;
}

}  // namespace fedumm::programs
