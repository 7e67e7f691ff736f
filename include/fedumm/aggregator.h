#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/record.h"

namespace fedumm {

// One node's reply as an aggregator sees it. Borrowed for the duration of one call.
struct Contribution {
  uint64_t node_id = 0;
  const ArrayRecord& arrays;  // the reply's main arrays
  double weight = 1;          // e.g. num-examples
  // How much of the weight stands behind each of `arrays`, in their order, from 0 (the node did not
  // train that tensor) to 1. Empty: all of it behind every tensor.
  std::span<const double> tensor_shares = {};
  // The reply's metrics, and all that it holds: further arrays, configurations. Both are empty
  // where a contribution comes from no reply.
  const MetricRecord& metrics = NoMetrics();
  const RecordDict& content = NoContent();

  static const MetricRecord& NoMetrics();
  static const RecordDict& NoContent();
};

// A train reply whose tensors were not all trained on all of the node's examples says so in a
// ConfigRecord of this name: under the key, one number for each tensor of the main arrays, in their
// order; see Contribution::tensor_shares. Flower's own strategies take no notice of it.
inline constexpr char kTensorSharesRecord[] = "tensor-shares";
inline constexpr char kTensorSharesKey[] = "shares";

// Combines the replies of one round as they arrive and keeps none. The base checks, the subclass
// only computes. Not thread-safe.
class Aggregator {
 public:
  // `manifest` holds the names, shapes and dtypes of the result: the round's global arrays.
  explicit Aggregator(const ArrayRecord& manifest);
  virtual ~Aggregator() = default;

  // INVALID_ARGUMENT, naming the node, for a weight that is not positive and finite or shares that
  // are not one number in [0, 1] for each tensor; the errors of Check; those of the subclass. A
  // rejected contribution leaves the aggregate as it was.
  absl::Status Add(const Contribution& contribution);
  int64_t num_added() const { return num_added_; }
  // FAILED_PRECONDITION if nothing was accepted.
  absl::StatusOr<ArrayRecord> TakeResult() &&;

 protected:
  const ArrayRecord& manifest() const { return manifest_; }

  // Whether the contribution can be added. The default: INVALID_ARGUMENT, naming node and tensor,
  // unless the arrays have the names of the manifest, in any order, its shapes, its dtypes or
  // narrower float types, and no NaN or infinity. Override it for arrays of another form: unequal
  // ranks, stacked or partial adapters, masked integers, codecs.
  virtual absl::Status Check(const Contribution& contribution) const;

 private:
  // The contribution has passed Check. Its arrays that have a name of the manifest come first, in
  // the order of the manifest, and a float type that widens exactly into the manifest's was
  // converted; `tensor_shares` follow that order; `content` is as it came.
  virtual absl::Status DoAdd(const Contribution& contribution) = 0;
  virtual absl::StatusOr<ArrayRecord> DoTakeResult() = 0;  // called at most once

  ArrayRecord manifest_;
  int64_t num_added_ = 0;
};

// Sum of weight * x over sum of weight, element by element; the weight of a tensor is the node's
// times the tensor's share, so that each tensor is averaged over the nodes that trained it. One
// that no node trained keeps the manifest's values. The sums are exact, so the result does
// not depend on the order of Add, bit for bit: each product is rounded once to double, the sum of
// all once, and the quotient once more to the array's dtype; integers round half to even. Booleans
// are not averaged: a contribution whose booleans differ from the manifest's is refused. Memory is
// eight bytes for each element, two or three times that where the numbers of one tensor differ very
// much in size, and does not grow with the number of contributions. Refuses, beside what every
// aggregator refuses, tensors' weights outside [2^-40, 2^40], |x| of 2^160 and more, integers
// beyond 2^53, and contribution number 2^19.
std::unique_ptr<Aggregator> NewWeightedMean(const ArrayRecord& manifest);

}  // namespace fedumm
