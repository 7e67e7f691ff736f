#include "programs/report/live_table.h"

#include <limits>

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

std::string TableHeader(const std::vector<std::string>& tasks) {
  std::string header = absl::StrCat(Right("round", 5), Right("nodes", 8), Right("loss", 9));
  for (const std::string& task : tasks) absl::StrAppend(&header, Right(task, 9));
  return absl::StrCat(header, Right("down/node", 12), Right("up/node", 12), Right("seconds", 9));
}

std::string TableRow(const RoundData& round, const std::vector<std::string>& tasks) {
  size_t accepted = 0;
  double down = 0;
  double up = 0;
  for (const NodeRound& node : round.nodes) {
    accepted += node.accepted ? 1 : 0;
    down += static_cast<double>(node.bytes_down) / static_cast<double>(round.nodes.size());
    up += static_cast<double>(node.bytes_up) / static_cast<double>(round.nodes.size());
  }
  const bool trained = !round.nodes.empty();
  std::string row = Right(absl::StrCat(round.number), 5);
  row += Right(trained ? absl::StrCat(accepted, "/", round.nodes.size()) : "–", 8);
  row += Right(accepted > 0 ? absl::StrFormat("%.4f", round.train_loss) : "–", 9);
  for (const std::string& task : tasks) {
    const auto accuracy = round.accuracies.find(task);
    row +=
        Right(Percent(accuracy == round.accuracies.end() ? std::numeric_limits<double>::quiet_NaN()
                                                         : accuracy->second),
              9);
  }
  row += Right(trained ? HumanBytes(down) : "–", 12);
  row += Right(trained ? HumanBytes(up) : "–", 12);
  return row + Right(absl::StrFormat("%.1f", round.seconds), 9);
}

std::string VerdictTable(const RunData& data) {
  std::string table = absl::StrCat(Right("", 8), Right("frozen", 12), Right("alone, mean", 14),
                                   Right("federated", 12), Right("centralized", 14), "\n");
  for (const auto& [task, verdict] : data.verdicts) {
    absl::StrAppend(&table, Right(task, 8), Right(Percent(verdict.frozen.all), 12),
                    Right(Percent(verdict.AloneMean().all), 14),
                    Right(Percent(verdict.federated.all), 12),
                    Right(Percent(verdict.centralized.all), 14), "\n");
  }
  return absl::StrCat(table, "an adapter is ", HumanBytes(static_cast<double>(data.adapter_bytes)),
                      " a direction and round; the whole model would be ",
                      HumanBytes(static_cast<double>(data.full_model_bytes)), "\n");
}

}  // namespace fedumm::programs
