#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace fedumm {

// One node's reply as an aggregator sees it. Borrowed for the duration of one call.
struct Contribution {
  uint64_t node_id = 0;
  const ArrayRecord& arrays;
  double weight = 1;  // e.g. num-examples
};

// Combines the replies of one round as they arrive and forgets each. The base checks, the subclass
// only computes. Not thread-safe.
class Aggregator {
 public:
  // `manifest` fixes keys, order, shapes and dtypes of every contribution: the round's global
  // arrays.
  explicit Aggregator(const ArrayRecord& manifest);
  virtual ~Aggregator() = default;

  // INVALID_ARGUMENT, naming node and tensor, for a missing, extra or reordered key, another shape
  // or dtype, NaN or infinity, or a weight that is not positive and finite. A rejected contribution
  // leaves the aggregate as it was.
  absl::Status Add(const Contribution& contribution);
  int64_t num_added() const { return num_added_; }
  // FAILED_PRECONDITION if nothing was accepted.
  absl::StatusOr<ArrayRecord> TakeResult() &&;

 protected:
  const ArrayRecord& manifest() const { return manifest_; }

 private:
  virtual absl::Status DoAdd(const Contribution& contribution) = 0;  // already validated
  virtual absl::StatusOr<ArrayRecord> DoTakeResult() = 0;            // called at most once

  ArrayRecord manifest_;
  int64_t num_added_ = 0;
};

// Sum of weight * x over sum of weight, element by element. The sums are exact, so the result does
// not depend on the order of Add, bit for bit: each product is rounded once to double, the sum of
// all once, and the quotient once more to the array's dtype; integers round half to even. Booleans
// are not averaged: a contribution whose booleans differ from the manifest's is refused. Memory is
// eight bytes for each element, two or three times that where the numbers of one tensor differ very
// much in size, and does not grow with the number of contributions. Refuses, beside what every
// aggregator refuses, weights outside [2^-40, 2^40], |x| of 2^160 and more, integers beyond 2^53,
// and contribution number 2^19.
std::unique_ptr<Aggregator> NewWeightedMean(const ArrayRecord& manifest);

}  // namespace fedumm
