#include "programs/report/run_data.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace fedumm::programs {
namespace {

using Json = nlohmann::ordered_json;

// JSON has no NaN: null stands for "not measured".
Json NumberToJson(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }
double NumberFromJson(const Json& json) {
  return json.is_null() ? std::numeric_limits<double>::quiet_NaN() : json.get<double>();
}

Json ToJsonValue(const Score& score) {
  return {{"all", NumberToJson(score.all)}, {"new_concepts", NumberToJson(score.new_concepts)}};
}
Score ScoreFromJson(const Json& json) {
  return {NumberFromJson(json.at("all")), NumberFromJson(json.at("new_concepts"))};
}

Json ToJsonValue(const Given& given) {
  return {{"steps", given.steps}, {"examples", given.examples}};
}
Given GivenFromJson(const Json& json, const char* key) {
  if (!json.contains(key)) return {};
  return {json.at(key).at("steps"), json.at(key).at("examples")};
}

std::string PngFromJson(const Json& json) {
  std::string png;
  if (!absl::Base64Unescape(json.get<std::string>(), &png)) {
    throw Json::other_error::create(600, "a picture is not base64", nullptr);
  }
  return png;
}

// Text that is no UTF-8 (a hostile reason of a node) is replaced, not thrown at.
std::string Dump(const Json& json, int indent) {
  return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json RoundToJson(const RoundData& round) {
  Json nodes = Json::array();
  for (const NodeRound& node : round.nodes) {
    nodes.push_back({{"node_id", node.node_id},
                     {"accepted", node.accepted},
                     {"reason", node.reason},
                     {"bytes_down", node.bytes_down},
                     {"bytes_up", node.bytes_up}});
  }
  Json losses = Json::object();
  for (const auto& [task, loss] : round.losses) losses[task] = NumberToJson(loss);
  Json accuracies = Json::object();
  for (const auto& [task, accuracy] : round.accuracies) accuracies[task] = NumberToJson(accuracy);
  return {{"number", round.number},
          {"seconds", round.seconds},
          {"train_loss", NumberToJson(round.train_loss)},
          {"losses", losses},
          {"accuracies", accuracies},
          {"nodes", nodes}};
}

RoundData RoundFromJson(const Json& json) {
  RoundData round{.number = json.at("number"),
                  .seconds = json.at("seconds"),
                  .train_loss = NumberFromJson(json.at("train_loss"))};
  for (const auto& [task, loss] : json.at("losses").items()) {
    round.losses[task] = NumberFromJson(loss);
  }
  for (const auto& [task, accuracy] : json.at("accuracies").items()) {
    round.accuracies[task] = NumberFromJson(accuracy);
  }
  for (const Json& node : json.at("nodes")) {
    round.nodes.push_back({node.at("node_id"), node.at("accepted"), node.at("reason"),
                           node.at("bytes_down"), node.at("bytes_up")});
  }
  return round;
}

Json VerdictToJson(const Verdict& verdict) {
  Json alone = Json::array();
  for (const Score& score : verdict.alone) alone.push_back(ToJsonValue(score));
  return {{"frozen", ToJsonValue(verdict.frozen)},
          {"federated", ToJsonValue(verdict.federated)},
          {"centralized", ToJsonValue(verdict.centralized)},
          {"alone", alone},
          {"federated_given", ToJsonValue(verdict.federated_given)},
          {"centralized_given", ToJsonValue(verdict.centralized_given)},
          {"alone_given", ToJsonValue(verdict.alone_given)}};
}

Verdict VerdictFromJson(const Json& json) {
  Verdict verdict{ScoreFromJson(json.at("frozen")),       ScoreFromJson(json.at("federated")),
                  ScoreFromJson(json.at("centralized")),  {},
                  GivenFromJson(json, "federated_given"), GivenFromJson(json, "centralized_given"),
                  GivenFromJson(json, "alone_given")};
  for (const Json& score : json.at("alone")) verdict.alone.push_back(ScoreFromJson(score));
  return verdict;
}

}  // namespace

Score Verdict::AloneMean() const {
  if (alone.empty()) {
    return {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::quiet_NaN()};
  }
  Score mean;
  for (const Score& score : alone) {
    mean.all += score.all / static_cast<double>(alone.size());
    mean.new_concepts += score.new_concepts / static_cast<double>(alone.size());
  }
  return mean;
}

std::string ToJson(const RunData& data) {
  Json json = {{"name", data.name},
               {"strategy", data.strategy},
               {"command", data.command},
               {"frozen", data.frozen},
               {"seed", data.seed},
               {"seconds", data.seconds},
               {"adapter_bytes", data.adapter_bytes},
               {"full_model_bytes", data.full_model_bytes}};
  json["settings"] = Json::array();
  for (const auto& [key, value] : data.settings) json["settings"].push_back({key, value});
  json["clients"] = Json::array();
  for (const ClientData& client : data.clients) {
    Json histograms = Json::object();
    for (const auto& [task, histogram] : client.histograms) {
      histograms[task] = Json::array();
      for (const auto& [label, count] : histogram) histograms[task].push_back({label, count});
    }
    json["clients"].push_back({{"partition_id", client.partition_id},
                               {"node_id", client.node_id},
                               {"histograms", histograms}});
  }
  json["rounds"] = Json::array();
  for (const RoundData& round : data.rounds) json["rounds"].push_back(RoundToJson(round));
  json["verdicts"] = Json::object();
  for (const auto& [task, verdict] : data.verdicts) json["verdicts"][task] = VerdictToJson(verdict);
  json["questions"] = Json::array();
  for (const QuestionSample& sample : data.questions) {
    json["questions"].push_back({{"png", absl::Base64Escape(sample.png)},
                                 {"question", sample.question},
                                 {"truth", sample.truth},
                                 {"before", sample.before},
                                 {"after", sample.after}});
  }
  json["drawings"] = Json::array();
  for (const DrawingSample& sample : data.drawings) {
    json["drawings"].push_back({{"prompt", sample.prompt},
                                {"png_before", absl::Base64Escape(sample.png_before)},
                                {"png_after", absl::Base64Escape(sample.png_after)},
                                {"right_before", sample.right_before},
                                {"right_after", sample.right_after}});
  }
  return Dump(json, 1);
}

absl::StatusOr<RunData> RunDataFromJson(const std::string& text) {
  try {
    const Json json = Json::parse(text);
    RunData data{.name = json.at("name"),
                 .strategy = json.at("strategy"),
                 .command = json.at("command"),
                 .frozen = json.value("frozen", ""),
                 .seed = json.at("seed"),
                 .seconds = json.at("seconds"),
                 .adapter_bytes = json.at("adapter_bytes"),
                 .full_model_bytes = json.at("full_model_bytes")};
    for (const Json& setting : json.at("settings")) {
      data.settings.emplace_back(setting.at(0), setting.at(1));
    }
    for (const Json& client : json.at("clients")) {
      ClientData& added = data.clients.emplace_back();
      added.partition_id = client.at("partition_id");
      added.node_id = client.at("node_id");
      for (const auto& [task, histogram] : client.at("histograms").items()) {
        for (const Json& entry : histogram) {
          added.histograms[task].emplace_back(entry.at(0), entry.at(1));
        }
      }
    }
    for (const Json& round : json.at("rounds")) data.rounds.push_back(RoundFromJson(round));
    for (const auto& [task, verdict] : json.at("verdicts").items()) {
      data.verdicts[task] = VerdictFromJson(verdict);
    }
    for (const Json& sample : json.at("questions")) {
      data.questions.push_back({PngFromJson(sample.at("png")), sample.at("question"),
                                sample.at("truth"), sample.at("before"), sample.at("after")});
    }
    for (const Json& sample : json.at("drawings")) {
      data.drawings.push_back({sample.at("prompt"), PngFromJson(sample.at("png_before")),
                               PngFromJson(sample.at("png_after")), sample.at("right_before"),
                               sample.at("right_after")});
    }
    return data;
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("not a run.json: ", error.what()));
  }
}

std::string SummaryJson(const RunData& data) {
  Json json = Json::object();
  for (const auto& [task, verdict] : data.verdicts) {
    json[task] = {{"frozen", NumberToJson(verdict.frozen.all)},
                  {"local_mean", NumberToJson(verdict.AloneMean().all)},
                  {"federated", NumberToJson(verdict.federated.all)},
                  {"centralized", NumberToJson(verdict.centralized.all)}};
  }
  json["bytes"] = {{"adapter_per_round", data.adapter_bytes},
                   {"full_model_per_round", data.full_model_bytes}};
  json["clients"] = data.clients.size();
  json["rounds"] = data.rounds.empty() ? 0 : data.rounds.back().number;
  json["seconds"] = data.seconds;
  json["seed"] = data.seed;
  return Dump(json, 2);
}

}  // namespace fedumm::programs
