// The interop app's ClientApp in C++: what app/interop/client_app.py does, as a node without
// Python.
#include <cstdio>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "fedumm/super_node.h"
#include "interop/arithmetic.h"
#include "programs/node_flags.h"
#include "programs/program.h"

namespace fedumm::interop {
namespace {

int64_t PartitionOf(const Context& context) {
  return static_cast<int64_t>(NumberOr(context.node_config, "partition-id", -1));
}

int64_t RoundsSeen(const Context& context) {
  const MetricRecord* rounds = context.state.FindMetrics("rounds");
  return rounds == nullptr ? 0 : static_cast<int64_t>(NumberOr(*rounds, "seen", 0));
}

absl::StatusOr<RecordDict> Train(const Message& message, Context& context) {
  const ArrayRecord* arrays = message.content->FindArrays("arrays");
  const ConfigRecord* config = message.content->FindConfig("config");
  if (arrays == nullptr || config == nullptr) {
    return absl::InvalidArgumentError("want the records 'arrays' and 'config'");
  }
  const int64_t partition = PartitionOf(context);
  const double scale = NumberOr(context.run_config, "scale", -1);
  const double offset = NumberOr(context.run_config, "offset", -1);
  const int64_t seen = RoundsSeen(context) + 1;
  context.state.Set("rounds", MetricRecord{{"seen", seen}});
  RecordDict reply;
  reply.Set("arrays", Moved(*arrays, Step(partition, scale, offset)));
  reply.Set("metrics",
            MetricRecord{{"num-examples", Weight(partition)},
                         {"partition-id", partition},
                         {"rounds-seen", seen},
                         {"round", static_cast<int64_t>(NumberOr(*config, "server-round", -1))},
                         {"scale", scale},
                         {"offset", offset}});
  return reply;
}

absl::StatusOr<RecordDict> Evaluate(const Message& message, Context& context) {
  const ArrayRecord* arrays = message.content->FindArrays("arrays");
  if (arrays == nullptr) return absl::InvalidArgumentError("want the record 'arrays'");
  const int64_t partition = PartitionOf(context);
  RecordDict reply;
  reply.Set("metrics", MetricRecord{{"num-examples", Weight(partition)},
                                    {"partition-id", partition},
                                    {"sum", Sum(*arrays)}});
  return reply;
}

absl::StatusOr<RecordDict> Query(const Message& message, Context& context) {
  const ConfigRecord* question = message.content->FindConfig("question");
  const ConfigValue* numbers = question == nullptr ? nullptr : question->Find("numbers");
  const ConfigValue* blob = question == nullptr ? nullptr : question->Find("blob");
  if (numbers == nullptr || !std::holds_alternative<std::vector<int64_t>>(*numbers) ||
      blob == nullptr || !std::holds_alternative<Bytes>(*blob)) {
    return absl::InvalidArgumentError("want a question with 'numbers' and a 'blob'");
  }
  std::vector<int64_t> answer = std::get<std::vector<int64_t>>(*numbers);
  for (int64_t& number : answer) number *= 2;
  const std::string& bytes = std::get<Bytes>(*blob).value;
  RecordDict reply;
  reply.Set("answer", ConfigRecord{{"partition-id", PartitionOf(context)},
                                   {"rounds-seen", RoundsSeen(context)},
                                   {"name", TextOr(context.node_config, "name", "")},
                                   {"greeting", TextOr(context.run_config, "greeting", "")},
                                   {"answer", answer},
                                   {"blob", Bytes{{bytes.rbegin(), bytes.rend()}}}});
  return reply;
}

ClientApp NewApp() {
  ClientApp app;
  app.OnTrain(Train).OnEvaluate(Evaluate).OnQuery(Query);
  app.OnTrain(
      [](const Message&, Context&) -> absl::StatusOr<RecordDict> {
        return absl::InvalidArgumentError("this action always fails");
      },
      "fail");
  return app;
}

absl::Status Run(const programs::NodeFlags& flags, const std::stop_token& stop) {
  FEDUMM_RETURN_IF_ERROR(programs::StartLog("", /*verbose=*/true));
  FEDUMM_ASSIGN_OR_RETURN(SuperNodeOptions node, programs::ToSuperNodeOptions(flags));
  node.on_event = [](const std::string& event) {
    std::printf("%s\n", event.c_str());
    std::fflush(stdout);
  };
  return RunSuperNode(NewApp(), std::move(node), stop);
}

int Main(int argc, char** argv) {
  programs::NodeFlags flags;
  CLI::App app("A node of the interop tests.", "interop_supernode");
  programs::AddNodeFlags(app, flags);
  if (const int code = programs::ParseArguments(app, argc, argv); code >= 0) return code;
  const programs::SignalStop signals;
  const absl::Status status = Run(flags, signals.token());
  return status.ok() ? programs::kExitOk : programs::Fail("interop_supernode", status);
}

}  // namespace
}  // namespace fedumm::interop

int main(int argc, char** argv) { return fedumm::interop::Main(argc, argv); }
