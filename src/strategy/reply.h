// What a strategy accepts from a node.
#pragma once

#include <span>
#include <string>

#include "absl/status/statusor.h"
#include "fedumm/message.h"

namespace fedumm {

// Views into the message that it was read from.
struct TrainReply {
  const ArrayRecord& arrays;
  const MetricRecord& metrics;
  double weight;
  std::span<const double> tensor_shares;  // see Contribution
};

// INVALID_ARGUMENT, saying why, unless the reply holds an ArrayRecord named `array_key`, or exactly
// one of any name, exactly one MetricRecord, of any name, and a usable weight; UNAVAILABLE if it
// carries an error. A ConfigRecord kTensorSharesRecord, if it is there, must hold one number for
// each array under kTensorSharesKey.
absl::StatusOr<TrainReply> ReadTrainReply(const Message& reply, const std::string& array_key,
                                          const std::string& weight_key);
// Likewise, exactly one MetricRecord.
absl::StatusOr<const MetricRecord*> ReadEvaluateReply(const Message& reply,
                                                      const std::string& weight_key);
// The metric `key`: one number, at least 2^-40 and at most 2^40.
absl::StatusOr<double> ReadWeight(const MetricRecord& metrics, const std::string& key);

}  // namespace fedumm
