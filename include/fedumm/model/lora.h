#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fedumm/model/linear.h"
#include "fedumm/model/parameters.h"
#include "fedumm/model/peft_config.h"
#include "fedumm/record.h"

namespace fedumm::model {

class LoraLinear;

// A LoRA adapter on a frozen backbone: the only tensors that are trained and that travel. Attached
// from its creation to its destruction, but for Detach; the linears outlive it. Not thread-safe.
//
//   FEDUMM_ASSIGN_OR_RETURN(auto adapter, LoraAdapter::Attach(model->Linears(), config, seed));
//   … train adapter->parameters() …
//   FEDUMM_RETURN_IF_ERROR(adapter->Save("adapter"));  // peft.PeftModel.from_pretrained reads it
class LoraAdapter {
 public:
  // A fresh adapter in float32, which changes nothing yet: A random from `seed`, B zero (see
  // init_lora_weights). `layout` is the spelling of the paths in `config` and in the adapter's
  // keys. INVALID_ARGUMENT if no linear is targeted or a name in target_modules is no linear's (of
  // a tied model, lm_head), which PEFT says only where nothing else matches; FAILED_PRECONDITION if
  // one has an adapter already, UNIMPLEMENTED for the init_lora_weights "orthogonal" and "eva".
  static absl::StatusOr<std::unique_ptr<LoraAdapter>> Attach(
      const std::vector<NamedLinear>& linears, LoraConfig config, uint64_t seed,
      ModuleLayout layout = ModuleLayout::kFile);
  // The adapter in a folder that PEFT or Save wrote, or one whose keys hold the adapter's name, as
  // PEFT's state_dict() has them; the layout is that of its keys. An adapter that would compute
  // anything else here than in PEFT is refused, and the error names the field or key. As in PEFT, a
  // name in target_modules may be no linear's where the file holds no tensor for it either.
  static absl::StatusOr<std::unique_ptr<LoraAdapter>> Load(const std::vector<NamedLinear>& linears,
                                                           const std::string& folder);
  ~LoraAdapter();
  LoraAdapter(const LoraAdapter&) = delete;
  LoraAdapter& operator=(const LoraAdapter&) = delete;

  // Takes the adapter off the backbone, which then computes without it, and puts it back.
  // FAILED_PRECONDITION if it is (not) attached, is merged, or if a linear has another adapter now.
  absl::Status Detach();
  absl::Status Reattach();

  // Writes adapter_config.json and adapter_model.safetensors; the folder is made if it does not
  // exist. PEFT reads keys of one layout only, that of its transformers: `layout` names it, without
  // it the adapter's own. The file names each module by its whole path where a pattern was given to
  // Attach, or config() would select other modules under the names of that layout.
  absl::Status Save(const std::string& folder) const { return Save(folder, layout_); }
  absl::Status Save(const std::string& folder, ModuleLayout layout) const;

  const LoraConfig& config() const { return config_; }
  ModuleLayout layout() const { return layout_; }
  FlatParameters& parameters() { return parameters_; }  // A, B of each module, in their order

  // All A and B under PEFT's state-dict keys, in float32.
  ArrayRecord ToArrays() const;
  // The same with the keys, the order and the dtypes of `like`, which FromArrays has accepted: the
  // form of a reply to `like`. INVALID_ARGUMENT, naming the key, for an unknown key, a dtype that
  // is no float type, or a value that overflows it.
  absl::StatusOr<ArrayRecord> ToArraysLike(const ArrayRecord& like) const;
  // The path (in the checkpoint's own layout) of the module that an array of that key belongs to.
  // Keys as FromArrays accepts; null for an unknown one.
  const std::string* ModulePathOf(const std::string& key) const;
  // Replaces all A and B. Accepts keys of either layout, with any adapter's name in them
  // ("….lora_A.vqa.weight", the same name in all keys) or with none, in any order, of any float
  // dtype. INVALID_ARGUMENT, naming the key, for one that is missing, unknown, of another adapter
  // or shape, or not finite; the adapter then stays as it was.
  absl::Status FromArrays(const ArrayRecord& arrays);

  // Dropout (lora_dropout) is off until StartTraining and after StopTraining. Equal seeds drop the
  // same elements.
  void StartTraining(uint64_t seed);
  void StopTraining();

  // Puts W + scale * B A, computed in float32 and rounded once to W's dtype (the values of PEFT's
  // merge_and_unload), in the place of each W, for inference without the adapter's cost, and puts
  // the original tensors back, bit for bit. FAILED_PRECONDITION if it is (not) merged already,
  // or detached.
  absl::Status Merge();
  absl::Status Unmerge();

 private:
  friend class LoraBank;
  struct Module {
    std::string path;  // in the file layout
    Linear* linear;
    std::shared_ptr<LoraLinear> lora;
    at::Tensor original_weight;  // while merged
  };

  LoraAdapter(LoraConfig config, ModuleLayout layout, std::vector<Module> modules,
              FlatParameters parameters, std::vector<std::string> linear_paths);
  // Attach without its check of each name in target_modules.
  static absl::StatusOr<std::unique_ptr<LoraAdapter>> AttachMatching(
      const std::vector<NamedLinear>& linears, LoraConfig config, uint64_t seed,
      ModuleLayout layout);
  ArrayRecord ToArrays(ModuleLayout layout) const;
  std::string KeyOf(const Module& module, char matrix, ModuleLayout layout) const;
  const at::Tensor* FindParameter(const std::string& plain_key) const;  // null: there is none

  LoraConfig config_;
  ModuleLayout layout_;
  std::vector<Module> modules_;
  FlatParameters parameters_;
  std::vector<std::string> linear_paths_;                  // of the whole model, in the file layout
  std::map<std::string, at::Tensor, std::less<>> by_key_;  // in both layouts
  std::map<std::string, std::string> path_of_;             // by the same keys
  bool attached_ = true;
  bool merged_ = false;
};

}  // namespace fedumm::model
