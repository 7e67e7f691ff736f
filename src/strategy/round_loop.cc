#include "strategy/round_loop.h"

#include <algorithm>
#include <memory>
#include <set>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/str_cat.h"
#include "base/countdown.h"
#include "base/log.h"
#include "base/printable.h"
#include "base/status_macros.h"
#include "record/form.h"
#include "strategy/checkpoint.h"
#include "strategy/reply.h"

namespace fedumm {
namespace {

constexpr size_t kMaxReasonCharacters = 1000;

MetricRecord Aggregate(const MetricsAggregation& aggregation, const std::vector<NodeMetrics>& nodes,
                       const std::string& weight_key) {
  if (nodes.empty()) return {};
  return aggregation ? aggregation(nodes, weight_key) : WeightedMetricsMean(nodes, weight_key);
}

}  // namespace

RoundLoop::RoundLoop(Strategy& strategy, Grid& grid, StartOptions options)
    : strategy_(strategy), grid_(grid), options_(std::move(options)) {}

absl::StatusOr<Result> RoundLoop::Run(ArrayRecord initial_arrays) {
  FEDUMM_RETURN_IF_ERROR(CheckOptions());
  result_.arrays = std::move(initial_arrays);
  FEDUMM_RETURN_IF_ERROR(Resume());
  if (last_round_ < 0) FEDUMM_RETURN_IF_ERROR(PlayRoundZero());
  while (last_round_ < options_.num_rounds) FEDUMM_RETURN_IF_ERROR(PlayRound(last_round_ + 1));
  FEDUMM_RETURN_IF_ERROR(CheckLearnt());
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
  FEDUMM_RETURN_IF_ERROR(
      check(options_.keep_rounds >= 0, "keep_rounds must not be negative", options_.keep_rounds));
  FEDUMM_RETURN_IF_ERROR(check(options_.evaluate_every >= 0, "evaluate_every must not be negative",
                               options_.evaluate_every));
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
  absl::StatusOr<ArrayRecord> arrays = InFormOf(result_.arrays, checkpoint->arrays);
  if (!arrays.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(options_.checkpoint_path,
                                                      " is of a run with other arrays: it ",
                                                      arrays.status().message()));
  }
  FEDUMM_RETURN_IF_ERROR(strategy_.RestoreState(checkpoint->strategy_state));
  absl::StatusOr<RoundLog> log =
      RoundLog::Open(RoundLogPath(options_.checkpoint_path), checkpoint->log,
                     [this](RoundResult round) { Keep(std::move(round)); });
  FEDUMM_RETURN_IF_ERROR(log.status());
  log_.emplace(*std::move(log));
  result_.arrays = *std::move(arrays);
  last_round_ = checkpoint->last_round;
  num_updated_ = checkpoint->num_updated;
  num_accepted_ = checkpoint->num_accepted;
  Log()->info("resuming after round {} of {}", last_round_, options_.num_rounds);
  return absl::OkStatus();
}

absl::Status RoundLoop::PlayRoundZero() {
  if (!options_.checkpoint_path.empty()) {
    absl::StatusOr<RoundLog> log = RoundLog::Create(RoundLogPath(options_.checkpoint_path));
    FEDUMM_RETURN_IF_ERROR(log.status());
    log_.emplace(*std::move(log));
  }
  RoundResult result = {.number = 0};
  const absl::Time start = options_.clock();
  FEDUMM_RETURN_IF_ERROR(EvaluateCentrally(result));
  result.duration = options_.clock() - start;
  return Finish(std::move(result));  // saves, so that a path that cannot be written is noticed now
}

absl::Status RoundLoop::PlayRound(int64_t number) {
  current_round_ = number;
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
  return Finish(std::move(result));
}

absl::Status RoundLoop::Finish(RoundResult result) {
  last_round_ = result.number;
  if (result.updated) ++num_updated_;
  num_accepted_ += std::ranges::count(result.nodes, true, &NodeOutcome::accepted);
  FEDUMM_RETURN_IF_ERROR(Save(result));
  if (options_.on_round) options_.on_round(result);
  Keep(std::move(result));
  return absl::OkStatus();
}

// The log first: if this process is killed between the two, the next one cuts off what the older
// checkpoint does not know of.
absl::Status RoundLoop::Save(const RoundResult& result) {
  if (!log_.has_value()) return absl::OkStatus();
  FEDUMM_RETURN_IF_ERROR(log_->Append(result));
  return WriteCheckpoint(options_.checkpoint_path, {.seed = options_.seed,
                                                    .last_round = last_round_,
                                                    .num_updated = num_updated_,
                                                    .num_accepted = num_accepted_,
                                                    .arrays = result_.arrays,
                                                    .strategy_state = strategy_.SaveState(),
                                                    .log = log_->mark()});
}

void RoundLoop::Keep(RoundResult result) {
  std::vector<RoundResult>& rounds = result_.rounds;
  rounds.push_back(std::move(result));
  if (static_cast<int64_t>(rounds.size()) - 1 > options_.keep_rounds) {
    rounds.erase(rounds.begin() + 1);
  }
}

std::string RoundLoop::LastReason() const {
  if (result_.rounds.empty()) return "";
  for (const NodeOutcome& node : result_.rounds.back().nodes) {
    if (!node.accepted) return absl::StrCat(" (node ", node.node_id, ": ", node.reason, ")");
  }
  return "";
}

absl::Status RoundLoop::CheckLearnt() const {
  if (last_round_ == 0 || strategy_.options().fraction_train == 0) return absl::OkStatus();
  if (num_updated_ == 0) {
    const std::string rounds = absl::StrCat(last_round_, last_round_ == 1 ? " round" : " rounds");
    const std::string why =
        num_accepted_ == 0
            ? absl::StrCat("no reply was ever accepted in ", rounds)
            : absl::StrCat("in none of ", rounds, " were ", options_.quorum, " replies accepted");
    return absl::FailedPreconditionError(
        absl::StrCat(why, ": the model is the one that it began with", LastReason()));
  }
  if (num_updated_ < last_round_) {
    Log()->warn("{} of {} rounds did not change the model: too few replies were accepted",
                last_round_ - num_updated_, last_round_);
  }
  return absl::OkStatus();
}

absl::Status RoundLoop::Train(RoundResult& result) {
  const StrategyOptions& strategy = strategy_.options();
  const Phase phase = {.type = message_type::kTrain,
                       .fraction = strategy.fraction_train,
                       .min_nodes = strategy.min_train_nodes,
                       .config = options_.train_config};
  if (phase.fraction == 0) return absl::OkStatus();
  Round round = RoundOf(phase, result.number);
  const std::unique_ptr<Aggregator> aggregator = strategy_.NewAggregator(round);
  if (aggregator == nullptr) return absl::InvalidArgumentError("NewAggregator returned null");
  FEDUMM_ASSIGN_OR_RETURN(round.nodes, SelectNodes(phase, round));
  std::map<uint64_t, Grid::Traffic> traffic;
  for (const uint64_t node : round.nodes) traffic[node] = grid_.NodeTraffic(node);
  std::map<uint64_t, MetricRecord> metrics;
  const auto on_reply = [&](uint64_t node_id, const Message& message) -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(
        const TrainReply reply,
        ReadTrainReply(message, strategy.arrayrecord_key, strategy.weighted_by_key));
    FEDUMM_RETURN_IF_ERROR(aggregator->Add({.node_id = node_id,
                                            .arrays = reply.arrays,
                                            .weight = reply.weight,
                                            .tensor_shares = reply.tensor_shares,
                                            .metrics = reply.metrics,
                                            .content = *message.content}));
    metrics[node_id] = reply.metrics;
    return absl::OkStatus();
  };
  FEDUMM_ASSIGN_OR_RETURN(Gathered gathered, Ask(round, on_reply));
  result.nodes = std::move(gathered.nodes);
  round.nodes.clear();
  std::vector<NodeMetrics> accepted;
  for (NodeOutcome& node : result.nodes) {
    node.traffic = traffic[node.node_id];
    if (!node.accepted) continue;
    node.metrics = metrics[node.node_id];
    accepted.push_back({node.node_id, node.metrics});
    round.nodes.push_back(node.node_id);
  }
  result.train_metrics =
      Aggregate(strategy.train_metrics_aggr_fn, accepted, strategy.weighted_by_key);
  if (!gathered.has_quorum) {
    Log()->warn(
        "round {}: {} of {} train replies accepted, quorum is {}; the model stays as it was",
        result.number, accepted.size(), result.nodes.size(), options_.quorum);
    return absl::OkStatus();
  }
  FEDUMM_ASSIGN_OR_RETURN(ArrayRecord aggregate, std::move(*aggregator).TakeResult());
  FEDUMM_ASSIGN_OR_RETURN(const ArrayRecord next, strategy_.Step(round, std::move(aggregate)));
  absl::StatusOr<ArrayRecord> arrays = InFormOf(result_.arrays, next);
  if (!arrays.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("round ", result.number, ": what Step returned ", arrays.status().message()));
  }
  result_.arrays = *std::move(arrays);
  result.updated = true;
  return absl::OkStatus();
}

absl::Status RoundLoop::Evaluate(RoundResult& result) {
  const StrategyOptions& strategy = strategy_.options();
  const Phase phase = {.type = message_type::kEvaluate,
                       .fraction = strategy.fraction_evaluate,
                       .min_nodes = strategy.min_evaluate_nodes,
                       .config = options_.evaluate_config};
  const bool due = result.number == options_.num_rounds ||
                   (options_.evaluate_every > 0 && result.number % options_.evaluate_every == 0);
  if (phase.fraction == 0 || !due) return absl::OkStatus();
  Round round = RoundOf(phase, result.number);
  FEDUMM_ASSIGN_OR_RETURN(round.nodes, SelectNodes(phase, round));
  std::vector<NodeMetrics> accepted;
  const auto on_reply = [&](uint64_t node_id, const Message& message) -> absl::Status {
    FEDUMM_ASSIGN_OR_RETURN(const MetricRecord* metrics,
                            ReadEvaluateReply(message, strategy.weighted_by_key));
    accepted.push_back({node_id, *metrics});
    return absl::OkStatus();
  };
  FEDUMM_RETURN_IF_ERROR(Ask(round, on_reply).status());
  std::ranges::sort(accepted, {}, &NodeMetrics::node_id);
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

absl::StatusOr<Gathered> RoundLoop::Ask(const Round& round, const OnNodeReply& on_reply) {
  return Gather(round.phase, round.nodes,
                [&](uint64_t node_id) { return strategy_.Instruct(round, node_id); }, on_reply, {});
}

absl::StatusOr<Gathered> RoundLoop::Gather(std::string_view phase, std::vector<uint64_t> nodes,
                                           const InstructNode& instruct,
                                           const OnNodeReply& on_reply,
                                           const GatherOptions& options) {
  if (gathering_) return absl::FailedPreconditionError("Gather within an exchange");
  gathering_ = true;
  const absl::Cleanup finish = [this] { gathering_ = false; };
  const absl::Duration deadline = options.deadline.value_or(options_.timeout);
  std::map<uint64_t, NodeOutcome> outcomes;
  for (const uint64_t node_id : nodes) outcomes[node_id] = {.node_id = node_id};
  std::vector<Message> messages;
  for (const auto& [node_id, outcome] : outcomes) {
    Message& message = messages.emplace_back();
    message.metadata.dst_node_id = node_id;
    message.metadata.message_type = std::string(phase);
    message.metadata.ttl = std::max(kDefaultTtlSeconds, absl::ToDoubleSeconds(deadline));
    message.content = instruct(node_id);
  }
  Gathered gathered;
  std::set<uint64_t> waiting(nodes.begin(), nodes.end());
  const auto take_reply = [&](const Message& reply) {
    const uint64_t node_id = reply.metadata.src_node_id;
    if (waiting.erase(node_id) == 0) {
      Log()->warn("round {}: ignored a reply of node {}, which was not asked or has answered",
                  current_round_, node_id);
      return true;
    }
    const absl::Status status = on_reply(node_id, reply);
    outcomes[node_id].accepted = status.ok();
    // The log of rounds holds UTF-8, and an aggregator of a user may say anything.
    outcomes[node_id].reason = ValidUtf8(status.message(), kMaxReasonCharacters);
    if (status.ok()) ++gathered.num_accepted;
    return true;
  };
  FEDUMM_RETURN_IF_ERROR(grid_.SendAndReceive(std::move(messages), deadline, take_reply));
  for (const uint64_t node_id : waiting) outcomes[node_id].reason = "no reply in time";
  for (auto& [node_id, outcome] : outcomes) {
    if (!outcome.accepted) {
      Log()->warn("round {}: {} reply of node {} left out: {}", current_round_, phase, node_id,
                  outcome.reason);
    }
    gathered.nodes.push_back(std::move(outcome));
  }
  gathered.has_quorum = gathered.num_accepted >= options.quorum.value_or(options_.quorum);
  return gathered;
}

absl::StatusOr<std::vector<uint64_t>> RoundLoop::SelectNodes(const Phase& phase,
                                                             const Round& round) {
  // A fraction is at most 1, so that the sample is never larger than what is online.
  const int64_t needed = std::max(strategy_.options().min_available_nodes, phase.min_nodes);
  FEDUMM_ASSIGN_OR_RETURN(const std::vector<uint64_t> online, WaitForNodes(needed));
  std::vector<uint64_t> nodes = strategy_.Select(round, online, phase.fraction, phase.min_nodes);
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  return nodes;
}

absl::StatusOr<std::vector<uint64_t>> RoundLoop::WaitForNodes(int64_t needed) {
  constexpr absl::Duration kLook = absl::Seconds(1);
  constexpr absl::Duration kRemind = absl::Seconds(10);
  const Countdown wait(options_.wait_for_nodes);
  std::optional<int64_t> told;
  std::optional<Countdown> reminder;
  absl::Time until = absl::InfinitePast();  // at first without a wait
  while (true) {
    FEDUMM_ASSIGN_OR_RETURN(std::vector<uint64_t> nodes, grid_.WaitForNodes(needed, until));
    const auto online = static_cast<int64_t>(nodes.size());
    if (online >= needed) return nodes;
    if (wait.left() <= absl::ZeroDuration()) {
      return absl::DeadlineExceededError(
          absl::StrCat("round ", current_round_, ": ", online, " nodes online after ",
                       absl::FormatDuration(options_.wait_for_nodes), ", ", needed, " needed"));
    }
    if (told != online || reminder->left() <= absl::ZeroDuration()) {
      told = online;
      reminder.emplace(kRemind);
      Log()->info("round {}: waiting for nodes: {} of {} online", current_round_, online, needed);
      if (options_.on_wait) options_.on_wait(online, needed);
    }
    until = absl::Now() + std::min({kLook, wait.left(), reminder->left()});
  }
}

Round RoundLoop::RoundOf(const Phase& phase, int64_t number) const {
  ConfigRecord config = phase.config;
  config.Set("server-round", number);
  const StrategyOptions& strategy = strategy_.options();
  return {.number = number,
          .num_rounds = options_.num_rounds,
          .seed = options_.seed,
          .arrays = result_.arrays,
          .phase = phase.type,
          .content = {{strategy.arrayrecord_key, result_.arrays},
                      {strategy.configrecord_key, std::move(config)}},
          .nodes = {}};
}

}  // namespace fedumm
