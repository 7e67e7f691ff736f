#include "model/tasks/prompt_rows.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <map>
#include <utility>

namespace fedumm::model {
namespace {

// Names of a batch's tensors: the rows, the places of the queries, each example's row.
constexpr const char* kPromptIds = "prompt_ids";
constexpr const char* kSlots = "slots";
constexpr const char* kPromptRow = "prompt";

}  // namespace

void AddPromptRows(std::span<const std::vector<int64_t>* const> prompts, int64_t n_query,
                   Batch& batch) {
  std::map<std::vector<int64_t>, int64_t> row_of;
  std::vector<const std::vector<int64_t>*> different;
  std::vector<int64_t> rows;
  size_t width = 0;
  for (const std::vector<int64_t>* prompt : prompts) {
    const auto [it, added] = row_of.try_emplace(*prompt, std::ssize(different));
    if (added) different.push_back(prompt);
    rows.push_back(it->second);
    width = std::max(width, prompt->size());
  }
  const int64_t length = static_cast<int64_t>(width) + n_query;
  at::Tensor ids = at::zeros({std::ssize(different), length}, at::kLong);
  std::vector<int64_t> slots;
  for (size_t row = 0; row < different.size(); ++row) {
    const int64_t begin = static_cast<int64_t>(row) * length;
    std::copy(different[row]->begin(), different[row]->end(),
              ids.mutable_data_ptr<int64_t>() + begin);
    for (int64_t i = 0; i < n_query; ++i) slots.push_back(begin + std::ssize(*different[row]) + i);
  }
  batch[kPromptIds] = std::move(ids);
  batch[kSlots] = IndexTensor(slots);
  batch[kPromptRow] = IndexTensor(rows);
}

at::Tensor HiddenOfPromptRows(const UnifiedModel& model, const Batch& on_device) {
  return model.GenerationHidden(on_device.at(kPromptIds), on_device.at(kSlots))
      .index_select(0, on_device.at(kPromptRow));
}

}  // namespace fedumm::model
