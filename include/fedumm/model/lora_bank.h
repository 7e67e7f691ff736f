#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "fedumm/model/lora.h"

namespace fedumm::model {

// Adapters of several clients on one backbone, of unequal ranks if they like: a batch whose rows
// belong to different clients passes over the frozen weights once. Outputs and gradients are those
// of one client after the other, to rounding, dropout included; each adapter's gradients are added
// to its own parameters(). Not thread-safe.
//
//   for (…) { adapters.push_back(*LoraAdapter::Attach(…)); adapters.back()->Detach(); }
//   FEDUMM_ASSIGN_OR_RETURN(auto bank, LoraBank::Attach(pointers));
//   FEDUMM_RETURN_IF_ERROR(bank->SetRows({{.adapter = 0, .rows = 4}, {.adapter = 2, .rows = 1}}));
//   … a batch of 5 rows: sum of the clients' losses, backward, a step for each adapter …
class LoraBank {
 public:
  // Puts itself in the place of the adapters, which must be detached, have the same modules and
  // outlive the bank; INVALID_ARGUMENT or FAILED_PRECONDITION says which is not so.
  static absl::StatusOr<std::unique_ptr<LoraBank>> Attach(std::vector<LoraAdapter*> adapters);
  ~LoraBank();  // leaves the backbone without adapters
  LoraBank(const LoraBank&) = delete;
  LoraBank& operator=(const LoraBank&) = delete;

  struct Rows {
    int64_t adapter = 0;  // its place in Attach's list
    int64_t rows = 0;     // of the batch, one after the other
  };
  // Whose the rows of a batch are, from now on. Every linear must see the same number of its own
  // rows for each row of the batch: padded sequences do, packed ones throw. INVALID_ARGUMENT for an
  // adapter that does not exist or occurs twice, or for no rows.
  absl::Status SetRows(std::vector<Rows> rows);

 private:
  class Hook;

  explicit LoraBank(std::vector<LoraAdapter*> adapters) : adapters_(std::move(adapters)) {}

  std::vector<LoraAdapter*> adapters_;
  std::vector<Rows> rows_;
};

}  // namespace fedumm::model
