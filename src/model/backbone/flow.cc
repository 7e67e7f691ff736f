// Flow matching on the DiT: what it is trained on, and how it draws.
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/floor.h>
#include <ATen/ops/full.h>
#include <ATen/ops/mse_loss.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>

#include "fedumm/model/backbone.h"
#include "model/backbone/dit.h"

namespace fedumm::model {
namespace {

constexpr float kTrainTimesteps = 1000;

}  // namespace

at::Tensor DiffusionTransformer::FlowLoss(const at::Tensor& latents, const at::Tensor& z,
                                          const at::Tensor& noise, const at::Tensor& u,
                                          const at::Tensor& keep, double shift) const {
  // The scheduler's timesteps are whole without a shift: 1000, 999, …, 1.
  at::Tensor t = kTrainTimesteps - at::floor(u.to(at::kFloat) * kTrainTimesteps);
  if (shift != 1.0) {
    const at::Tensor level = t / kTrainTimesteps;
    t = shift * level / (1 + (shift - 1) * level) * kTrainTimesteps;
  }
  const at::Tensor sigma = (t / kTrainTimesteps).view({-1, 1, 1, 1});
  const at::Tensor noisy = (1 - sigma) * latents + sigma * noise;
  const at::Tensor velocity =
      Run(noisy.to(z.scalar_type()), t, z * keep.to(z.scalar_type()).view({-1, 1, 1}));
  return at::mse_loss(velocity.to(at::kFloat), (noise - latents).to(at::kFloat));
}

at::Tensor DiffusionTransformer::Sample(const at::Tensor& z, const at::Tensor& noise,
                                        const SampleOptions& options) const {
  TORCH_CHECK(options.steps > 0, "Sample: ", options.steps, " steps");
  const at::NoGradGuard no_grad;
  const bool guided = options.guidance != 1.0;
  const at::Tensor condition = guided ? at::cat({at::zeros_like(z), z}) : z;
  // From 1 down to 1 / steps in equal steps, then 0; in the reference's order of operations, since
  // the integer part matters.
  const double last = 1.0 / static_cast<double>(options.steps);
  const double stride =
      options.steps == 1 ? 0 : (last - 1) / static_cast<double>(options.steps - 1);
  const auto sigma = [&](int64_t step) -> float {
    if (step == options.steps) return 0;
    const double level = step + 1 == options.steps ? last : static_cast<double>(step) * stride + 1;
    if (options.shift == 1.0) return static_cast<float>(level);
    return static_cast<float>(options.shift * level / (1 + (options.shift - 1) * level));
  };
  at::Tensor x = noise;
  for (int64_t step = 0; step < options.steps; ++step) {
    const float t = sigma(step) * kTrainTimesteps;
    const at::Tensor times =
        at::full({condition.size(0)}, options.integer_timesteps ? std::floor(t) : t,
                 x.options().dtype(at::kFloat));
    at::Tensor velocity = Run((guided ? at::cat({x, x}) : x).to(z.scalar_type()), times, condition);
    if (guided) {
      const std::vector<at::Tensor> halves = velocity.chunk(2);
      velocity = halves[0] + options.guidance * (halves[1] - halves[0]);
    }
    x = (x.to(at::kFloat) + (sigma(step + 1) - sigma(step)) * velocity.to(at::kFloat))
            .to(noise.scalar_type());
    if (options.progress != nullptr && !options.progress(step + 1, options.steps)) return {};
  }
  return x;
}

}  // namespace fedumm::model
