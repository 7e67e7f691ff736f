#pragma once

#include <string>

#include "programs/report/run_data.h"

namespace fedumm::programs {

// The whole report as one page that needs nothing else: no script, no font, no address. Parts
// without data are left out.
std::string ReportHtml(const RunData& data);

}  // namespace fedumm::programs
