// What every aggregator and every strategy must hold to, as checks for the tests of your own. They
// need no test framework:
//
//   EXPECT_THAT(CheckAggregator([](const ArrayRecord& model) { return NewMyMedian(model); }),
//               IsEmpty());
//   EXPECT_THAT(CheckStrategy({.make = [] { return std::make_unique<MyStrategy>(); }}), IsEmpty());
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <list>
#include <memory>
#include <optional>
#include <random>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "fedumm/aggregator.h"
#include "fedumm/client_app.h"
#include "fedumm/grid.h"
#include "fedumm/simulation.h"
#include "fedumm/strategy.h"
#include "fedumm/super_link.h"
#include "fedumm/super_node.h"

namespace fedumm::testing {

// One line for each rule that does not hold; empty if all do.
using Findings = std::vector<std::string>;

// A small model of the form of an adapter: float32 matrices.
inline ArrayRecord ConformanceModel() {
  return {{"layer.lora_A.weight", Array::FromFloats({2, 3}, {{0.5f, -1, 2, 0.25f, 3, -0.125f}})},
          {"layer.lora_B.weight", Array::FromFloats({3, 2}, {{0, 0, 1, -2, 0.75f, 4}})},
          {"head.lora_A.weight", Array::FromFloats({1, 4}, {{1e-3f, -7, 0.1f, 12}})}};
}

// `arrays` with another value in each float; the same `salt` gives the same values.
inline ArrayRecord Moved(const ArrayRecord& arrays, double salt) {
  ArrayRecord moved;
  for (const auto& [key, array] : arrays) {
    std::vector<double> values = array.ToDoubles();
    for (size_t i = 0; i < values.size(); ++i) {
      const double goal = 3 * salt + std::fmod(static_cast<double>(i) * 0.37, 1.0);
      values[i] += 0.25 * (goal - values[i]);
    }
    moved.Set(key, Array::FromDoublesLike(array, values));
  }
  return moved;
}

// --- Aggregators ---------------------------------------------------------------------------------

struct Sample {
  RecordDict content;  // with the arrays named "arrays" and the metrics named "metrics"
  double weight = 1;
};

struct AggregatorSamples {
  ArrayRecord manifest = ConformanceModel();
  std::vector<Sample> good;  // empty: five of the form of the manifest
  std::vector<Sample> bad;   // to be refused; empty: what the default Check refuses
};

using MakeAggregator = std::function<std::unique_ptr<Aggregator>(const ArrayRecord& manifest)>;

namespace internal {

inline Sample SampleOf(ArrayRecord arrays, double weight) {
  return {RecordDict{{"arrays", std::move(arrays)},
                     {"metrics", MetricRecord{{"num-examples", weight}}}},
          weight};
}

inline AggregatorSamples Completed(AggregatorSamples samples) {
  const ArrayRecord& model = samples.manifest;
  if (samples.good.empty()) {
    for (int i = 0; i < 5; ++i) {
      samples.good.push_back(SampleOf(Moved(model, 0.3 * i - 1), 1 + (i * 5) % 3));
    }
  }
  if (!samples.bad.empty() || model.empty()) return samples;
  const auto& [key, first] = *model.begin();
  const auto with_first = [&, key = key](Array array) {
    ArrayRecord arrays = Moved(model, 1);
    arrays.Set(key, std::move(array));
    return SampleOf(std::move(arrays), 1);
  };
  std::vector<double> values = first.ToDoubles();
  if (!values.empty()) {
    values.back() = std::numeric_limits<double>::quiet_NaN();
    samples.bad.push_back(with_first(Array::FromDoublesLike(first, values)));
    values.back() = std::numeric_limits<double>::infinity();
    samples.bad.push_back(with_first(Array::FromDoublesLike(first, values)));
  }
  std::vector<int64_t> longer(first.shape().begin(), first.shape().end());
  longer.push_back(2);
  std::vector<float> twice(2 * static_cast<size_t>(first.num_elements()), 1.0f);
  samples.bad.push_back(with_first(Array::FromFloats(longer, twice)));
  ArrayRecord extra = Moved(model, 1);
  extra.Set("a tensor that no model has", first);
  samples.bad.push_back(SampleOf(std::move(extra), 1));
  samples.bad.push_back(SampleOf(ArrayRecord(), 1));
  for (const double weight : {0.0, -1.0, std::numeric_limits<double>::quiet_NaN(),
                              std::numeric_limits<double>::infinity()}) {
    samples.bad.push_back(SampleOf(Moved(model, 1), weight));
  }
  return samples;
}

inline absl::Status AddSample(Aggregator& aggregator, uint64_t node_id, const Sample& sample) {
  return aggregator.Add({.node_id = node_id,
                         .arrays = *sample.content.FindArrays("arrays"),
                         .weight = sample.weight,
                         .metrics = *sample.content.FindMetrics("metrics"),
                         .content = sample.content});
}

inline std::string Text(const absl::Status& status) { return status.ToString(); }

// What keeps `arrays` from being of the form of `model`; empty if nothing does.
inline std::string FormError(const ArrayRecord& model, const ArrayRecord& arrays) {
  if (arrays.size() != model.size()) return "it has another number of tensors";
  auto got = arrays.begin();
  for (const auto& [key, want] : model) {
    const auto& [name, array] = *got++;
    if (name != key) return "tensor '" + name + "' stands in the place of '" + key + "'";
    if (array.dtype() != want.dtype()) {
      return "tensor '" + key + "' has dtype " + std::string(DTypeName(array.dtype()));
    }
    if (!std::ranges::equal(array.shape(), want.shape())) {
      return "tensor '" + key + "' has shape " + array.ShapeString();
    }
    for (const double value : array.ToDoubles()) {
      if (!std::isfinite(value)) return "tensor '" + key + "' is not finite";
    }
  }
  return "";
}

}  // namespace internal

// Checks: nothing added gives FAILED_PRECONDITION; the order of the contributions changes no bit;
// a refused contribution leaves no trace, NaN, infinity and unusable weights are refused; the
// result has the manifest's names, shapes and dtypes and is finite.
inline Findings CheckAggregator(const MakeAggregator& make, AggregatorSamples given = {}) {
  const AggregatorSamples samples = internal::Completed(std::move(given));
  Findings findings;
  const absl::StatusOr<ArrayRecord> nothing = std::move(*make(samples.manifest)).TakeResult();
  if (nothing.status().code() != absl::StatusCode::kFailedPrecondition) {
    findings.push_back("TakeResult of nothing must be FAILED_PRECONDITION: " +
                       internal::Text(nothing.status()));
  }
  // The result of the good ones in that order, with the bad ones tried before each if asked for.
  const auto result_of = [&](const std::vector<size_t>& order, bool with_bad) {
    const std::unique_ptr<Aggregator> aggregator = make(samples.manifest);
    for (const size_t place : order) {
      for (size_t i = 0; with_bad && i < samples.bad.size(); ++i) {
        if (internal::AddSample(*aggregator, 100 + i, samples.bad[i]).ok()) {
          findings.push_back("bad contribution " + std::to_string(i) + " must be refused");
        }
      }
      const absl::Status added = internal::AddSample(*aggregator, 2 + place, samples.good[place]);
      if (!added.ok()) {
        findings.push_back("good contribution " + std::to_string(place) +
                           " must be accepted: " + internal::Text(added));
      }
    }
    if (aggregator->num_added() != static_cast<int64_t>(order.size())) {
      findings.push_back("num_added must count what was accepted");
    }
    return std::move(*aggregator).TakeResult();
  };
  std::vector<size_t> order(samples.good.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  const absl::StatusOr<ArrayRecord> result = result_of(order, false);
  if (!result.ok()) {
    findings.push_back("TakeResult failed: " + internal::Text(result.status()));
    return findings;
  }
  if (const std::string why = internal::FormError(samples.manifest, *result); !why.empty()) {
    findings.push_back("the result must have the form of the manifest: " + why);
  }
  if (const auto again = result_of(order, true); !again.ok() || *again != *result) {
    findings.push_back("a refused contribution changed the result");
  }
  for (unsigned seed = 0; seed < 6; ++seed) {
    std::ranges::shuffle(order, std::mt19937(seed));
    if (const auto other = result_of(order, false); !other.ok() || *other != *result) {
      findings.push_back("another order of the contributions gives another result");
      break;
    }
  }
  return findings;
}

// --- Strategies ----------------------------------------------------------------------------------

// A client that moves every tensor towards a goal that differs between nodes, and reports how far
// it was. A pure function of the message and of `partition-id`.
inline ClientApp ConformanceApp() {
  const auto partition = [](const Context& context) {
    return NumberOr(context.node_config, "partition-id", 0);
  };
  const auto arrays_of = [](const Message& message) -> const ArrayRecord* {
    for (const auto& [name, record] : *message.content) {
      if (const auto* arrays = std::get_if<ArrayRecord>(&record)) return arrays;
    }
    return nullptr;
  };
  const auto metrics_of = [=](const ArrayRecord& arrays, const Context& context) {
    double sum = 0;
    for (const auto& [key, array] : arrays) {
      for (const double value : array.ToDoubles()) sum += value * (1 + partition(context));
    }
    return MetricRecord{{"num-examples", static_cast<int64_t>(1 + partition(context))},
                        {"loss", sum}};
  };
  ClientApp app;
  app.OnTrain([=](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    const ArrayRecord* arrays = arrays_of(message);
    if (arrays == nullptr) return absl::InvalidArgumentError("no arrays");
    return RecordDict{{"arrays", Moved(*arrays, partition(context) - 1)},
                      {"metrics", metrics_of(*arrays, context)}};
  });
  app.OnEvaluate([=](const Message& message, Context& context) -> absl::StatusOr<RecordDict> {
    const ArrayRecord* arrays = arrays_of(message);
    if (arrays == nullptr) return absl::InvalidArgumentError("no arrays");
    return RecordDict{{"metrics", metrics_of(*arrays, context)}};
  });
  return app;
}

struct StrategyConformance {
  // A fresh one at every call, all alike. It must ask every node that is online in each round.
  std::function<std::unique_ptr<Strategy>()> make;
  ArrayRecord initial_arrays = ConformanceModel();
  // The nodes: partitions 0, 1, … of this app, whose replies depend on nothing but the message and
  // the node's config.
  std::function<ClientApp()> app = ConformanceApp;
  int64_t num_nodes = 3;
  int64_t num_rounds = 4;   // at least 3
  bool deployment = true;   // also over a SuperLink and SuperNodes on loopback
  std::string scratch_dir;  // for checkpoints; empty: the system's folder for temporary files
};

namespace internal {

// Another grid whose replies of one push come together, in a shuffled order, and may be spoilt.
class ReplyGrid final : public Grid {
 public:
  using Spoil = std::function<void(Message& reply)>;
  ReplyGrid(Grid& inner, unsigned seed, Spoil spoil = nullptr)
      : inner_(inner), random_(seed), spoil_(std::move(spoil)) {}

  uint64_t run_id() const override { return inner_.run_id(); }
  std::vector<uint64_t> NodeIds() override { return inner_.NodeIds(); }
  absl::StatusOr<std::vector<uint64_t>> WaitForNodes(int64_t count, absl::Time deadline) override {
    return inner_.WaitForNodes(count, deadline);
  }
  absl::StatusOr<std::vector<std::string>> PushMessages(std::vector<Message> messages) override {
    return inner_.PushMessages(std::move(messages));
  }
  absl::StatusOr<std::vector<Message>> PullMessages(const std::vector<std::string>& message_ids,
                                                    absl::Time deadline) override {
    std::vector<Message> all;
    while (all.size() < message_ids.size()) {
      absl::StatusOr<std::vector<Message>> some = inner_.PullMessages(message_ids, deadline);
      if (!some.ok()) return some;
      if (some->empty()) break;
      for (Message& reply : *some) {
        if (spoil_) spoil_(reply);
        all.push_back(std::move(reply));
      }
    }
    std::ranges::sort(all, {}, [](const Message& reply) { return reply.metadata.src_node_id; });
    std::ranges::shuffle(all, random_);
    return all;
  }
  void Withdraw(const std::vector<std::string>& message_ids) override {
    inner_.Withdraw(message_ids);
  }
  Traffic NodeTraffic(uint64_t node_id) override { return inner_.NodeTraffic(node_id); }

 private:
  Grid& inner_;
  std::mt19937 random_;
  Spoil spoil_;
};

// What a run looked like from outside.
struct Trace {
  absl::Status status;
  std::vector<ArrayRecord> arrays;  // after each round, round 0 first
  std::vector<MetricRecord> train_metrics;
  std::vector<MetricRecord> evaluate_metrics;
  std::vector<bool> updated;

  bool SameAs(const Trace& other) const {
    return status.ok() && other.status.ok() && arrays == other.arrays &&
           train_metrics == other.train_metrics && evaluate_metrics == other.evaluate_metrics &&
           updated == other.updated;
  }
};

class StrategyChecker {
 public:
  explicit StrategyChecker(const StrategyConformance& options)
      : options_(options), app_(options.app()) {}

  Findings Check() {
    const Trace base = Simulated(1);
    if (!base.status.ok()) return {"a plain run failed: " + Text(base.status)};
    for (size_t round = 1; round < base.updated.size(); ++round) {
      if (!base.updated[round])
        Find("round " + std::to_string(round) + " did not update the model");
    }
    for (const ArrayRecord& arrays : base.arrays) {
      const std::string why = FormError(options_.initial_arrays, arrays);
      if (!why.empty()) Find("the model must keep the form that it began with: " + why);
    }
    for (unsigned seed = 2; seed < 6; ++seed) {
      if (!Simulated(seed).SameAs(base)) {
        Find("another order of the replies gives another run");
        break;
      }
    }
    CheckRestarts(base);
    CheckEmptyRound(base);
    CheckRefused();
    if (options_.deployment) CheckDeployment(base);
    return std::move(findings_);
  }

 private:
  void Find(std::string finding) { findings_.push_back(std::move(finding)); }

  Trace Run(Grid& grid, StartOptions start = {}, int64_t stop_before = -1) {
    Trace trace;
    ArrayRecord now;
    start.num_rounds = options_.num_rounds;
    start.timeout = absl::Minutes(1);
    start.wait_for_nodes = absl::Minutes(1);
    start.seed = 7;
    start.evaluate_fn = [&](int64_t round,
                            const ArrayRecord& arrays) -> absl::StatusOr<MetricRecord> {
      if (round == stop_before) return absl::AbortedError("stopped by the check");
      now = arrays;
      return MetricRecord();
    };
    start.on_round = [&](const RoundResult& round) {
      round_ = round.number + 1;
      trace.arrays.push_back(now);
      trace.train_metrics.push_back(round.train_metrics);
      trace.evaluate_metrics.push_back(round.evaluate_metrics);
      trace.updated.push_back(round.updated);
    };
    round_ = 0;
    trace.status = options_.make()->Start(grid, options_.initial_arrays, std::move(start)).status();
    return trace;
  }

  Trace Simulated(unsigned seed, ReplyGrid::Spoil spoil = nullptr, StartOptions start = {},
                  int64_t stop_before = -1) {
    absl::StatusOr<std::unique_ptr<Grid>> simulation =
        NewSimulation(app_, {.num_nodes = options_.num_nodes});
    if (!simulation.ok()) return {.status = simulation.status()};
    ReplyGrid grid(**simulation, seed, std::move(spoil));
    return Run(grid, std::move(start), stop_before);
  }

  // A run that is stopped after any round goes on as if nothing had happened.
  void CheckRestarts(const Trace& base) {
    const std::filesystem::path folder = options_.scratch_dir.empty()
                                             ? std::filesystem::temp_directory_path()
                                             : std::filesystem::path(options_.scratch_dir);
    const std::string path =
        (folder / ("fedumm-conformance-" + std::to_string(std::random_device()()))).string();
    const auto remove = [&] {
      std::error_code ignored;
      std::filesystem::remove(path, ignored);
      std::filesystem::remove(path + ".rounds", ignored);
    };
    for (int64_t last = 0; last < options_.num_rounds; ++last) {
      remove();
      const StartOptions start = {.checkpoint_path = path};
      const Trace first = Simulated(1, nullptr, start, last + 1);
      if (first.status.code() != absl::StatusCode::kAborted) {
        Find("a run with a checkpoint failed: " + Text(first.status));
        break;
      }
      const Trace second = Simulated(1, nullptr, start);
      if (!second.status.ok() || second.arrays.empty() ||
          second.arrays.back() != base.arrays.back()) {
        Find("a restart after round " + std::to_string(last) +
             " gives another model: is all state in SaveState? " + Text(second.status));
        break;
      }
    }
    remove();
  }

  static void MakeError(Message& reply) {
    reply.content.reset();
    reply.error = Error{.code = ErrorCode::kClientAppRaisedException, .reason = "spoilt"};
  }

  bool IsTrainReplyOfRound(const Message& reply, int64_t round) const {
    return round_ == round && reply.metadata.message_type == message_type::kTrain;
  }

  // A round without one good reply leaves the model as it was, and the run goes on.
  void CheckEmptyRound(const Trace& base) {
    const Trace trace = Simulated(1, [this](Message& reply) {
      if (IsTrainReplyOfRound(reply, 2)) MakeError(reply);
    });
    if (!trace.status.ok()) return Find("an empty round ended the run: " + Text(trace.status));
    if (trace.updated[2] || trace.arrays[2] != trace.arrays[1]) {
      Find("an empty round must leave the model as it was");
    }
    if (trace.arrays[1] != base.arrays[1] || !trace.updated[3]) {
      Find("an empty round must touch no other round");
    }
  }

  // A reply that is refused, whatever is wrong with it, is as if its node had failed.
  void CheckRefused() {
    const auto spoilt = [this](const std::function<void(Message&)>& spoil) {
      return Simulated(1, [this, &spoil](Message& reply) {
        if (IsTrainReplyOfRound(reply, 2) && reply.metadata.src_node_id == 2) spoil(reply);
      });
    };
    const Trace failed = spoilt(MakeError);
    if (!failed.status.ok()) return Find("a failed node ended the run: " + Text(failed.status));
    const auto with_arrays = [&](const std::function<void(ArrayRecord&)>& change) {
      return spoilt([&](Message& reply) {
        RecordDict content = *reply.content;
        for (const auto& [name, record] : *reply.content) {
          const auto* arrays = std::get_if<ArrayRecord>(&record);
          if (arrays == nullptr) continue;
          ArrayRecord changed = *arrays;
          change(changed);
          content.Set(name, std::move(changed));
        }
        reply.content = std::move(content);
      });
    };
    const Trace nan = with_arrays([](ArrayRecord& arrays) {
      const ArrayRecord before = arrays;
      for (const auto& [key, array] : before) {
        std::vector<double> values = array.ToDoubles();
        for (double& value : values) value = std::numeric_limits<double>::quiet_NaN();
        arrays.Set(key, Array::FromDoublesLike(array, values));
      }
    });
    if (!nan.SameAs(failed)) Find("a reply with NaN must count as none: " + Text(nan.status));
    const Trace empty = with_arrays([](ArrayRecord& arrays) { arrays = ArrayRecord(); });
    if (!empty.SameAs(failed)) {
      Find("a reply without its tensors must count as none: " + Text(empty.status));
    }
  }

  void CheckDeployment(const Trace& base) {
    absl::StatusOr<std::unique_ptr<SuperLink>> link = SuperLink::Start({.insecure = true});
    if (!link.ok()) return Find("no SuperLink on loopback: " + Text(link.status()));
    Trace trace;
    {
      absl::StatusOr<std::unique_ptr<Grid>> grid = (*link)->CreateRun({});
      if (!grid.ok()) return Find("no run: " + Text(grid.status()));
      std::stop_source stop;
      std::vector<std::thread> nodes;
      for (int64_t i = 0; i < options_.num_nodes; ++i) {
        SuperNodeOptions node;
        node.superlink = "127.0.0.1:" + std::to_string((*link)->fleet_port());
        node.transport = Transport::kGrpcRere;
        node.insecure = true;
        node.node_config = {{"partition-id", i}, {"num-partitions", options_.num_nodes}};
        node.linger = absl::ZeroDuration();
        nodes.emplace_back([this, node, token = stop.get_token()] {
          (void)RunSuperNode(app_, node, token);  // the run shows what came of it
        });
      }
      const auto online = (*grid)->WaitForNodes(options_.num_nodes, absl::Now() + absl::Minutes(1));
      trace.status = online.status();
      if (trace.status.ok()) trace = Run(**grid);
      stop.request_stop();
      for (std::thread& node : nodes) node.join();
    }
    if (!trace.SameAs(base)) {
      Find("a deployment gives another run than a simulation: " + Text(trace.status));
    }
  }

  const StrategyConformance& options_;
  const ClientApp app_;
  Findings findings_;
  int64_t round_ = 0;  // that is played
};

}  // namespace internal

// Runs the strategy some twenty times, in simulation and once deployed on loopback. Checks: every
// round updates the model, which keeps its names, shapes and dtypes and stays finite; the order of
// the replies changes no bit; a restart from the checkpoint after any round ends with the same
// model; a round without a reply leaves the model as it was; a reply that is refused, with NaN or
// without its tensors, counts as one that never came; a deployment equals the simulation.
inline Findings CheckStrategy(const StrategyConformance& conformance) {
  return internal::StrategyChecker(conformance).Check();
}

}  // namespace fedumm::testing
