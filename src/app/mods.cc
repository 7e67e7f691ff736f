#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/mod.h"
#include "record/form.h"

namespace fedumm {
namespace {

// Flower's keys (flwr/supercore/differential_privacy.py).
constexpr char kClippingNorm[] = "clipping_norm";
constexpr char kNormBit[] = "norm_bit";

std::string FormText(const Array& array) {
  return absl::StrCat(Text(DTypeName(array.dtype())), "[", absl::StrJoin(array.shape(), ","), "]");
}

// The array that `updated` is an update of. FAILED_PRECONDITION, naming the array and what differs,
// if there is none.
absl::StatusOr<Array> BaseOf(const RecordDict& instruction, const std::string& record,
                             const std::string& key, const Array& updated) {
  const auto cannot_clip = [&](absl::string_view why) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot clip array ", record, "/", key, ": ", why));
  };
  const ArrayRecord* const arrays = instruction.FindArrays(record);
  const Array* const base = arrays == nullptr ? nullptr : arrays->Find(key);
  if (base == nullptr) return cannot_clip("the instruction does not have it");
  if (!SameForm(*base, updated)) {
    return cannot_clip(absl::StrCat("the reply has it as ", FormText(updated),
                                    ", the instruction as ", FormText(*base)));
  }
  if (updated.dtype() != DType::kFloat32 && updated.dtype() != DType::kFloat64) {
    return cannot_clip(absl::StrCat(Text(DTypeName(updated.dtype())),
                                    " is too coarse to stay within the norm; use float32"));
  }
  return *base;
}

double SquaredDistance(const Array& a, const Array& b) {
  const std::vector<double> x = a.ToDoubles();
  const std::vector<double> y = b.ToDoubles();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += (x[i] - y[i]) * (x[i] - y[i]);
  return sum;
}

// base + scale * (updated - base), rounded towards base, so that no element moves further than it
// should.
template <typename Float>
std::string Scaled(const Array& base, const Array& updated, double scale) {
  const std::vector<double> from = base.ToDoubles();
  const std::vector<double> to = updated.ToDoubles();
  std::string bytes(from.size() * sizeof(Float), '\0');
  auto* const out = reinterpret_cast<Float*>(bytes.data());
  for (size_t i = 0; i < from.size(); ++i) {
    const double step = scale * (to[i] - from[i]);
    auto value = static_cast<Float>(from[i] + step);
    if (std::abs(value - from[i]) > std::abs(step)) {
      value = std::nextafter(value, static_cast<Float>(from[i]));
    }
    out[i] = value;
  }
  return bytes;
}

absl::StatusOr<Array> ScaledUpdate(const Array& base, const Array& updated, double scale) {
  const std::span<const int64_t> shape = updated.shape();
  return Array::Create(updated.dtype(), {shape.begin(), shape.end()},
                       updated.dtype() == DType::kFloat32 ? Scaled<float>(base, updated, scale)
                                                          : Scaled<double>(base, updated, scale));
}

// `visit(record name, key, array)` for each float array, until one returns an error.
template <typename Visit>
absl::Status ForEachFloatArray(const RecordDict& records, Visit visit) {
  for (const auto& [name, record] : records) {
    const auto* const arrays = std::get_if<ArrayRecord>(&record);
    if (arrays == nullptr) continue;
    for (const auto& [key, array] : *arrays) {
      if (IsFloat(array.dtype())) FEDUMM_RETURN_IF_ERROR(visit(name, key, array));
    }
  }
  return absl::OkStatus();
}

struct ClippedReply {
  RecordDict content;
  bool scaled;  // the update was longer than the norm
};

absl::StatusOr<ClippedReply> Clip(const RecordDict& instruction, RecordDict reply,
                                  double clipping_norm) {
  double squared_norm = 0;
  FEDUMM_RETURN_IF_ERROR(ForEachFloatArray(
      reply, [&](const std::string& name, const std::string& key, const Array& array) {
        const absl::StatusOr<Array> base = BaseOf(instruction, name, key, array);
        if (base.ok()) squared_norm += SquaredDistance(array, *base);
        return base.status();
      }));
  const double norm = std::sqrt(squared_norm);
  if (!std::isfinite(norm)) {
    return absl::InvalidArgumentError("cannot clip an update that is not finite");
  }
  if (norm <= clipping_norm) return ClippedReply{std::move(reply), false};

  // The margin covers the rounding of the sums.
  const double scale = clipping_norm / norm * (1 - 1e-12);
  RecordDict clipped = reply;
  for (const auto& [name, record] : reply) {
    const auto* const arrays = std::get_if<ArrayRecord>(&record);
    if (arrays == nullptr) continue;
    ArrayRecord scaled = *arrays;
    for (const auto& [key, array] : *arrays) {
      if (!IsFloat(array.dtype())) continue;
      FEDUMM_ASSIGN_OR_RETURN(const Array base, BaseOf(instruction, name, key, array));
      FEDUMM_ASSIGN_OR_RETURN(Array update, ScaledUpdate(base, array, scale));
      scaled.Set(key, std::move(update));
    }
    clipped.Set(name, std::move(scaled));
  }
  return ClippedReply{std::move(clipped), true};
}

// The smallest "clipping_norm" of the message's ConfigRecords; none if no record has the key.
absl::StatusOr<std::optional<double>> ClippingNormOf(const Message& message) {
  std::optional<double> norm;
  if (!message.content.has_value()) return norm;
  for (const auto& [name, record] : *message.content) {
    const auto* const config = std::get_if<ConfigRecord>(&record);
    const ConfigValue* const value = config == nullptr ? nullptr : config->Find(kClippingNorm);
    if (value == nullptr) continue;
    const Setting setting{.key = kClippingNorm, .default_value = 1.0, .min = 0, .above_min = true};
    FEDUMM_ASSIGN_OR_RETURN(const ConfigValue checked, CheckSetting(setting, *value));
    norm = std::min(std::get<double>(checked), norm.value_or(HUGE_VAL));
  }
  return norm;
}

// `reply` with "norm_bit" in each of its MetricRecords, or in a new one.
void SetNormBit(RecordDict& reply, bool scaled) {
  const MetricValue bit = int64_t{scaled};
  std::vector<std::string> names;
  for (const auto& [name, record] : reply) {
    if (std::holds_alternative<MetricRecord>(record)) names.push_back(name);
  }
  if (names.empty()) reply.Set("metrics", MetricRecord{{kNormBit, bit}});
  for (const std::string& name : names) {
    MetricRecord metrics = *reply.FindMetrics(name);
    metrics.Set(kNormBit, bit);
    reply.Set(name, std::move(metrics));
  }
}

bool IsTraining(const Message& message) {
  const std::string& type = message.metadata.message_type;
  return type == message_type::kTrain ||
         absl::StartsWith(type, absl::StrCat(Text(message_type::kTrain), "."));
}

}  // namespace

Mod FixedClippingMod(double clipping_norm) {
  return [clipping_norm](const Message& message, Context& context,
                         const ClientAppCall& next) -> absl::StatusOr<RecordDict> {
    if (!(clipping_norm > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("clipping norm must be positive: ", clipping_norm));
    }
    FEDUMM_ASSIGN_OR_RETURN(RecordDict reply, next(message, context));
    if (!message.content.has_value()) return reply;
    FEDUMM_ASSIGN_OR_RETURN(ClippedReply clipped,
                            Clip(*message.content, std::move(reply), clipping_norm));
    return std::move(clipped.content);
  };
}

Mod MessageClippingMod() {
  return [](const Message& message, Context& context,
            const ClientAppCall& next) -> absl::StatusOr<RecordDict> {
    if (!IsTraining(message)) return next(message, context);
    FEDUMM_ASSIGN_OR_RETURN(const std::optional<double> norm, ClippingNormOf(message));
    FEDUMM_ASSIGN_OR_RETURN(RecordDict reply, next(message, context));
    if (!norm.has_value()) return reply;
    FEDUMM_ASSIGN_OR_RETURN(ClippedReply clipped, Clip(*message.content, std::move(reply), *norm));
    SetNormBit(clipped.content, clipped.scaled);
    return std::move(clipped.content);
  };
}

Mod ArraysSizeMod() {
  return [](const Message& message, Context& context,
            const ClientAppCall& next) -> absl::StatusOr<RecordDict> {
    FEDUMM_ASSIGN_OR_RETURN(RecordDict reply, next(message, context));
    int64_t num_arrays = 0;
    int64_t num_elements = 0;
    int64_t num_bytes = 0;
    for (const auto& [name, record] : reply) {
      const auto* const arrays = std::get_if<ArrayRecord>(&record);
      if (arrays == nullptr) continue;
      for (const auto& [key, array] : *arrays) {
        ++num_arrays;
        num_elements += array.num_elements();
        num_bytes += static_cast<int64_t>(array.bytes().size());
      }
    }
    Log()->info("reply to {}: {} arrays, {} elements, {} bytes",
                Printable(message.metadata.message_type), num_arrays, num_elements, num_bytes);
    return reply;
  };
}

std::vector<std::string> ModNames() { return {"fixed-clipping", "arrays-size"}; }

std::vector<Setting> ModSettings() {
  return {{.key = "mod.clipping-norm",
           .default_value = 0.0,
           .help = "L2 norm that the mod fixed-clipping clips updates to; the mod needs it above 0",
           .min = 0}};
}

absl::StatusOr<std::vector<Mod>> ModsFromNames(const std::vector<std::string>& names,
                                               const ConfigRecord& settings) {
  FEDUMM_ASSIGN_OR_RETURN(const CompletedSettings completed,
                          CompleteSettings(ModSettings(), settings));
  const double norm = NumberOr(completed.values, "mod.clipping-norm", 0);
  std::vector<Mod> mods;
  for (const std::string& name : names) {
    if (name == "arrays-size") {
      mods.push_back(ArraysSizeMod());
    } else if (name == "fixed-clipping") {
      if (!(norm > 0)) {
        return absl::InvalidArgumentError(
            "mod 'fixed-clipping' needs the setting 'mod.clipping-norm' above 0");
      }
      mods.push_back(FixedClippingMod(norm));
    } else {
      return absl::InvalidArgumentError(absl::StrCat("there is no mod '", name, "': known are ",
                                                     absl::StrJoin(ModNames(), ", ")));
    }
  }
  if (norm > 0 && std::find(names.begin(), names.end(), "fixed-clipping") == names.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'mod.clipping-norm' is a setting of the mod 'fixed-clipping', which is not "
                     "among the mods: ",
                     norm));
  }
  return mods;
}

}  // namespace fedumm
