#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "base/text.h"
#include "fedumm/mod.h"
#include "record/form.h"

namespace fedumm {
namespace {

// The array that `updated` is an update of. Without it there is no update to measure.
absl::StatusOr<Array> BaseOf(const RecordDict& instruction, const std::string& record,
                             const std::string& key, const Array& updated) {
  const ArrayRecord* const arrays = instruction.FindArrays(record);
  const Array* const base = arrays == nullptr ? nullptr : arrays->Find(key);
  if (base == nullptr || !SameForm(*base, updated)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "cannot clip an array that the instruction lacks or has in another form: ", record, "/",
        key));
  }
  if (updated.dtype() != DType::kFloat32 && updated.dtype() != DType::kFloat64) {
    return absl::FailedPreconditionError(absl::StrCat("cannot clip ",
                                                      Text(DTypeName(updated.dtype())),
                                                      " exactly, use float32: ", record, "/", key));
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

absl::StatusOr<RecordDict> Clipped(const RecordDict& instruction, RecordDict reply,
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
  if (norm <= clipping_norm) return reply;

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
  return clipped;
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
    return Clipped(*message.content, std::move(reply), clipping_norm);
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

}  // namespace fedumm
