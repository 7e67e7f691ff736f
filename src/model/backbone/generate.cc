#include "model/backbone/generate.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/argmax.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <utility>

#include "base/random.h"
#include "base/status_macros.h"
#include "model/backbone/sampling.h"

namespace fedumm::model {
namespace {

// Chooses the next token of each row.
class TokenChooser {
 public:
  // `ids` is what each row begins with.
  TokenChooser(const GenerationSettings& settings, const at::Tensor& ids, const at::Tensor& mask)
      : settings_(settings), greedy_(!settings.do_sample && settings.repetition_penalty == 1) {
    if (greedy_) return;
    const at::Tensor host_ids = ids.cpu().contiguous();
    const at::Tensor host_mask = mask.defined() ? mask.cpu().contiguous() : at::Tensor();
    const int64_t length = ids.size(1);
    so_far_.resize(static_cast<size_t>(ids.size(0)));
    for (int64_t i = 0; i < ids.numel(); ++i) {
      if (host_mask.defined() && !host_mask.const_data_ptr<bool>()[i]) continue;
      so_far_[static_cast<size_t>(i / length)].push_back(host_ids.const_data_ptr<int64_t>()[i]);
    }
  }

  // `logits` [n, vocab] are those of `rows`; the result is in host memory.
  std::vector<int64_t> Choose(const at::Tensor& logits, const std::vector<int64_t>& rows,
                              int64_t step) {
    std::vector<int64_t> tokens;
    if (greedy_) {
      const at::Tensor host = at::argmax(logits, -1).cpu();
      tokens.assign(host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel());
      return tokens;
    }
    const at::Tensor host = logits.to(at::kCPU, at::kFloat).contiguous();
    const auto vocab = static_cast<size_t>(host.size(1));
    for (size_t i = 0; i < rows.size(); ++i) {
      const std::span<const float> scores(host.const_data_ptr<float>() + i * vocab, vocab);
      std::vector<int64_t>& so_far = so_far_[static_cast<size_t>(rows[i])];
      tokens.push_back(ChooseOne(scores, so_far, rows[i], step));
      so_far.push_back(tokens.back());
    }
    return tokens;
  }

 private:
  int64_t ChooseOne(std::span<const float> scores, std::span<const int64_t> so_far, int64_t row,
                    int64_t step) const {
    if (!settings_.do_sample) return GreedyToken(scores, so_far, settings_.repetition_penalty);
    Random random(settings_.seed, {static_cast<uint64_t>(row), static_cast<uint64_t>(step)});
    return PickToken(NextTokenProbabilities(scores, so_far, settings_), random.Uniform());
  }

  const GenerationSettings& settings_;
  const bool greedy_;
  std::vector<std::vector<int64_t>> so_far_;  // by row; empty where it is not needed
};

}  // namespace

absl::StatusOr<std::vector<std::vector<int64_t>>> GenerateRows(const Decoder& decoder,
                                                               GenerationStart start,
                                                               const GenerationSettings& settings,
                                                               const StopGeneration& stop) {
  FEDUMM_RETURN_IF_ERROR(settings.Validate());
  const int64_t batch = start.ids.size(0);
  const int64_t length = start.ids.size(1);
  const at::Device device = start.embeds.device();
  const int64_t capacity = length + settings.max_new_tokens;
  TokenChooser chooser(settings, start.ids, start.mask);
  KeyValueCache cache(capacity);
  at::Tensor mask;  // over all places; new tokens are never padding
  if (start.mask.defined()) {
    mask = at::ones({batch, capacity}, start.mask.options());
    mask.narrow(1, 0, length).copy_(start.mask);
  }
  at::Tensor positions = start.positions;
  at::Tensor next_position = start.next_position.to(device).view({1, batch, 1});
  at::Tensor embeds = std::move(start.embeds);
  std::vector<std::vector<int64_t>> output(static_cast<size_t>(batch));
  std::vector<int64_t> rows;  // of the batch, where each of the decoder's rows belongs
  for (int64_t row = 0; row < batch; ++row) rows.push_back(row);
  std::vector<bool> ended(static_cast<size_t>(batch), false);
  for (int64_t step = 0; step < settings.max_new_tokens; ++step) {
    const at::Tensor seen = mask.defined() ? mask.narrow(1, 0, length + step) : at::Tensor();
    const at::Tensor hidden = decoder.Run(embeds, positions, seen, &cache);
    const at::Tensor logits = decoder.Logits(hidden.select(1, -1));
    // A broken weight shows in the first logits.
    if (step == 0 && !at::isfinite(logits).all().item<bool>()) {
      return absl::InternalError(
          "generate: the logits are not finite; `fedumm inspect --check` finds a broken weight");
    }
    std::vector<int64_t> tokens = chooser.Choose(logits, rows, step);
    std::vector<int64_t> going;  // places in `rows` that have not ended
    for (size_t i = 0; i < rows.size(); ++i) {
      const auto row = static_cast<size_t>(rows[i]);
      if (ended[row]) continue;
      const auto& stop_ids = settings.stop_ids;
      if (std::find(stop_ids.begin(), stop_ids.end(), tokens[i]) != stop_ids.end()) {
        ended[row] = true;
      } else {
        output[row].push_back(tokens[i]);
        ended[row] = stop != nullptr && stop(rows[i], output[row]);
      }
      if (!ended[row]) going.push_back(static_cast<int64_t>(i));
    }
    if (going.empty()) break;
    if (2 * going.size() <= rows.size()) {
      const at::Tensor kept = at::tensor(going, at::kLong).to(device);
      cache.KeepRows(kept);
      if (mask.defined()) mask = mask.index_select(0, kept);
      next_position = next_position.index_select(1, kept);
      std::vector<int64_t> kept_rows, kept_tokens;
      for (const int64_t i : going) {
        kept_rows.push_back(rows[static_cast<size_t>(i)]);
        kept_tokens.push_back(tokens[static_cast<size_t>(i)]);
      }
      rows = std::move(kept_rows);
      tokens = std::move(kept_tokens);
    }
    const auto count = static_cast<int64_t>(rows.size());
    embeds = decoder.Embed(at::tensor(tokens, at::kLong).to(device).view({count, 1}));
    positions = next_position.expand({3, count, 1});
    next_position = next_position + 1;
  }
  return output;
}

}  // namespace fedumm::model
