#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fedumm/model/lora.h"
#include "model/guarded.h"
#include "model/lora/exact_config.h"
#include "model/lora/lora_linear.h"
#include "record/form.h"

namespace fedumm::model {
namespace {

constexpr char kKeyPrefix[] = "base_model.model.";

void FillUniform(const at::Tensor& tensor, double bound, Random& random) {
  float* values = tensor.data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i) {
    values[i] = static_cast<float>((2 * random.Uniform() - 1) * bound);
  }
}

// A new A or B, on the CPU.
at::Tensor NewMatrix(int64_t rows, int64_t columns) {
  return at::empty({rows, columns}, at::kFloat).zero_();
}

// PEFT's kaiming_uniform_(a=sqrt(5)) is uniform in ±1/sqrt(columns).
void Initialise(LoraInit init, const at::Tensor& a, const at::Tensor& b, Random random) {
  const auto bound = [](const at::Tensor& matrix) { return 1 / std::sqrt(matrix.size(1)); };
  if (init == LoraInit::kGaussian) {
    float* values = a.data_ptr<float>();
    const double deviation = 1.0 / static_cast<double>(a.size(0));
    for (int64_t i = 0; i < a.numel(); ++i) {
      values[i] = static_cast<float>(random.Normal() * deviation);
    }
    return;
  }
  FillUniform(a, bound(a), random);
  if (init == LoraInit::kRandom) FillUniform(b, bound(b), random);
}

// Why a module that PEFT can adapt is no linear here; empty for other modules.
std::string WhyNoLinear(const std::string& path) {
  if (path == "lm_head" || absl::EndsWith(path, ".lm_head")) {
    return "; a head that is tied to the embedding is no linear of its own";
  }
  if (path == "embed_tokens" || absl::EndsWith(path, ".embed_tokens")) {
    return "; adapters of the embedding are not supported";
  }
  return "";
}

// The error for names in target_modules that are no linear's.
absl::Status NoSuchTarget(const std::vector<std::string>& names, size_t num_linears) {
  std::string text = absl::StrCat("target_modules: ", absl::StrJoin(names, ", "),
                                  " matches none of ", num_linears, " linears");
  for (const std::string& name : names) absl::StrAppend(&text, WhyNoLinear(name));
  return absl::InvalidArgumentError(absl::StrCat(text, "; correct the name or leave it out"));
}

// The error for a key that is none of the adapter's.
absl::Status NoSuchKey(const std::string& key) {
  std::string text = absl::StrCat("the adapter has no ", key);
  if (absl::EndsWith(key, "embed_tokens.weight") || absl::EndsWith(key, "lm_head.weight") ||
      absl::EndsWith(key, "lm_head.base_layer.weight")) {
    absl::StrAppend(&text, "; PEFT adds the base weights of embeddings and head by itself: save ",
                    "without them (save_pretrained's save_embedding_layers = False)");
  } else {
    absl::StrAppend(&text, WhyNoLinear(key.substr(0, key.find(".lora_"))));
  }
  return absl::InvalidArgumentError(text);
}

// A state-dict key in its parts: PEFT puts the adapter's name before "weight", and leaves it out
// of what it saves.
struct AdapterKey {
  std::string plain;    // without the name
  std::string adapter;  // empty: the key has none
};

AdapterKey SplitKey(const std::string& key) {
  const size_t weight = key.rfind(".weight");
  if (weight == key.npos || weight == 0) return {key, ""};
  const size_t name = key.rfind('.', weight - 1);  // PEFT's names have no dot
  if (name == key.npos) return {key, ""};
  std::string module = key.substr(0, name);
  if (!absl::EndsWith(module, ".lora_A") && !absl::EndsWith(module, ".lora_B")) return {key, ""};
  return {module + key.substr(weight), key.substr(name + 1, weight - name - 1)};
}

// Checks one array against the parameter that it is to replace.
absl::Status CheckArray(const std::string& key, const Array& array, const at::Tensor& parameter) {
  if (!IsFloat(array.dtype())) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, " is not of a float type: ", std::string(DTypeName(array.dtype()))));
  }
  if (at::IntArrayRef(array.shape().data(), array.shape().size()) != parameter.sizes()) {
    return absl::InvalidArgumentError(absl::StrCat(key, " has shape ", array.ShapeString(),
                                                   ", not [",
                                                   absl::StrJoin(parameter.sizes(), ", "), "]"));
  }
  return absl::OkStatus();
}

// The values as float32. INVALID_ARGUMENT if one is not finite, or too large for the type.
absl::StatusOr<std::vector<float>> ToFloats(const std::string& key, const Array& array) {
  std::vector<float> values;
  if (const auto floats = array.floats(); floats.ok()) {
    values.assign(floats->begin(), floats->end());
  } else {
    const std::vector<double> doubles = array.ToDoubles();
    values.assign(doubles.begin(), doubles.end());
  }
  for (size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      return absl::InvalidArgumentError(absl::StrCat(key, " is not finite at element ", i));
    }
  }
  return values;
}

// The parameter's values; `host` holds those of all parameters, in the order of their buffer.
Array ToArray(const at::Tensor& parameter, const at::Tensor& host) {
  return Array::FromFloats(parameter.sizes().vec(),
                           {host.const_data_ptr<float>() + parameter.storage_offset(),
                            static_cast<size_t>(parameter.numel())});
}

// The values in the dtype of `form`. INVALID_ARGUMENT if its shape or dtype is not fit for them, or
// if a value overflows it.
absl::StatusOr<Array> ToArrayLike(const std::string& key, const at::Tensor& parameter,
                                  const at::Tensor& host, const Array& form) {
  FEDUMM_RETURN_IF_ERROR(CheckArray(key, form, parameter));
  const Array exact = ToArray(parameter, host);
  if (form.dtype() == exact.dtype()) return exact;
  Array rounded = Array::FromDoublesLike(form, exact.ToDoubles());
  if (FirstNonFinite(rounded) >= 0) {
    return absl::InvalidArgumentError(absl::StrCat(key, " has a value that is not finite in ",
                                                   std::string(DTypeName(form.dtype()))));
  }
  return rounded;
}

}  // namespace

LoraAdapter::LoraAdapter(LoraConfig config, ModuleLayout layout, std::vector<Module> modules,
                         FlatParameters parameters, std::vector<std::string> linear_paths)
    : config_(std::move(config)),
      layout_(layout),
      modules_(std::move(modules)),
      parameters_(std::move(parameters)),
      linear_paths_(std::move(linear_paths)) {
  for (Module& module : modules_) {
    module.linear->hook = module.lora;
    for (const ModuleLayout spelling : {ModuleLayout::kFile, ModuleLayout::kTransformers5}) {
      by_key_.emplace(KeyOf(module, 'A', spelling), module.lora->a());
      by_key_.emplace(KeyOf(module, 'B', spelling), module.lora->b());
      path_of_.emplace(KeyOf(module, 'A', spelling), module.path);
      path_of_.emplace(KeyOf(module, 'B', spelling), module.path);
    }
  }
}

LoraAdapter::~LoraAdapter() {
  if (merged_) Unmerge().IgnoreError();
  if (attached_) Detach().IgnoreError();
}

absl::Status LoraAdapter::Detach() {
  if (!attached_) return absl::FailedPreconditionError("the adapter is not attached");
  if (merged_) return absl::FailedPreconditionError("the adapter is merged");
  for (Module& module : modules_) module.linear->hook = nullptr;
  attached_ = false;
  return absl::OkStatus();
}

absl::Status LoraAdapter::Reattach() {
  if (attached_) return absl::FailedPreconditionError("the adapter is attached");
  for (const Module& module : modules_) {
    if (module.linear->hook != nullptr) {
      return absl::FailedPreconditionError(absl::StrCat(module.path, " has an adapter already"));
    }
  }
  for (Module& module : modules_) module.linear->hook = module.lora;
  attached_ = true;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<LoraAdapter>> LoraAdapter::Attach(
    const std::vector<NamedLinear>& linears, LoraConfig config, uint64_t seed,
    ModuleLayout layout) {
  std::vector<std::string> paths;
  for (const NamedLinear& named : linears) paths.push_back(ToLayout(named.path, layout));
  if (const auto unmatched = UnmatchedTargets(config, paths); !unmatched.empty()) {
    return NoSuchTarget(unmatched, linears.size());
  }
  FEDUMM_ASSIGN_OR_RETURN(std::unique_ptr<LoraAdapter> adapter,
                          AttachMatching(linears, std::move(config), seed, layout));
  // A pattern may also match modules that are no linears, such as norms, which PEFT cannot adapt.
  if (adapter->config_.target_modules.pattern.has_value()) {
    FEDUMM_ASSIGN_OR_RETURN(
        adapter->config_, NameEachModule(adapter->config_, adapter->linear_paths_, layout, layout));
  }
  return adapter;
}

absl::StatusOr<std::unique_ptr<LoraAdapter>> LoraAdapter::AttachMatching(
    const std::vector<NamedLinear>& linears, LoraConfig config, uint64_t seed,
    ModuleLayout layout) {
  FEDUMM_RETURN_IF_ERROR(ValidateLoraConfig(config));
  if (config.init_lora_weights == LoraInit::kOrthogonal ||
      config.init_lora_weights == LoraInit::kEva) {
    return absl::UnimplementedError(
        "init_lora_weights: a fresh adapter begins as true, false or \"gaussian\"");
  }
  return Guarded([&]() -> absl::StatusOr<std::unique_ptr<LoraAdapter>> {
    std::vector<Module> modules;
    std::vector<std::string> paths;
    std::vector<at::Tensor> parameters;
    for (const NamedLinear& named : linears) {
      paths.push_back(named.path);
      FEDUMM_ASSIGN_OR_RETURN(const std::optional<LoraModule> selected,
                              SelectModule(config, ToLayout(named.path, layout)));
      if (!selected.has_value()) continue;
      if (named.linear->hook != nullptr) {
        return absl::FailedPreconditionError(absl::StrCat(named.path, " has an adapter already"));
      }
      const at::Tensor& weight = named.linear->weight;
      at::Tensor a = NewMatrix(selected->r, weight.size(1));
      at::Tensor b = NewMatrix(weight.size(0), selected->r);
      Initialise(config.init_lora_weights, a, b, Random(seed, {modules.size()}));
      a = a.to(weight.device());
      b = b.to(weight.device());
      parameters.insert(parameters.end(), {a, b});
      modules.push_back(
          {named.path, named.linear, std::make_shared<LoraLinear>(a, b, selected->scale), {}});
    }
    if (modules.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("target_modules matches none of ", linears.size(), " linears"));
    }
    FEDUMM_ASSIGN_OR_RETURN(FlatParameters flat, FlatParameters::Create(std::move(parameters)));
    return std::unique_ptr<LoraAdapter>(new LoraAdapter(
        std::move(config), layout, std::move(modules), std::move(flat), std::move(paths)));
  });
}

std::string LoraAdapter::KeyOf(const Module& module, char matrix, ModuleLayout layout) const {
  return absl::StrCat(kKeyPrefix, ToLayout(module.path, layout), ".lora_", std::string(1, matrix),
                      ".weight");
}

const at::Tensor* LoraAdapter::FindParameter(const std::string& plain_key) const {
  const auto it = by_key_.find(plain_key);
  return it == by_key_.end() ? nullptr : &it->second;
}

const std::string* LoraAdapter::ModulePathOf(const std::string& key) const {
  const auto it = path_of_.find(SplitKey(key).plain);
  return it == path_of_.end() ? nullptr : &it->second;
}

ArrayRecord LoraAdapter::ToArrays() const { return ToArrays(layout_); }

ArrayRecord LoraAdapter::ToArrays(ModuleLayout layout) const {
  ArrayRecord arrays;
  const at::Tensor host = parameters_.values().cpu();  // one copy from a device
  for (const Module& module : modules_) {
    arrays.Set(KeyOf(module, 'A', layout), ToArray(module.lora->a(), host));
    arrays.Set(KeyOf(module, 'B', layout), ToArray(module.lora->b(), host));
  }
  return arrays;
}

absl::StatusOr<ArrayRecord> LoraAdapter::ToArraysLike(const ArrayRecord& like) const {
  return Guarded([&]() -> absl::StatusOr<ArrayRecord> {
    ArrayRecord arrays;
    const at::Tensor host = parameters_.values().cpu();
    for (const auto& [key, array] : like) {
      const at::Tensor* parameter = FindParameter(SplitKey(key).plain);
      if (parameter == nullptr) {
        return NoSuchKey(key);
      }
      FEDUMM_ASSIGN_OR_RETURN(Array answer, ToArrayLike(key, *parameter, host, array));
      arrays.Set(key, std::move(answer));
    }
    return arrays;
  });
}

absl::Status LoraAdapter::FromArrays(const ArrayRecord& arrays) {
  std::vector<std::pair<at::Tensor, std::vector<float>>> updates;
  std::set<const void*> seen;
  std::optional<std::string> adapter;  // the name in the keys
  for (const auto& [key, array] : arrays) {
    const AdapterKey parts = SplitKey(key);
    const at::Tensor* parameter = FindParameter(parts.plain);
    if (parameter == nullptr) {
      return NoSuchKey(key);
    }
    if (adapter.value_or(parts.adapter) != parts.adapter) {
      return absl::InvalidArgumentError(absl::StrCat("arrays of two adapters, '", *adapter,
                                                     "' and '", parts.adapter, "': ", key));
    }
    adapter = parts.adapter;
    if (!seen.insert(parameter->unsafeGetTensorImpl()).second) {
      return absl::InvalidArgumentError(absl::StrCat("given twice: ", key));
    }
    FEDUMM_RETURN_IF_ERROR(CheckArray(key, array, *parameter));
    FEDUMM_ASSIGN_OR_RETURN(std::vector<float> values, ToFloats(key, array));
    updates.emplace_back(*parameter, std::move(values));
  }
  for (const Module& module : modules_) {
    for (const char matrix : {'A', 'B'}) {
      const at::Tensor& parameter = matrix == 'A' ? module.lora->a() : module.lora->b();
      if (!seen.contains(parameter.unsafeGetTensorImpl())) {
        return absl::InvalidArgumentError(
            absl::StrCat("missing: ", KeyOf(module, matrix, layout_)));
      }
    }
  }
  return Guarded([&]() -> absl::Status {
    const at::NoGradGuard no_grad;
    const at::Tensor& flat = parameters_.values();
    const at::Tensor host = flat.is_cpu() ? flat : at::empty(flat.sizes(), at::kFloat);
    for (const auto& [parameter, values] : updates) {
      std::copy(values.begin(), values.end(),
                host.mutable_data_ptr<float>() + parameter.storage_offset());
    }
    if (!flat.is_cpu()) flat.copy_(host);  // one copy to a device
    return absl::OkStatus();
  });
}

void LoraAdapter::StartTraining(uint64_t seed) {
  for (size_t i = 0; i < modules_.size(); ++i) {
    modules_[i].lora->SetDropout(config_.lora_dropout, Random(seed, {i}));
  }
}

void LoraAdapter::StopTraining() {
  for (Module& module : modules_) module.lora->SetDropout(0, Random(0));
}

absl::Status LoraAdapter::Merge() {
  if (merged_) return absl::FailedPreconditionError("the adapter is merged already");
  if (!attached_) return absl::FailedPreconditionError("the adapter is not attached");
  return Guarded([&]() -> absl::Status {
    const at::NoGradGuard no_grad;
    for (Module& module : modules_) {
      const at::Tensor& weight = module.linear->weight;
      const at::Tensor product = at::mm(module.lora->b(), module.lora->a()) * module.lora->scale();
      // Added in float32 and rounded once, as PEFT's merge_and_unload does.
      at::Tensor merged = weight.clone().add_(product);
      module.original_weight = std::exchange(module.linear->weight, std::move(merged));
      module.lora->set_merged(true);
    }
    merged_ = true;
    return absl::OkStatus();
  });
}

absl::Status LoraAdapter::Unmerge() {
  if (!merged_) return absl::FailedPreconditionError("the adapter is not merged");
  for (Module& module : modules_) {
    module.linear->weight = std::exchange(module.original_weight, at::Tensor());
    module.lora->set_merged(false);
  }
  merged_ = false;
  return absl::OkStatus();
}

}  // namespace fedumm::model
