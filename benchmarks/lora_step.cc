// Trains and decodes with a checkpoint folder, for lora_step.py:
//
//   lora_step FOLDER train BATCH LENGTH STEPS DTYPE DROPOUT THREADS CHECKPOINTING
//   lora_step FOLDER decode BATCH LENGTH TOKENS DTYPE
//
// Prints a line of JSON: CPU and wall seconds of a step (of a token), and the growth of the peak
// memory in it.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cross_entropy_loss.h>
#include <ATen/ops/randint.h>
#include <sys/resource.h>

#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/lora.h"
#include "fedumm/model/train.h"

namespace {

namespace fm = fedumm::model;

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

int64_t StatusBytes(const std::string& field) {
  std::ifstream lines("/proc/self/status");
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(field + ":")) return std::stoll(line.substr(field.size() + 1)) * 1024;
  }
  return -1;
}

// `warm` comes first and is not measured. Prints the cost of one of `count`.
int Measure(int64_t count, const std::function<absl::Status(int64_t)>& run, int64_t warm) {
  std::ofstream("/proc/self/clear_refs") << 5;  // the peak starts from here
  const int64_t before = StatusBytes("VmRSS");
  absl::Status status = warm > 0 ? run(warm) : absl::OkStatus();
  const double cpu = CpuSeconds();
  const absl::Time start = absl::Now();
  if (status.ok()) status = run(count);
  if (!status.ok()) {
    std::cerr << status << '\n';
    return 1;
  }
  const auto n = static_cast<double>(count);
  std::printf("{\"cpu\": %.6f, \"wall\": %.6f, \"memory\": %ld}\n", (CpuSeconds() - cpu) / n,
              absl::ToDoubleSeconds(absl::Now() - start) / n, StatusBytes("VmHWM") - before);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() < 6) {
    std::cerr << "usage: lora_step FOLDER train BATCH LENGTH STEPS DTYPE DROPOUT THREADS "
                 "CHECKPOINTING | FOLDER decode BATCH LENGTH TOKENS DTYPE\n";
    return 2;
  }
  const int64_t batch = std::stoll(args[2]), length = std::stoll(args[3]);
  const int64_t count = std::stoll(args[4]);
  fm::LoadOptions options;
  options.dtype = args[5] == "bfloat16" ? at::kBFloat16 : at::kFloat;
  auto model = fm::Load(args[0], options);
  if (!model.ok()) {
    std::cerr << model.status() << '\n';
    return 1;
  }
  // Read once, as the other side does: mapped weights count as memory from their first use.
  for (const auto& [name, tensor] : (*model)->Parameters()) tensor->sum();
  const at::Tensor ids = at::randint(10, 900, {batch, length}, at::kLong);
  if (args[1] == "decode") {
    const fm::Prompt prompt{.ids = ids};
    return Measure(
        count,
        [&](int64_t tokens) {
          fm::GenerationSettings settings;
          settings.max_new_tokens = tokens;
          return (*model)->Generate(prompt, settings).status();
        },
        8);
  }
  at::set_num_threads(std::stoi(args.at(7)));
  fm::LoraConfig config;
  config.r = 16;
  config.lora_alpha = 32;
  config.lora_dropout = std::stod(args.at(6));
  config.target_modules.names = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                 "gate_proj", "up_proj", "down_proj"};
  const auto adapter = fm::LoraAdapter::Attach((*model)->Linears(), config, 1);
  if (!adapter.ok()) {
    std::cerr << adapter.status() << '\n';
    return 1;
  }
  (*adapter)->StartTraining(1);
  const fm::GradientCheckpointing checkpointing(args.at(8) == "1");
  const at::Tensor positions = at::arange(length, at::kLong).expand({3, 1, length});
  const int64_t half = length / 2;  // the second half of each row is the answer
  const at::Tensor targets = ids.slice(1, half).flatten();
  fm::AdamWState state;
  return Measure(
      count,
      [&](int64_t steps) {
        return fm::Train(
                   (*adapter)->parameters(),
                   [&](int64_t) -> absl::StatusOr<at::Tensor> {
                     const at::Tensor said = (*model)
                                                 ->Decode((*model)->Embed(ids), positions)
                                                 .slice(1, half - 1, length - 1)
                                                 .flatten(0, 1);
                     return at::cross_entropy_loss((*model)->Logits(said).to(at::kFloat), targets);
                   },
                   {.steps = steps, .learning_rate = {.value = 1e-4}, .max_grad_norm = 1}, &state)
            .status();
      },
      2);
}
