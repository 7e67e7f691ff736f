#include "model/backbone/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

namespace fedumm::model {
namespace {

constexpr float kRemoved = -std::numeric_limits<float>::infinity();

std::vector<float> Penalised(std::span<const float> logits, std::span<const int64_t> so_far,
                             double penalty) {
  std::vector<float> scores(logits.begin(), logits.end());
  for (float& score : scores) {
    if (std::isnan(score)) score = kRemoved;  // has no place in an order
  }
  if (penalty == 1) return scores;
  const auto factor = static_cast<float>(penalty);
  const std::set<int64_t> seen(so_far.begin(), so_far.end());
  for (const int64_t token : seen) {
    if (token < 0 || token >= std::ssize(scores)) continue;
    float& score = scores[static_cast<size_t>(token)];
    score = score < 0 ? score * factor : score / factor;
  }
  return scores;
}

std::vector<float> Softmax(std::span<const float> scores) {
  const float largest = *std::max_element(scores.begin(), scores.end());
  std::vector<float> probabilities(scores.size());
  double sum = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    probabilities[i] = std::exp(scores[i] - largest);
    sum += probabilities[i];
  }
  for (float& probability : probabilities) {
    probability = static_cast<float>(static_cast<double>(probability) / sum);
  }
  return probabilities;
}

// Removes what is below the k-th largest score; equals of it stay.
void KeepTopK(int64_t k, std::vector<float>& scores) {
  if (k <= 0 || k >= std::ssize(scores)) return;
  std::vector<float> sorted = scores;
  const auto kth = sorted.begin() + (k - 1);
  std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<>());
  const float limit = *kth;
  for (float& score : scores) {
    if (score < limit) score = kRemoved;
  }
}

// Removes the least probable tokens whose probabilities add up to at most 1 - top_p; the last
// stays.
void KeepTopP(double top_p, std::vector<float>& scores) {
  if (top_p >= 1) return;
  const std::vector<float> probabilities = Softmax(scores);
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] < scores[b]; });
  const auto limit = static_cast<float>(1 - top_p);
  double sum = 0;
  for (size_t i = 0; i + 1 < order.size(); ++i) {
    sum += probabilities[order[i]];
    if (static_cast<float>(sum) > limit) break;
    scores[order[i]] = kRemoved;
  }
}

// Removes what is less probable than min_p times the most probable.
void KeepMinP(double min_p, std::vector<float>& scores) {
  if (min_p <= 0) return;
  const std::vector<float> probabilities = Softmax(scores);
  const float limit =
      static_cast<float>(min_p) * *std::max_element(probabilities.begin(), probabilities.end());
  for (size_t i = 0; i < scores.size(); ++i) {
    if (probabilities[i] < limit) scores[i] = kRemoved;
  }
}

}  // namespace

std::vector<float> NextTokenProbabilities(std::span<const float> logits,
                                          std::span<const int64_t> so_far,
                                          const GenerationSettings& settings) {
  std::vector<float> scores = Penalised(logits, so_far, settings.repetition_penalty);
  if (settings.temperature != 1) {
    const auto temperature = static_cast<float>(settings.temperature);
    for (float& score : scores) score /= temperature;
  }
  KeepTopK(settings.top_k, scores);
  KeepTopP(settings.top_p, scores);
  KeepMinP(settings.min_p, scores);
  return Softmax(scores);
}

int64_t PickToken(std::span<const float> probabilities, double uniform) {
  double sum = 0;
  int64_t last = 0;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    if (probabilities[i] <= 0) continue;
    last = static_cast<int64_t>(i);
    sum += probabilities[i];
    if (uniform < sum) return last;
  }
  return last;  // rounding left the sum a little below 1
}

int64_t GreedyToken(std::span<const float> logits, std::span<const int64_t> so_far,
                    double repetition_penalty) {
  const std::vector<float> scores = Penalised(logits, so_far, repetition_penalty);
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

}  // namespace fedumm::model
