// The flags of every command on a checkpoint folder, and what they open.
#pragma once

#include <memory>
#include <stop_token>
#include <string>

#include "CLI/App.hpp"
#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/lora.h"

namespace fedumm::programs {

struct ModelFlags {
  std::string folder;          // --model
  std::string adapter;         // --adapter, in PEFT's format; empty: none
  std::string dtype = "auto";  // --dtype: auto (that of the files), float32, bfloat16, float16
  std::string device = "cpu";  // --device
  int threads = 0;             // --threads of LibTorch; 0: one for each core
};

void AddModelFlags(CLI::App& command, ModelFlags& flags);

// The adapter is attached to the model and must go first.
struct OpenedModel {
  std::unique_ptr<model::UnifiedModel> model;
  std::unique_ptr<model::LoraAdapter> adapter;  // null: none was asked for
};

// Loads what the flags name. Shows its progress on stderr if that is a terminal. CANCELLED once
// `stop` (that of a SignalStop) is requested.
absl::StatusOr<OpenedModel> OpenModel(const ModelFlags& flags, std::stop_token stop = {});

}  // namespace fedumm::programs
