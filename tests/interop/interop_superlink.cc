// The server of the interop tests in C++: FedAvg over nodes of any kind, then what
// app/interop/server_app.py asks them. Fails unless everything is exactly as it must be. Afterwards
// it serves until SIGINT, so that the nodes can leave in good order.
#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fedumm/strategies.h"
#include "fedumm/super_link.h"
#include "interop/arithmetic.h"
#include "programs/program.h"
#include "programs/server_flags.h"

namespace fedumm::interop {
namespace {

constexpr double kScale = 0.25;  // not the app's default
constexpr double kOffset = 1;    // the app's default
constexpr const char* kGreeting = "hello";

struct Arguments {
  programs::ServerFlags server;
  int64_t nodes = 3;
  int64_t rounds = 2;
  std::string fab;  // file
  int64_t deadline_s = 150;
};

template <typename T>
absl::Status Check(const std::string& what, const T& actual, const T& expected) {
  if (actual == expected) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(what, " is ", actual, ", not ", expected));
}

absl::Status CheckRound(const RoundResult& round, int64_t nodes) {
  std::set<int64_t> partitions;
  for (const NodeOutcome& node : round.nodes) {
    if (!node.accepted) {
      return absl::InternalError(absl::StrCat("node ", node.node_id, ": ", node.reason));
    }
    const auto partition = static_cast<int64_t>(NumberOr(node.metrics, "partition-id", -1));
    partitions.insert(partition);
    const std::pair<const char*, double> wanted[] = {
        {"scale", kScale},
        {"offset", kOffset},
        {"round", static_cast<double>(round.number)},
        {"rounds-seen", static_cast<double>(round.number)},
        {"num-examples", static_cast<double>(Weight(partition))}};
    for (const auto& [key, expected] : wanted) {
      FEDUMM_RETURN_IF_ERROR(Check(absl::StrCat(key, " of partition ", partition),
                                   NumberOr(node.metrics, key, -1), expected));
    }
  }
  return Check("number of partitions", static_cast<int64_t>(partitions.size()), nodes);
}

// Two rounds, whose result is the exact mean.
absl::StatusOr<ArrayRecord> Train(Grid& grid, const Arguments& arguments) {
  FedAvg strategy({.fraction_evaluate = 0,
                   .min_train_nodes = arguments.nodes,
                   .min_available_nodes = arguments.nodes});
  FEDUMM_ASSIGN_OR_RETURN(const Result result,
                          strategy.Start(grid, InitialArrays(),
                                         {.num_rounds = arguments.rounds,
                                          .timeout = absl::Seconds(arguments.deadline_s),
                                          .wait_for_nodes = absl::Seconds(arguments.deadline_s),
                                          .on_round = [](const RoundResult& round) {
                                            std::printf(
                                                "round %ld: %s\n", static_cast<long>(round.number),
                                                absl::FormatDuration(round.duration).c_str());
                                            std::fflush(stdout);
                                          }}));
  for (const RoundResult& round : result.rounds) {
    if (round.number == 0) continue;
    FEDUMM_RETURN_IF_ERROR(CheckRound(round, arguments.nodes));
  }
  const double moved =
      static_cast<double>(arguments.rounds) * MeanStep(arguments.nodes, kScale, kOffset);
  if (!(result.arrays == Moved(InitialArrays(), moved))) {
    return absl::InternalError("the final arrays are not exactly the mean");
  }
  return result.arrays;
}

Message Instruction(uint64_t node, std::string_view type, RecordDict content) {
  Message message;
  message.metadata.dst_node_id = node;
  message.metadata.message_type = std::string(type);
  message.content = std::move(content);
  return message;
}

absl::Status CheckEvaluation(const Message& reply, double sum) {
  const MetricRecord* metrics = reply.content->FindMetrics("metrics");
  if (metrics == nullptr) return absl::InternalError("an evaluation without metrics");
  return Check("evaluated sum", NumberOr(*metrics, "sum", -1), sum);
}

absl::Status CheckAnswer(const Message& reply, const Arguments& arguments) {
  const ConfigRecord* answer = reply.content->FindConfig("answer");
  if (answer == nullptr) return absl::InternalError("a query without an answer");
  FEDUMM_RETURN_IF_ERROR(Check<double>("rounds seen by the query",
                                       NumberOr(*answer, "rounds-seen", -1),
                                       static_cast<double>(arguments.rounds)));
  FEDUMM_RETURN_IF_ERROR(
      Check<std::string>("greeting", TextOr(*answer, "greeting", ""), kGreeting));
  const ConfigValue* numbers = answer->Find("answer");
  const ConfigValue* blob = answer->Find("blob");
  if (numbers == nullptr || *numbers != ConfigValue(std::vector<int64_t>{2, -4, 6}) ||
      blob == nullptr || *blob != ConfigValue(Bytes{std::string("\xff\x01\x00", 3)})) {
    return absl::InternalError("the answer is wrong");
  }
  std::printf("partition %ld is %s\n", static_cast<long>(NumberOr(*answer, "partition-id", -1)),
              TextOr(*answer, "name", "nameless").c_str());
  return absl::OkStatus();
}

// An evaluation and a query for each node, and for the first one an action that fails.
absl::Status Ask(Grid& grid, const ArrayRecord& arrays, const Arguments& arguments) {
  const std::vector<uint64_t> nodes = grid.NodeIds();
  RecordDict model;
  model.Set("arrays", arrays);
  model.Set("config", ConfigRecord{{"server-round", arguments.rounds}});
  RecordDict question;
  question.Set("question", ConfigRecord{{"numbers", std::vector<int64_t>{1, -2, 3}},
                                        {"blob", Bytes{std::string("\x00\x01\xff", 3)}}});
  std::vector<Message> messages;
  for (const uint64_t node : nodes) {
    messages.push_back(Instruction(node, message_type::kEvaluate, model));
    messages.push_back(Instruction(node, message_type::kQuery, question));
  }
  messages.push_back(Instruction(nodes.front(), "train.fail", {}));

  const double sum = Sum(arrays);
  std::map<std::string, int64_t> replies;
  absl::Status wrong;
  FEDUMM_RETURN_IF_ERROR(grid.SendAndReceive(
      std::move(messages), absl::Seconds(arguments.deadline_s), [&](const Message& reply) {
        const std::string& type = reply.metadata.message_type;
        ++replies[type];
        if (type == "train.fail") {
          if (!reply.has_error() || reply.error->code != ErrorCode::kClientAppRaisedException) {
            wrong.Update(absl::InternalError("the action that fails did not fail so"));
          }
        } else if (reply.has_error()) {
          wrong.Update(absl::InternalError(absl::StrCat(type, ": ", reply.error->reason)));
        } else if (type == message_type::kEvaluate) {
          wrong.Update(CheckEvaluation(reply, sum));
        } else {
          wrong.Update(CheckAnswer(reply, arguments));
        }
        return true;
      }));
  FEDUMM_RETURN_IF_ERROR(wrong);
  FEDUMM_RETURN_IF_ERROR(Check("evaluations", replies["evaluate"], arguments.nodes));
  FEDUMM_RETURN_IF_ERROR(Check("answers", replies["query"], arguments.nodes));
  return Check("failures", replies["train.fail"], int64_t{1});
}

absl::Status Run(const Arguments& arguments, const std::stop_token& stop) {
  FEDUMM_RETURN_IF_ERROR(programs::StartLog("", /*verbose=*/true));
  FEDUMM_ASSIGN_OR_RETURN(SuperLinkOptions options,
                          programs::ToSuperLinkOptions(arguments.server, "0"));
  FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<SuperLink> link, SuperLink::Start(options));
  const std::stop_callback on_stop(stop, [&link] { link->Stop(); });
  std::unique_ptr<programs::KeyFile> keys;
  if (!arguments.server.supernode_keys.empty()) {
    FEDUMM_ASSIGN_OR_RETURN(keys,
                            programs::KeyFile::Follow(*link, arguments.server.supernode_keys));
  }
  FEDUMM_RETURN_IF_ERROR(programs::WritePorts(*link, arguments.server.port_file));
  FEDUMM_ASSIGN_OR_RETURN(Fab fab, Fab::Load(arguments.fab));
  const RunOptions run = {.run_config = {{"scale", kScale}},
                          .fab = std::make_shared<const Fab>(std::move(fab))};
  {
    FEDUMM_ASSIGN_OR_RETURN(const std::unique_ptr<Grid> grid, link->CreateRun(run));
    FEDUMM_ASSIGN_OR_RETURN(const ArrayRecord arrays, Train(*grid, arguments));
    FEDUMM_RETURN_IF_ERROR(Ask(*grid, arrays, arguments));
  }
  std::printf("passed\n");
  std::fflush(stdout);

  std::mutex mu;
  std::condition_variable_any stopped;
  std::unique_lock lock(mu);
  stopped.wait(lock, stop, [] { return false; });
  const std::vector<NodeStatus> nodes = link->Nodes();
  std::printf("online at the end: %ld\n",
              static_cast<long>(std::count_if(nodes.begin(), nodes.end(),
                                              [](const NodeStatus& node) { return node.online; })));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("The server of the interop tests.", "interop_superlink");
  programs::AddServerFlags(app, arguments.server);
  app.add_option("--nodes", arguments.nodes);
  app.add_option("--fab", arguments.fab)->required();
  if (const int code = programs::ParseArguments(app, argc, argv); code >= 0) return code;
  const programs::SignalStop signals;
  const absl::Status status = Run(arguments, signals.token());
  return status.ok() ? programs::kExitOk : programs::Fail("interop_superlink", status);
}

}  // namespace
}  // namespace fedumm::interop

int main(int argc, char** argv) { return fedumm::interop::Main(argc, argv); }
