#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "fedumm/model/config.h"
#include "fedumm/model/generation.h"
#include "fedumm/model/linear.h"
#include "fedumm/model/positions.h"

namespace fedumm::model {

// Tensors by their name in a checkpoint of the published layout (see ExpectedTensors).
using StateDict = std::map<std::string, at::Tensor>;

// What the decoder continues: rows of token ids, and the images that they name.
struct Prompt {
  at::Tensor ids;                // [B, N] int64, padded on the left where rows differ
  at::Tensor attention_mask;     // [B, N], 0 on padding; undefined: no padding
  at::Tensor image_tokens;       // what EncodeImages gave for all images, in order; undefined: none
  std::vector<ImageGrid> grids;  // of those images
};

// Asked after each token of a row with all that was generated for it; true ends the row there. What
// it generates for stop strings is up to the caller.
using StopGeneration = std::function<bool(int64_t row, const std::vector<int64_t>& generated)>;

struct SampleOptions {
  int64_t steps = 30;
  double guidance = 3.0;  // 1: follow the condition alone
  bool integer_timesteps =
      true;            // 966.67 -> 966, as BLIP-3o's sampler does (its training does not)
  double shift = 1.0;  // noise levels s become shift s / (1 + (shift - 1) s)
  // Called after each step. False ends Sample with an undefined tensor. May be null.
  std::function<bool(int64_t done, int64_t in_all)> progress;
};

// While the newest one alive on a thread was made with `on`, a Decode there that computes gradients
// keeps of each decoder layer only its input: backward computes the layer a second time, for about
// a third more time per step. The bits stay the same, dropout of adapters included. Destroyed in
// the reverse order of their making, on their thread.
class GradientCheckpointing {
 public:
  explicit GradientCheckpointing(bool on);
  ~GradientCheckpointing();
  GradientCheckpointing(const GradientCheckpointing&) = delete;
  GradientCheckpointing& operator=(const GradientCheckpointing&) = delete;
  static bool enabled();  // on this thread

 private:
  bool before_;
};

// The frozen backbone: vision tower, decoder, latent queries and DiT, in LibTorch. All modules are
// Linear (or norms), so an adapter attaches by setting hooks. Const calls are thread-safe as long
// as nobody sets hooks or parameters meanwhile.
//
//   FEDUMM_ASSIGN_OR_RETURN(StateDict state, LoadStateDict(folder));
//   FEDUMM_ASSIGN_OR_RETURN(auto model, UnifiedModel::Create(config, std::move(state)));
//   FEDUMM_ASSIGN_OR_RETURN(const at::Tensor images, model->EncodeImages(pixels, grids));
//   FEDUMM_ASSIGN_OR_RETURN(const at::Tensor embeds, model->EmbedWithImages(ids, images));
//   const at::Tensor logits = model->Logits(model->Decode(embeds, positions));
//
// A method that returns a plain Tensor throws c10::Error if an argument's shape breaks its
// contract: such calls belong inside Guarded (model/guarded.h). The others answer with a Status.
// Gradients flow through every method but Generate and Sample.
class UnifiedModel {
 public:
  // Takes the tensors as they are: no copy, their dtype and device. INVALID_ARGUMENT names tensors
  // that are missing, unexpected or of another shape. Tensors of "model.gen_vision_tower." (which
  // made the training latents) are dropped.
  static absl::StatusOr<std::unique_ptr<UnifiedModel>> Create(const BackboneConfig& config,
                                                              StateDict state);
  // Random fp32 weights to pre-train from; equal seeds give equal bits. The DiT starts as the zero
  // function.
  static StateDict InitialState(const BackboneConfig& config, uint64_t seed);
  ~UnifiedModel();

  // Exchanges everything that the two models hold, hooks included: who refers to one then sees what
  // was the other's.
  void Swap(UnifiedModel& other) { modules_.swap(other.modules_); }

  const BackboneConfig& config() const;
  at::Device device() const;           // of the weights
  std::vector<NamedLinear> Linears();  // sorted by path; lm_head among them unless tied
  std::map<std::string, at::Tensor*> Parameters();  // every tensor of the checkpoint, by name
  // Of the parameters whose name begins with `prefix`.
  void SetRequiresGrad(bool requires_grad, std::string_view prefix = "");

  // The images' tokens, one after the other: [sum of ImageTokens, hidden]. `pixels` is [sum of
  // t*h*w, patch_elements], each image's patches in merge-block order (every 2x2 block's four
  // patches together). Batches of equal grids take one fast path.
  absl::StatusOr<at::Tensor> EncodeImages(const at::Tensor& pixels,
                                          std::span<const ImageGrid> grids) const;

  at::Tensor Embed(const at::Tensor& ids) const;  // [B, N] int64 -> [B, N, hidden]
  // Embeds `ids` and puts `image_tokens` [n, hidden] where they hold the image token.
  // INVALID_ARGUMENT unless there are exactly n.
  absl::StatusOr<at::Tensor> EmbedWithImages(const at::Tensor& ids,
                                             const at::Tensor& image_tokens) const;
  // Positions [3, B, N] of padded rows (0 on padding) and each row's delta [B]; the rows' images
  // are `grids` in order.
  struct Positions {
    at::Tensor ids;
    at::Tensor deltas;
  };
  absl::StatusOr<Positions> PositionsOf(const at::Tensor& ids, const at::Tensor& attention_mask,
                                        std::span<const ImageGrid> grids) const;
  // Hidden states after the final norm, [B, N, hidden]. `positions` is [3, B, N], or [3, 1, N]
  // where all rows agree. `mask` [B, N] is 0 on padding; without it attention is causal alone,
  // which is right (and faster) for rows padded on the right.
  at::Tensor Decode(const at::Tensor& embeds, const at::Tensor& positions,
                    const at::Tensor& mask = {}) const;
  at::Tensor Logits(const at::Tensor& hidden) const;  // [..., hidden] -> [..., vocab]
  // The continuation of each row, greedy or sampled, with a key-value cache. `stop` may be null.
  absl::StatusOr<std::vector<std::vector<int64_t>>> Generate(
      const Prompt& prompt, const GenerationSettings& settings,
      const StopGeneration& stop = nullptr) const;

  // The rest needs config().dit.
  const at::Tensor& latent_queries() const;  // [1, n_query, hidden]
  // The decoder's answer to the latent queries appended to each prompt: [B, n] -> [B, n_query,
  // hidden]. Plain positions, as BLIP-3o.
  at::Tensor GenerationHidden(const at::Tensor& prompt_ids) const;
  // The same for prompts of different lengths, padded on the right: row i of `padded_ids` [B, N]
  // has its n_query latent queries in place of what stands at `slots` [B * n_query], places in the
  // flattened rows, right after its prompt. What follows the queries is seen by nothing.
  at::Tensor GenerationHidden(const at::Tensor& padded_ids, const at::Tensor& slots) const;
  // The velocity field: x [B, C, s, s], t [B] in [0, 1000], z [B, n, hidden] -> [B, C, s, s].
  at::Tensor Dit(const at::Tensor& x, const at::Tensor& t, const at::Tensor& z) const;
  // Flow matching loss (scalar, fp32): u [B] in [0, 1) picks the timestep, keep [B] is 0 where z is
  // dropped, `shift` is as in SampleOptions.
  at::Tensor FlowLoss(const at::Tensor& latents, const at::Tensor& z, const at::Tensor& noise,
                      const at::Tensor& u, const at::Tensor& keep, double shift = 1.0) const;
  // Euler steps from `noise` [B, C, s, s] at time 1 to latents at time 0, under classifier-free
  // guidance.
  at::Tensor Sample(const at::Tensor& z, const at::Tensor& noise,
                    const SampleOptions& options) const;

 private:
  struct Modules;
  explicit UnifiedModel(std::unique_ptr<Modules> modules);
  std::unique_ptr<Modules> modules_;
};

}  // namespace fedumm::model
