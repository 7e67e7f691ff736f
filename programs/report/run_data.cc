#include "programs/report/run_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace fedumm::programs {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxReasonBytes = 300;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// JSON has no NaN: null stands for "not measured".
Json NumberToJson(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
double NumberFromJson(const Json& json) { return json.is_null() ? kNan : json.get<double>(); }
double NumberAt(const Json& json, const std::string& key) {
  const auto it = json.find(key);
  return it == json.end() ? kNan : NumberFromJson(*it);
}

Json ToJsonValue(const Bar& bar) {
  Json json = {{"all", NumberToJson(bar.score.all)},
               {"part", NumberToJson(bar.score.part)},
               {"examples", bar.examples},
               {"steps", bar.steps}};
  for (const auto& [kind, share] : bar.score.kinds) json["kinds"][kind] = NumberToJson(share);
  return json;
}
Bar BarFromJson(const Json& json) {
  Bar bar{{NumberFromJson(json.at("all")), NumberFromJson(json.at("part"))},
          json.at("examples"),
          json.at("steps")};
  if (const auto kinds = json.find("kinds"); kinds != json.end()) {
    for (const auto& [kind, share] : kinds->items()) bar.score.kinds[kind] = NumberFromJson(share);
  }
  return bar;
}

std::string PngFromJson(const Json& json) {
  std::string png;
  if (!absl::Base64Unescape(json.get<std::string>(), &png)) {
    throw Json::other_error::create(600, "a picture is not base64", nullptr);
  }
  return png;
}

// Bytes that are no UTF-8 (in a node's reason) are replaced; by default nlohmann throws.
std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace);
}

Json ToJsonValue(const std::map<std::string, OverClients>& figures) {
  Json json = Json::object();
  for (const auto& [task, figure] : figures) {
    json[task] = {{"mean", NumberToJson(figure.mean)},
                  {"worst", NumberToJson(figure.worst)},
                  {"best", NumberToJson(figure.best)},
                  {"spread", NumberToJson(figure.spread)}};
  }
  return json;
}
std::map<std::string, OverClients> OverClientsAt(const Json& json, const char* key) {
  std::map<std::string, OverClients> figures;
  const auto it = json.find(key);
  if (it == json.end()) return figures;
  for (const auto& [task, figure] : it->items()) {
    figures[task] = {NumberFromJson(figure.at("mean")), NumberFromJson(figure.at("worst")),
                     NumberFromJson(figure.at("best")), NumberFromJson(figure.at("spread"))};
  }
  return figures;
}

Json NodeToJson(const NodeRound& node) {
  return {{"node_id", node.node_id},           {"partition_id", node.partition_id},
          {"accepted", node.accepted},         {"reason", node.reason},
          {"num-examples", node.num_examples}, {"bytes_down", node.bytes_down},
          {"bytes_up", node.bytes_up}};
}

NodeRound NodeFromJson(const Json& json) {
  return {.node_id = json.at("node_id"),
          .accepted = json.at("accepted"),
          .reason = json.at("reason"),
          .bytes_down = json.at("bytes_down"),
          .bytes_up = json.at("bytes_up"),
          .num_examples = json.at("num-examples"),
          .partition_id = json.at("partition_id")};
}

Json RoundToJson(const RoundData& round) {
  Json nodes = Json::array();
  for (const NodeRound& node : round.nodes) nodes.push_back(NodeToJson(node));
  Json losses = Json::object();
  for (const auto& [task, loss] : round.losses) losses[task] = NumberToJson(loss);
  Json accuracies = Json::object();
  for (const auto& [task, accuracy] : round.accuracies) accuracies[task] = NumberToJson(accuracy);
  return {{"number", round.number},
          {"seconds", round.seconds},
          {"updated", round.updated},
          {"train_loss", NumberToJson(round.train_loss)},
          {"losses", losses},
          {"accuracies", accuracies},
          {"on_clients", ToJsonValue(round.on_clients)},
          {"personalised", ToJsonValue(round.personalised)},
          {"num_nodes", round.num_nodes},
          {"num_accepted", round.num_accepted},
          {"bytes_down", round.bytes_down},
          {"bytes_up", round.bytes_up},
          {"nodes", nodes}};
}

RoundData RoundFromJson(const Json& json) {
  RoundData round{.number = json.at("number"),
                  .seconds = json.at("seconds"),
                  .updated = json.at("updated"),
                  .train_loss = NumberFromJson(json.at("train_loss"))};
  for (const auto& [task, loss] : json.at("losses").items()) {
    round.losses[task] = NumberFromJson(loss);
  }
  for (const auto& [task, accuracy] : json.at("accuracies").items()) {
    round.accuracies[task] = NumberFromJson(accuracy);
  }
  round.on_clients = OverClientsAt(json, "on_clients");
  round.personalised = OverClientsAt(json, "personalised");
  round.num_nodes = json.at("num_nodes");
  round.num_accepted = json.at("num_accepted");
  round.bytes_down = json.at("bytes_down");
  round.bytes_up = json.at("bytes_up");
  for (const Json& node : json.at("nodes")) round.nodes.push_back(NodeFromJson(node));
  return round;
}

Json TaskToJson(const TaskData& task) {
  return {{"name", task.name},
          {"title", task.title},
          {"metric", task.metric},
          {"metric_title", task.metric_title},
          {"part_title", task.part_title},
          {"holding_title", task.holding_title},
          {"default_batch_size", task.default_batch_size},
          {"kinds", task.kinds}};
}

TaskData TaskFromJson(const Json& json) {
  return {.name = json.at("name"),
          .title = json.at("title"),
          .metric = json.at("metric"),
          .metric_title = json.at("metric_title"),
          .part_title = json.at("part_title"),
          .holding_title = json.at("holding_title"),
          .default_batch_size = json.at("default_batch_size"),
          .kinds = json.value("kinds", std::vector<std::string>())};
}

Json ClientToJson(const ClientData& client) {
  Json histograms = Json::object();
  for (const auto& [task, histogram] : client.histograms) {
    histograms[task] = Json::array();
    for (const auto& [label, count] : histogram) histograms[task].push_back({label, count});
  }
  return {{"partition_id", client.partition_id}, {"node_id", client.node_id},
          {"num_examples", client.num_examples}, {"accepted", client.accepted},
          {"rejected", client.rejected},         {"bytes_down", client.bytes_down},
          {"bytes_up", client.bytes_up},         {"histograms", histograms}};
}

ClientData ClientFromJson(const Json& json) {
  ClientData client{.partition_id = json.at("partition_id"), .node_id = json.at("node_id")};
  client.num_examples = json.at("num_examples");
  client.accepted = json.at("accepted");
  client.rejected = json.at("rejected");
  client.bytes_down = json.at("bytes_down");
  client.bytes_up = json.at("bytes_up");
  for (const auto& [task, histogram] : json.at("histograms").items()) {
    for (const Json& entry : histogram) {
      client.histograms[task].emplace_back(entry.at(0), entry.at(1));
    }
  }
  return client;
}

Json VerdictToJson(const Verdict& verdict) {
  Json alone = Json::array();
  for (const Bar& bar : verdict.alone) alone.push_back(ToJsonValue(bar));
  return {{"frozen", ToJsonValue(verdict.frozen)},
          {"federated", ToJsonValue(verdict.federated)},
          {"centralized", ToJsonValue(verdict.centralized)},
          {"alone", alone}};
}

Verdict VerdictFromJson(const Json& json) {
  Verdict verdict{BarFromJson(json.at("frozen")),
                  BarFromJson(json.at("federated")),
                  BarFromJson(json.at("centralized")),
                  {}};
  for (const Json& bar : json.at("alone")) verdict.alone.push_back(BarFromJson(bar));
  return verdict;
}

Json SampleToJson(const SampleData& sample) {
  return {{"task", sample.task},
          {"prompt", sample.prompt},
          {"png", absl::Base64Escape(sample.png)},
          {"truth", sample.truth},
          {"before", sample.before},
          {"after", sample.after},
          {"png_before", absl::Base64Escape(sample.png_before)},
          {"png_after", absl::Base64Escape(sample.png_after)},
          {"right_before", sample.right_before},
          {"right_after", sample.right_after}};
}

SampleData SampleFromJson(const Json& json) {
  return {.task = json.at("task"),
          .prompt = json.at("prompt"),
          .png = PngFromJson(json.at("png")),
          .truth = json.at("truth"),
          .before = json.at("before"),
          .after = json.at("after"),
          .png_before = PngFromJson(json.at("png_before")),
          .png_after = PngFromJson(json.at("png_after")),
          .right_before = json.at("right_before"),
          .right_after = json.at("right_after")};
}

// `clients` is sorted by node id, and stays so.
void AddToClients(const RoundData& round, std::vector<ClientData>& clients) {
  for (const NodeRound& node : round.nodes) {
    auto client = std::lower_bound(
        clients.begin(), clients.end(), node.node_id,
        [](const ClientData& known, uint64_t node_id) { return known.node_id < node_id; });
    if (client == clients.end() || client->node_id != node.node_id) {
      client = clients.insert(client, {.partition_id = -1, .node_id = node.node_id});
    }
    client->bytes_down += node.bytes_down;
    client->bytes_up += node.bytes_up;
    ++(node.accepted ? client->accepted : client->rejected);
    if (node.accepted) client->num_examples = node.num_examples;
    if (node.partition_id >= 0) client->partition_id = node.partition_id;
  }
}

}  // namespace

double Score::OfKind(const std::string& kind) const {
  const auto it = kinds.find(kind);
  return it == kinds.end() ? kNan : it->second;
}

Bar Verdict::AloneMean() const {
  if (alone.empty()) return {{kNan, kNan}};
  Bar mean;
  for (const Bar& bar : alone) {
    mean.score.all += bar.score.all / static_cast<double>(alone.size());
    mean.score.part += bar.score.part / static_cast<double>(alone.size());
    for (const auto& [kind, share] : bar.score.kinds) {
      mean.score.kinds[kind] += share / static_cast<double>(alone.size());
    }
    mean.examples += bar.examples / static_cast<int64_t>(alone.size());
    mean.steps = std::max(mean.steps, bar.steps);
  }
  return mean;
}

void AddRound(RoundData round, RunData& data) {
  AddToClients(round, data.clients);
  std::stable_partition(round.nodes.begin(), round.nodes.end(),
                        [](const NodeRound& node) { return !node.accepted; });
  if (round.nodes.size() > kMaxNodesKept) round.nodes.resize(kMaxNodesKept);
  for (NodeRound& node : round.nodes) {
    if (node.reason.size() > kMaxReasonBytes) node.reason.resize(kMaxReasonBytes);
  }
  while (!data.rounds.empty() && data.rounds.back().number >= round.number) data.rounds.pop_back();
  data.rounds.push_back(std::move(round));
}

std::string ToJson(const RunData& data) {
  Json json = {{"name", data.name},
               {"strategy", data.strategy},
               {"command", data.command},
               {"seed", data.seed},
               {"seconds", data.seconds},
               {"adapter_bytes", data.adapter_bytes},
               {"full_model_bytes", data.full_model_bytes}};
  const auto list = [&json](const std::string& key, const auto& items, const auto& to_json) {
    json[key] = Json::array();
    for (const auto& item : items) json[key].push_back(to_json(item));
  };
  list("settings", data.settings, [](const auto& setting) {
    return Json::array({setting.first, setting.second});
  });
  list("tasks", data.tasks, TaskToJson);
  list("notes", data.notes, [](const std::string& note) { return Json(note); });
  list("clients", data.clients, ClientToJson);
  list("rounds", data.rounds, RoundToJson);
  json["verdicts"] = Json::object();
  for (const auto& [task, verdict] : data.verdicts) json["verdicts"][task] = VerdictToJson(verdict);
  list("samples", data.samples, SampleToJson);
  return Dump(json, 1) + "\n";
}

absl::StatusOr<RunData> RunDataFromJson(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    RunData data{.name = json.at("name"),
                 .strategy = json.at("strategy"),
                 .command = json.at("command"),
                 .seed = json.at("seed"),
                 .seconds = json.at("seconds"),
                 .adapter_bytes = json.at("adapter_bytes"),
                 .full_model_bytes = json.at("full_model_bytes")};
    for (const Json& setting : json.at("settings")) {
      data.settings.emplace_back(setting.at(0), setting.at(1));
    }
    for (const Json& task : json.at("tasks")) data.tasks.push_back(TaskFromJson(task));
    for (const Json& note : json.at("notes")) data.notes.push_back(note);
    for (const Json& client : json.at("clients")) data.clients.push_back(ClientFromJson(client));
    for (const Json& round : json.at("rounds")) data.rounds.push_back(RoundFromJson(round));
    for (const auto& [task, verdict] : json.at("verdicts").items()) {
      data.verdicts[task] = VerdictFromJson(verdict);
    }
    for (const Json& sample : json.at("samples")) data.samples.push_back(SampleFromJson(sample));
    return data;
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not a run.json: ", error.what()));
  }
}

std::string RoundLine(const RoundData& round, const std::vector<TaskData>& tasks, double time) {
  Json line = {{"event", "round"},
               {"round", round.number},
               {"time", time},
               {"seconds", round.seconds},
               {"updated", round.updated}};
  const auto scalar = [&line](const std::string& tag, double value) {
    if (std::isfinite(value)) line[tag] = value;
  };
  scalar("train-loss", round.train_loss);
  for (const auto& [task, loss] : round.losses) scalar(task + "-loss", loss);
  for (const TaskData& task : tasks) {
    const auto accuracy = round.accuracies.find(task.name);
    if (accuracy != round.accuracies.end()) scalar(task.metric, accuracy->second);
  }
  if (!round.on_clients.empty()) line["on_clients"] = ToJsonValue(round.on_clients);
  if (!round.personalised.empty()) line["personalised"] = ToJsonValue(round.personalised);
  line["nodes"] = Json::array();
  for (const NodeRound& node : round.nodes) line["nodes"].push_back(NodeToJson(node));
  return Dump(line, -1);
}

absl::StatusOr<RoundData> RoundFromLine(const std::string& text,
                                        const std::vector<TaskData>& tasks) {
  try {
    const Json line = Json::parse(text);
    RoundData round{.number = line.at("round"),
                    .seconds = line.at("seconds"),
                    .updated = line.at("updated"),
                    .train_loss = NumberAt(line, "train-loss")};
    for (const TaskData& task : tasks) {
      const double loss = NumberAt(line, task.name + "-loss");
      if (std::isfinite(loss)) round.losses[task.name] = loss;
      const double accuracy = NumberAt(line, task.metric);
      if (std::isfinite(accuracy)) round.accuracies[task.name] = accuracy;
    }
    round.on_clients = OverClientsAt(line, "on_clients");
    round.personalised = OverClientsAt(line, "personalised");
    for (const Json& item : line.at("nodes")) {
      const NodeRound node = NodeFromJson(item);
      ++round.num_nodes;
      round.num_accepted += node.accepted ? 1 : 0;
      round.bytes_down += node.bytes_down;
      round.bytes_up += node.bytes_up;
      round.nodes.push_back(node);
    }
    return round;
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not a line of metrics.jsonl: ", error.what()));
  }
}

const RoundData* LastJudgedByClients(const RunData& data) {
  for (auto round = data.rounds.rbegin(); round != data.rounds.rend(); ++round) {
    if (!round->on_clients.empty()) return &*round;
  }
  return nullptr;
}

std::vector<std::string> KindsOf(const RunData& data, const std::string& task) {
  for (const TaskData& one : data.tasks) {
    if (one.name == task) return one.kinds;
  }
  return {};
}

std::string SummaryJson(const RunData& data) {
  Json json = Json::object();
  const RoundData* judged = LastJudgedByClients(data);
  for (const auto& [task, verdict] : data.verdicts) {
    const Bar alone = verdict.AloneMean();
    const auto four = [&](auto of) -> Json {
      return {{"frozen", NumberToJson(of(verdict.frozen.score))},
              {"local_mean", NumberToJson(of(alone.score))},
              {"federated", NumberToJson(of(verdict.federated.score))},
              {"centralized", NumberToJson(of(verdict.centralized.score))}};
    };
    json[task] = four([](const Score& score) { return score.all; });
    for (const std::string& kind : KindsOf(data, task)) {
      json[task]["kinds"][kind] = four([&](const Score& score) { return score.OfKind(kind); });
    }
    json[task]["examples"] = {{"local_mean", alone.examples},
                              {"federated", verdict.federated.examples},
                              {"centralized", verdict.centralized.examples}};
    json[task]["steps"] = {{"local_mean", alone.steps},
                           {"federated", verdict.federated.steps},
                           {"centralized", verdict.centralized.steps}};
  }
  if (judged != nullptr) {
    json["on_clients"] = ToJsonValue(judged->on_clients);
    if (!judged->personalised.empty()) json["personalised"] = ToJsonValue(judged->personalised);
  }
  json["bytes"] = {{"adapter_per_round", data.adapter_bytes},
                   {"full_model_per_round", data.full_model_bytes}};
  json["clients"] = data.clients.size();
  json["rounds"] = data.rounds.empty() ? 0 : data.rounds.back().number;
  json["seconds"] = data.seconds;
  json["seed"] = data.seed;
  return Dump(json, 2) + "\n";
}

}  // namespace fedumm::programs
