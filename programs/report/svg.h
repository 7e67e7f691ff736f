// The two kinds of chart that the report draws, as inline SVG without scripts.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace fedumm::programs {

// Text for HTML and SVG: what a peer or a file named can hold anything.
std::string EscapeHtml(std::string_view text);

struct Series {
  std::string label;
  std::string css_class;  // "s1", "s2": the colour comes from the page's style
  std::vector<std::pair<double, double>> points;  // NaN breaks the line
};

struct ReferenceLine {
  std::string label;
  std::string css_class;
  double y = 0;
};

struct LineChart {
  std::string title;
  std::string x_label;
  bool percent =
      false;  // y is a share, shown in percent from 0 to 1; otherwise the axis fits the data from 0
  std::vector<Series> series;
  std::vector<ReferenceLine> references;
};

std::string LineChartSvg(const LineChart& chart);

// Horizontal bars of one client's classes; `largest` is the length of a full bar, so that charts
// side by side compare.
std::string HistogramSvg(const std::vector<std::pair<std::string, int64_t>>& counts,
                         int64_t largest);

}  // namespace fedumm::programs
