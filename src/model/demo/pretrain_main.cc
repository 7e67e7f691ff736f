// fedumm-pretrain <model folder> <easy-vqa data folder>: makes the demo's backbone anew by the
// folder's pretrain.toml and says how well it answers and draws. One thread, about six minutes.
#include <ATen/Parallel.h>

#include <chrono>
#include <cstdio>

#include "fedumm/model/demo.h"

namespace {

using fedumm::MetricRecord;
using fedumm::model::DemoWorld;
using fedumm::model::EasyVqa;
using fedumm::model::PretrainProgress;
using fedumm::model::Task;

absl::Status PrintScore(absl::StatusOr<std::unique_ptr<Task>> task) {
  if (!task.ok()) return task.status();
  const absl::StatusOr<MetricRecord> metrics = (*task)->Evaluate();
  if (!metrics.ok()) return metrics.status();
  for (const auto& [name, value] : *metrics) {
    std::printf("%s %.4f\n", name.c_str(), fedumm::NumberOr(*metrics, name, 0));
  }
  return absl::OkStatus();
}

absl::Status Run(const char* model_folder, const char* data_folder) {
  absl::StatusOr<EasyVqa> data = EasyVqa::Load(data_folder);
  if (!data.ok()) return data.status();
  const auto start = std::chrono::steady_clock::now();
  const auto report = [&](const PretrainProgress& progress) {
    const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
    std::printf("\r%-8.*s %5ld/%ld  loss %.4f  %.0f s%s", static_cast<int>(progress.stage.size()),
                progress.stage.data(), progress.step, progress.steps, progress.loss,
                elapsed.count(), progress.step == progress.steps ? "\n" : "");
    std::fflush(stdout);
  };
  if (absl::Status status = Pretrain(model_folder, *data, report); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<DemoWorld>> world = DemoWorld::Load(model_folder, *data);
  if (!world.ok()) return world.status();
  if (absl::Status status = PrintScore((*world)->NewVqaTask({})); !status.ok()) return status;
  return PrintScore((*world)->NewDrawTask({}));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: fedumm-pretrain <model folder> <easy-vqa data folder>\n");
    return 2;
  }
  at::set_num_threads(1);  // the same sums in the same order everywhere
  const absl::Status status = Run(argv[1], argv[2]);
  if (!status.ok()) std::fprintf(stderr, "fedumm-pretrain: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
