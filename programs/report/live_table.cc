#include "programs/report/live_table.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "programs/report/format.h"

namespace fedumm::programs {
namespace {

// Pads by code points, not bytes: "–" is three of the latter.
std::string Right(const std::string& text, size_t width) {
  size_t length = 0;
  for (const char c : text) length += (c & 0xc0) != 0x80;
  return std::string(length < width ? width - length : 0, ' ') + text;
}

}  // namespace

std::string TableHeader(const std::vector<TaskData>& tasks) {
  std::string header = absl::StrCat(Right("round", 5), Right("nodes", 8), Right("loss", 9));
  for (const TaskData& task : tasks) absl::StrAppend(&header, Right(task.name, 9));
  return absl::StrCat(header, Right("down/node", 12), Right("up/node", 12), Right("seconds", 9));
}

std::string TableRow(const RoundData& round, const std::vector<TaskData>& tasks) {
  const bool trained = round.num_nodes > 0;
  const auto per_node = [&](uint64_t bytes) {
    return trained ? HumanBytes(static_cast<double>(bytes) / static_cast<double>(round.num_nodes))
                   : "–";
  };
  std::string row = Right(absl::StrCat(round.number), 5);
  row += Right(trained ? absl::StrCat(round.num_accepted, "/", round.num_nodes) : "–", 8);
  row += Right(round.num_accepted > 0 ? absl::StrFormat("%.4f", round.train_loss) : "–", 9);
  for (const TaskData& task : tasks) {
    const auto accuracy = round.accuracies.find(task.name);
    row +=
        Right(Percent(accuracy == round.accuracies.end() ? std::numeric_limits<double>::quiet_NaN()
                                                         : accuracy->second),
              9);
  }
  row += Right(per_node(round.bytes_down), 12);
  row += Right(per_node(round.bytes_up), 12);
  return row + Right(absl::StrFormat("%.1f", round.seconds), 9);
}

std::string VerdictTable(const RunData& data) {
  size_t width = 10;
  for (const TaskData& task : data.tasks) {
    for (const std::string& kind : task.kinds) width = std::max(width, kind.size() + 2);
  }
  const auto row = [width](const std::string& name, const std::vector<std::string>& cells) {
    std::string line = Right(name, width);
    for (const std::string& cell : cells) line += Right(cell, 14);
    return line + "\n";
  };
  std::string table = row("", {"frozen", "alone, mean", "federated", "centralized"});
  for (const TaskData& task : data.tasks) {
    const auto found = data.verdicts.find(task.name);
    if (found == data.verdicts.end()) continue;
    const Verdict& verdict = found->second;
    const Bar alone = verdict.AloneMean();
    table += row(task.name,
                 {Percent(verdict.frozen.score.all), Percent(alone.score.all),
                  Percent(verdict.federated.score.all), Percent(verdict.centralized.score.all)});
    for (const std::string& kind : task.kinds) {
      table +=
          row(kind, {Percent(verdict.frozen.score.OfKind(kind)), Percent(alone.score.OfKind(kind)),
                     Percent(verdict.federated.score.OfKind(kind)),
                     Percent(verdict.centralized.score.OfKind(kind))});
    }
    const auto given = [](const Bar& bar, int64_t Bar::*what) {
      return bar.*what > 0 ? Thousands(bar.*what) : "–";
    };
    for (const auto& [name, what] :
         {std::pair("examples", &Bar::examples), std::pair("steps", &Bar::steps)}) {
      table += row(name, {given(verdict.frozen, what), given(alone, what),
                          given(verdict.federated, what), given(verdict.centralized, what)});
    }
  }
  for (const std::string& note : data.notes) absl::StrAppend(&table, note, "\n");
  return absl::StrCat(table, "An adapter is ", HumanBytes(static_cast<double>(data.adapter_bytes)),
                      " in each direction and round; the whole model would be ",
                      HumanBytes(static_cast<double>(data.full_model_bytes)), ".\n");
}

}  // namespace fedumm::programs
