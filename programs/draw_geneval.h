// GenEval's pictures in the layout that its evaluation reads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "fedumm/model/draw.h"
#include "programs/shard.h"

namespace fedumm::programs {

struct GenevalRequest {
  std::string folder;        // where the pictures go
  std::string prompts_file;  // JSON lines with a "prompt"; empty: GenEval's own 553
  int64_t samples = 4;       // of each prompt
  Shard shard;               // of the prompts, which this process draws
  uint64_t seed = 42;        // before each prompt
};

// Writes, for prompt 00000, 00000/metadata.jsonl (the prompt's line without its end),
// 00000/samples/00000.png and so on, and 00000/grid.png last. Files that are there already are
// kept, and the pictures are the same whether drawn by one process, by several shards, or by one
// that was stopped and started again. `tell` gets a line for each prompt. FAILED_PRECONDITION if
// the folder holds another prompt's metadata.
absl::Status DrawGeneval(model::Painter& painter, const model::DrawOptions& options,
                         const GenevalRequest& request,
                         const std::function<void(const std::string&)>& tell);

}  // namespace fedumm::programs
