#include "strategy/reply.h"

#include <variant>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/quoted.h"
#include "base/status_macros.h"
#include "fedumm/aggregator.h"

namespace fedumm {
namespace {

// The only record of its kind.
template <typename Kind>
absl::StatusOr<const Kind*> OnlyRecord(const RecordDict& content, absl::string_view kind_name) {
  const Kind* found = nullptr;
  int64_t count = 0;
  for (const auto& [name, record] : content) {
    if (const Kind* candidate = std::get_if<Kind>(&record)) {
      found = candidate;
      ++count;
    }
  }
  if (count == 1) return found;
  return absl::InvalidArgumentError(
      absl::StrCat("the reply must hold exactly one ", kind_name, ": ", count));
}

// The record of that name, or the only one of its kind.
absl::StatusOr<const ArrayRecord*> MainArrays(const RecordDict& content, const std::string& key) {
  if (const ArrayRecord* named = content.FindArrays(key)) return named;
  absl::StatusOr<const ArrayRecord*> only = OnlyRecord<ArrayRecord>(content, "ArrayRecord");
  if (only.ok()) return only;
  return absl::InvalidArgumentError(
      absl::StrCat(only.status().message(), " (or name one ", Quoted(key), ")"));
}

absl::Status CheckContent(const Message& reply) {
  if (reply.has_error()) {
    return absl::UnavailableError(
        absl::StrCat("error ", static_cast<int64_t>(reply.error->code), ": ",
                     Quoted(reply.error->reason, /*max_characters=*/1000)));
  }
  if (!reply.content) return absl::InvalidArgumentError("the reply is empty");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<double> ReadWeight(const MetricRecord& metrics, const std::string& key) {
  const MetricValue* value = metrics.Find(key);
  if (value == nullptr) return absl::InvalidArgumentError(absl::StrCat(key, " is missing"));
  double weight;
  if (const auto* number = std::get_if<double>(value)) {
    weight = *number;
  } else if (const auto* integer = std::get_if<int64_t>(value)) {
    weight = static_cast<double>(*integer);
  } else if (const auto* natural = std::get_if<uint64_t>(value)) {
    weight = static_cast<double>(*natural);
  } else {
    return absl::InvalidArgumentError(absl::StrCat(key, " is a list"));
  }
  if (weight >= 0x1p-40 && weight <= 0x1p40) return weight;  // not so for NaN
  return absl::InvalidArgumentError(
      absl::StrCat(key, " must be positive and at most 2^40: ", weight));
}

namespace {

// Metrics are kept for many rounds and written to the log of rounds: a node may not fill them at
// will.
absl::Status CheckMetricsSize(const MetricRecord& metrics) {
  constexpr size_t kMaxKeys = 1000;
  constexpr size_t kMaxValues = 10'000;
  constexpr size_t kMaxKeyBytes = 100'000;
  size_t values = 0;
  size_t key_bytes = 0;
  for (const auto& [key, value] : metrics) {
    key_bytes += key.size();
    values += std::visit(
        [](const auto& v) -> size_t {
          if constexpr (requires { v.size(); }) return v.size();
          return 1;
        },
        value);
  }
  if (metrics.size() <= kMaxKeys && values <= kMaxValues && key_bytes <= kMaxKeyBytes) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("too many metrics: ", metrics.size(), " keys of ",
                                                 key_bytes, " bytes, ", values, " values"));
}

}  // namespace

namespace {

absl::StatusOr<std::span<const double>> TensorShares(const RecordDict& content) {
  const ConfigRecord* config = content.FindConfig(kTensorSharesRecord);
  if (config == nullptr) return std::span<const double>();
  const ConfigValue* value = config->Find(kTensorSharesKey);
  const auto* shares = value == nullptr ? nullptr : std::get_if<std::vector<double>>(value);
  if (shares != nullptr) return std::span<const double>(*shares);
  return absl::InvalidArgumentError(absl::StrCat("the record ", Quoted(kTensorSharesRecord),
                                                 " holds no list of numbers named ",
                                                 Quoted(kTensorSharesKey)));
}

}  // namespace

absl::StatusOr<TrainReply> ReadTrainReply(const Message& reply, const std::string& array_key,
                                          const std::string& weight_key) {
  FEDUMM_RETURN_IF_ERROR(CheckContent(reply));
  FEDUMM_ASSIGN_OR_RETURN(const ArrayRecord* arrays, MainArrays(*reply.content, array_key));
  FEDUMM_ASSIGN_OR_RETURN(const MetricRecord* metrics,
                          OnlyRecord<MetricRecord>(*reply.content, "MetricRecord"));
  FEDUMM_RETURN_IF_ERROR(CheckMetricsSize(*metrics));
  FEDUMM_ASSIGN_OR_RETURN(const double weight, ReadWeight(*metrics, weight_key));
  FEDUMM_ASSIGN_OR_RETURN(const std::span<const double> shares, TensorShares(*reply.content));
  return TrainReply{
      .arrays = *arrays, .metrics = *metrics, .weight = weight, .tensor_shares = shares};
}

absl::StatusOr<const MetricRecord*> ReadEvaluateReply(const Message& reply,
                                                      const std::string& weight_key) {
  FEDUMM_RETURN_IF_ERROR(CheckContent(reply));
  FEDUMM_ASSIGN_OR_RETURN(const MetricRecord* metrics,
                          OnlyRecord<MetricRecord>(*reply.content, "MetricRecord"));
  FEDUMM_RETURN_IF_ERROR(CheckMetricsSize(*metrics));
  FEDUMM_RETURN_IF_ERROR(ReadWeight(*metrics, weight_key).status());
  return metrics;
}

}  // namespace fedumm
