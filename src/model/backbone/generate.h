#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/backbone.h"
#include "fedumm/model/generation.h"
#include "model/backbone/decoder.h"

namespace fedumm::model {

// Rows to continue, as the decoder takes them.
struct GenerationStart {
  at::Tensor ids;            // [B, N] int64
  at::Tensor mask;           // [B, N] bool, 0 on padding (on the left); undefined: no padding
  at::Tensor embeds;         // [B, N, hidden]
  at::Tensor positions;      // [3, B, N]
  at::Tensor next_position;  // [B]: of the first new token
};

// See UnifiedModel::Generate. The tokens of each step are read once; everything else stays on the
// device. Rows that have ended leave the batch when half of it has.
absl::StatusOr<std::vector<std::vector<int64_t>>> GenerateRows(const Decoder& decoder,
                                                               GenerationStart start,
                                                               const GenerationSettings& settings,
                                                               const StopGeneration& stop);

}  // namespace fedumm::model
