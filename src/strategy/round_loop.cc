#include "strategy/round_loop.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "record/form.h"
#include "strategy/checkpoint.h"
#include "strategy/reply.h"

namespace fedumm {
namespace {

MetricRecord Aggregate(const MetricsAggregation& aggregation, const std::vector<NodeMetrics>& nodes,
                       const std::string& weight_key) {
  if (nodes.empty()) return {};
  return aggregation ? aggregation(nodes, weight_key) : WeightedMetricsMean(nodes, weight_key);
}

bool SameForms(const ArrayRecord& a, const ArrayRecord& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.first == y.first && SameForm(x.second, y.second);
  });
}

}  // namespace

RoundLoop::RoundLoop(Strategy& strategy, Grid& grid, StartOptions options)
    : strategy_(strategy), grid_(grid), options_(std::move(options)) {}

absl::StatusOr<Result> RoundLoop::Run(ArrayRecord initial_arrays) {
  FEDUMM_RETURN_IF_ERROR(CheckOptions());
  result_.arrays = std::move(initial_arrays);
  FEDUMM_RETURN_IF_ERROR(Resume());
  if (result_.rounds.empty()) {
    RoundResult start = {.number = 0};
    const absl::Time began = options_.clock();
    FEDUMM_RETURN_IF_ERROR(EvaluateCentrally(start));
    start.duration = options_.clock() - began;
    result_.rounds.push_back(std::move(start));
    FEDUMM_RETURN_IF_ERROR(Save());  // so that a path that cannot be written is noticed now
    if (options_.on_round) options_.on_round(result_.rounds.back());
  }
  while (static_cast<int64_t>(result_.rounds.size()) <= options_.num_rounds) {
    FEDUMM_RETURN_IF_ERROR(PlayRound(static_cast<int64_t>(result_.rounds.size())));
  }
  return std::move(result_);
}

absl::Status RoundLoop::CheckOptions() const {
  const StrategyOptions& strategy = strategy_.options();
  const auto check = [](bool ok, absl::string_view what, auto value) {
    return ok ? absl::OkStatus() : absl::InvalidArgumentError(absl::StrCat(what, ": ", value));
  };
  const auto is_fraction = [](double value) { return value >= 0 && value <= 1; };
  FEDUMM_RETURN_IF_ERROR(check(is_fraction(strategy.fraction_train),
                               "fraction_train must be from 0 to 1", strategy.fraction_train));
  FEDUMM_RETURN_IF_ERROR(check(is_fraction(strategy.fraction_evaluate),
                               "fraction_evaluate must be from 0 to 1",
                               strategy.fraction_evaluate));
  FEDUMM_RETURN_IF_ERROR(check(strategy.min_train_nodes >= 0,
                               "min_train_nodes must not be negative", strategy.min_train_nodes));
  FEDUMM_RETURN_IF_ERROR(check(strategy.min_evaluate_nodes >= 0,
                               "min_evaluate_nodes must not be negative",
                               strategy.min_evaluate_nodes));
  FEDUMM_RETURN_IF_ERROR(
      check(options_.num_rounds >= 0, "num_rounds must not be negative", options_.num_rounds));
  FEDUMM_RETURN_IF_ERROR(check(options_.quorum >= 1, "quorum must be at least 1", options_.quorum));
  const bool timeout_ok =
      options_.timeout > absl::ZeroDuration() && options_.timeout < absl::InfiniteDuration();
  return check(timeout_ok, "timeout must be positive and finite",
               absl::FormatDuration(options_.timeout));
}

absl::Status RoundLoop::Resume() {
  if (options_.checkpoint_path.empty()) return absl::OkStatus();
  absl::StatusOr<Checkpoint> checkpoint = ReadCheckpoint(options_.checkpoint_path);
  if (absl::IsNotFound(checkpoint.status())) return absl::OkStatus();
  FEDUMM_RETURN_IF_ERROR(checkpoint.status());
  if (checkpoint->seed != options_.seed) {
    return absl::FailedPreconditionError(absl::StrCat(options_.checkpoint_path,
                                                      " is of a run with seed ", checkpoint->seed,
                                                      ", not ", options_.seed));
  }
  if (!SameForms(checkpoint->arrays, result_.arrays)) {
    return absl::FailedPreconditionError(
        absl::StrCat(options_.checkpoint_path, " is of a run with other arrays"));
  }
  FEDUMM_RETURN_IF_ERROR(strategy_.RestoreState(checkpoint->strategy_state));
  result_.arrays = std::move(checkpoint->arrays);
  result_.rounds = std::move(checkpoint->rounds);
  Log()->info("resuming after round {} of {}", result_.rounds.back().number, options_.num_rounds);
  return absl::OkStatus();
}

absl::Status RoundLoop::Save() const {
  if (options_.checkpoint_path.empty()) return absl::OkStatus();
  return WriteCheckpoint(options_.checkpoint_path, {.seed = options_.seed,
                                                    .arrays = result_.arrays,
                                                    .strategy_state = strategy_.SaveState(),
                                                    .rounds = result_.rounds});
}

absl::Status RoundLoop::PlayRound(int64_t number) {
  const absl::Time start = options_.clock();
  RoundResult result = {.number = number};
  FEDUMM_RETURN_IF_ERROR(Train(result));
  FEDUMM_RETURN_IF_ERROR(Evaluate(result));
  FEDUMM_RETURN_IF_ERROR(EvaluateCentrally(result));
  for (NodeOutcome& node : result.nodes) {
    // Until here `traffic` held the counters as the round began.
    const Grid::Traffic now = grid_.NodeTraffic(node.node_id);
    node.traffic = {.bytes_down = now.bytes_down - node.traffic.bytes_down,
                    .bytes_up = now.bytes_up - node.traffic.bytes_up};
  }
  result.duration = options_.clock() - start;
  result_.rounds.push_back(std::move(result));
  FEDUMM_RETURN_IF_ERROR(Save());
  if (options_.on_round) options_.on_round(result_.rounds.back());
  return absl::OkStatus();
}

absl::Status RoundLoop::Train(RoundResult& result) {
  const StrategyOptions& strategy = strategy_.options();
  const Phase phase = {.type = message_type::kTrain,
                       .fraction = strategy.fraction_train,
                       .min_nodes = strategy.min_train_nodes,
                       .config = options_.train_config};
  const Round round = RoundOf(result.number, phase.type);
  const std::unique_ptr<Aggregator> aggregator = strategy_.NewAggregator(round);
  std::map<uint64_t, MetricRecord> metrics;
  const auto on_reply = [&](uint64_t node_id, const Message& message) -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(const TrainReply reply,
                            ReadTrainReply(message, strategy.weighted_by_key));
    FEDUMM_RETURN_IF_ERROR(
        aggregator->Add({.node_id = node_id, .arrays = reply.arrays, .weight = reply.weight}));
    metrics[node_id] = reply.metrics;
    return absl::OkStatus();
  };
  FEDUMM_ASSIGN_OR_RETURN(result.nodes, Ask(phase, result.number, on_reply));
  if (phase.fraction == 0) return absl::OkStatus();
  std::vector<NodeMetrics> accepted;
  for (NodeOutcome& node : result.nodes) {
    if (!node.accepted) continue;
    node.metrics = metrics[node.node_id];
    accepted.push_back({node.node_id, node.metrics});
  }
  result.train_metrics =
      Aggregate(strategy.train_metrics_aggr_fn, accepted, strategy.weighted_by_key);
  if (static_cast<int64_t>(accepted.size()) < options_.quorum) {
    Log()->warn(
        "round {}: {} of {} train replies accepted, quorum is {}; the model stays as it was",
        result.number, accepted.size(), result.nodes.size(), options_.quorum);
    return absl::OkStatus();
  }
  FEDUMM_ASSIGN_OR_RETURN(ArrayRecord aggregate, std::move(*aggregator).TakeResult());
  FEDUMM_ASSIGN_OR_RETURN(ArrayRecord arrays, strategy_.Step(round, std::move(aggregate)));
  result_.arrays = std::move(arrays);
  result.updated = true;
  return absl::OkStatus();
}

absl::Status RoundLoop::Evaluate(RoundResult& result) {
  const StrategyOptions& strategy = strategy_.options();
  const Phase phase = {.type = message_type::kEvaluate,
                       .fraction = strategy.fraction_evaluate,
                       .min_nodes = strategy.min_evaluate_nodes,
                       .config = options_.evaluate_config};
  std::vector<NodeMetrics> accepted;
  const auto on_reply = [&](uint64_t node_id, const Message& message) -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(const MetricRecord* metrics,
                            ReadEvaluateReply(message, strategy.weighted_by_key));
    accepted.push_back({node_id, *metrics});
    return absl::OkStatus();
  };
  FEDUMM_RETURN_IF_ERROR(Ask(phase, result.number, on_reply).status());
  std::sort(accepted.begin(), accepted.end(),
            [](const NodeMetrics& a, const NodeMetrics& b) { return a.node_id < b.node_id; });
  result.evaluate_metrics =
      Aggregate(strategy.evaluate_metrics_aggr_fn, accepted, strategy.weighted_by_key);
  return absl::OkStatus();
}

absl::Status RoundLoop::EvaluateCentrally(RoundResult& result) {
  if (!options_.evaluate_fn) return absl::OkStatus();
  FEDUMM_ASSIGN_OR_RETURN(result.server_metrics,
                          options_.evaluate_fn(result.number, result_.arrays));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<NodeOutcome>> RoundLoop::Ask(const Phase& phase, int64_t number,
                                                        const OnReply& on_reply) {
  if (phase.fraction == 0) return std::vector<NodeOutcome>();
  const Round round = RoundOf(number, phase.type);
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<uint64_t> nodes, SelectNodes(phase, round));
  std::map<uint64_t, NodeOutcome> outcomes;
  std::vector<Message> messages;
  for (const uint64_t node_id : nodes) {
    outcomes[node_id] = {.node_id = node_id, .traffic = grid_.NodeTraffic(node_id)};
    messages.push_back(Instruction(phase, round, node_id));
  }
  std::set<uint64_t> silent(nodes.begin(), nodes.end());
  const auto take_reply = [&](const Message& reply) {
    const uint64_t node_id = reply.metadata.src_node_id;
    if (silent.erase(node_id) == 0) {
      Log()->warn("round {}: ignored a reply of node {}, which was not asked or has answered",
                  number, node_id);
      return true;
    }
    const absl::Status status = on_reply(node_id, reply);
    outcomes[node_id].accepted = status.ok();
    outcomes[node_id].reason = std::string(status.message());
    return true;
  };
  FEDUMM_RETURN_IF_ERROR(grid_.SendAndReceive(std::move(messages), options_.timeout, take_reply));
  for (const uint64_t node_id : silent) outcomes[node_id].reason = "no reply in time";
  std::vector<NodeOutcome> result;
  for (auto& [node_id, outcome] : outcomes) {
    if (!outcome.accepted) {
      Log()->warn("round {}: {} reply of node {} left out: {}", number, phase.type, node_id,
                  outcome.reason);
    }
    result.push_back(std::move(outcome));
  }
  return result;
}

absl::StatusOr<std::vector<uint64_t>> RoundLoop::SelectNodes(const Phase& phase,
                                                             const Round& round) {
  // A fraction is at most 1, so that the sample is never larger than what is online.
  const int64_t needed = std::max(strategy_.options().min_available_nodes, phase.min_nodes);
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<uint64_t> online,
                          grid_.WaitForNodes(needed, absl::Now() + options_.wait_for_nodes));
  if (static_cast<int64_t>(online.size()) < needed) {
    return absl::DeadlineExceededError(
        absl::StrCat("round ", round.number, ": ", online.size(), " nodes online after ",
                     absl::FormatDuration(options_.wait_for_nodes), ", ", needed, " needed"));
  }
  std::vector<uint64_t> nodes = strategy_.Select(round, online, phase.fraction, phase.min_nodes);
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  return nodes;
}

Message RoundLoop::Instruction(const Phase& phase, const Round& round, uint64_t node_id) {
  ConfigRecord config = phase.config;
  config.Set("server-round", round.number);
  if (phase.type == message_type::kTrain) {
    for (const auto& [key, value] : strategy_.ConfigureTrain(round, node_id)) {
      config.Set(key, value);
    }
  }
  const StrategyOptions& strategy = strategy_.options();
  Message message;
  message.metadata.dst_node_id = node_id;
  message.metadata.message_type = std::string(phase.type);
  message.metadata.ttl = std::max(kDefaultTtlSeconds, absl::ToDoubleSeconds(options_.timeout));
  message.content = RecordDict{{strategy.arrayrecord_key, round.arrays},
                               {strategy.configrecord_key, std::move(config)}};
  return message;
}

Round RoundLoop::RoundOf(int64_t number, std::string_view phase) const {
  return {.number = number,
          .num_rounds = options_.num_rounds,
          .seed = options_.seed,
          .arrays = result_.arrays,
          .phase = phase};
}

}  // namespace fedumm
