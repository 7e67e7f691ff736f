// Makes a checkpoint folder of random bf16 weights, and loads one: what load_checkpoint.py
// measures.
//
//   load_checkpoint make FOLDER CONFIG.json     shards of at most 2 GiB beside that config
//   load_checkpoint load FOLDER [float32|float16]
//
// `load` prints a line of JSON and holds the model until its standard input ends.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <string>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/model/checkpoint.h"
#include "fedumm/model/config.h"

namespace {

using fedumm::model::BackboneConfig;
using fedumm::model::LoadOptions;

// A line of /proc/self/smaps_rollup or /proc/self/status, in bytes.
int64_t Memory(const char* file, const std::string& field) {
  std::ifstream lines(std::string("/proc/self/") + file);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(field + ":")) return std::stoll(line.substr(field.size() + 1)) * 1024;
  }
  return -1;
}

// Of this process alone: what a second one would add.
int64_t PrivateBytes() {
  return Memory("smaps_rollup", "Private_Clean") + Memory("smaps_rollup", "Private_Dirty");
}

int Make(const std::string& folder, const std::string& config_path) {
  std::ifstream file(config_path);
  const std::string json{std::istreambuf_iterator<char>(file), {}};
  const auto config = BackboneConfig::FromJson(json);
  if (!config.ok()) {
    std::cerr << config.status() << '\n';
    return 1;
  }
  const auto shapes = fedumm::model::ExpectedTensors(*config);
  const auto count = [](const auto& shape) {
    int64_t n = 1;
    for (const int64_t size : shape) n *= size;
    return n;
  };
  int64_t largest = 0;
  for (const auto& [name, shape] : shapes) largest = std::max(largest, count(shape));
  // All tensors show parts of one buffer, so that making the folder takes little memory.
  const at::Tensor values = at::empty({largest}, at::kBFloat16).normal_(0, 0.02);
  fedumm::model::StateDict state;
  for (const auto& [name, shape] : shapes) {
    state[name] = values.narrow(0, 0, count(shape)).view(shape);
  }
  std::filesystem::create_directories(folder);
  const absl::Status saved = fedumm::model::SaveStateDict(state, folder, int64_t{2} << 30);
  if (!saved.ok()) {
    std::cerr << saved << '\n';
    return 1;
  }
  std::ofstream(folder + "/config.json") << json;
  return 0;
}

int Load(const std::string& folder, const std::string& dtype) {
  LoadOptions options;
  if (dtype == "float32") options.dtype = at::kFloat;
  if (dtype == "float16") options.dtype = at::kHalf;
  int64_t peak = 0;
  options.progress = [&](int64_t, int64_t) {
    peak = std::max(peak, Memory("status", "RssAnon"));
    return true;
  };
  const absl::Time start = absl::Now();
  const auto model = fedumm::model::Load(folder, options);
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  if (!model.ok()) {
    std::cerr << model.status() << '\n';
    return 1;
  }
  int64_t weights = 0, largest = 0;
  for (const auto& [name, tensor] : (*model)->Parameters()) {
    weights += static_cast<int64_t>(tensor->nbytes());
    largest = std::max(largest, static_cast<int64_t>(tensor->nbytes()));
  }
  std::printf(
      "{\"seconds\": %.3f, \"private\": %ld, \"peak_anonymous\": %ld, \"weights\": %ld, "
      "\"largest\": %ld}\n",
      seconds, PrivateBytes(), peak, weights, largest);
  std::fflush(stdout);
  std::string line;
  while (std::getline(std::cin, line)) {
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string command = argc > 2 ? argv[1] : "";
  if (command == "make" && argc == 4) return Make(argv[2], argv[3]);
  if (command == "load") return Load(argv[2], argc > 3 ? argv[3] : "");
  std::cerr << "usage: load_checkpoint make FOLDER CONFIG.json | load FOLDER [float32|float16]\n";
  return 2;
}
