// The lines that a server prints while a run goes on.
#pragma once

#include <string>
#include <vector>

#include "programs/report/run_data.h"

namespace fedumm::programs {

// Column titles for the given tasks.
std::string TableHeader(const std::vector<TaskData>& tasks);
// One round: number, nodes accepted of asked, loss, accuracy for each task ("–" where it was not
// measured), bytes down and up of a node (mean), seconds.
std::string TableRow(const RoundData& round, const std::vector<TaskData>& tasks);
// Frozen, alone, federated and centralized side by side, with the examples and steps that each was
// given, and the bytes.
std::string VerdictTable(const RunData& data);

}  // namespace fedumm::programs
