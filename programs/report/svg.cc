#include "programs/report/svg.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace fedumm::programs {
namespace {

// The plot area within a 640 x 320 picture; the right margin holds the lines' labels.
constexpr double kWidth = 640;
constexpr double kHeight = 320;
constexpr double kLeft = 48;
constexpr double kRight = 470;
constexpr double kTop = 34;
constexpr double kBottom = 280;

// A step of 1, 2 or 5 times a power of ten that cuts `range` into about `count` parts.
double NiceStep(double range, int count) {
  const double raw = range / count;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power) return factor * power;
  }
  return 10 * power;
}

struct Scale {
  double low;
  double high;
  double from;
  double to;
  double operator()(double value) const {
    return from + (value - low) / (high - low) * (to - from);
  }
};

struct Label {
  double y;
  std::string text;
  std::string css_class;
};

// Moves labels apart so that none covers another, keeping their order and the plot's bounds.
void Spread(std::vector<Label>& labels) {
  constexpr double kGap = 15;
  std::sort(labels.begin(), labels.end(), [](const Label& a, const Label& b) { return a.y < b.y; });
  for (size_t i = 1; i < labels.size(); ++i) {
    labels[i].y = std::max(labels[i].y, labels[i - 1].y + kGap);
  }
  double limit = kBottom + 4;
  for (size_t i = labels.size(); i-- > 0;) {
    labels[i].y = std::min(labels[i].y, limit);
    limit = labels[i].y - kGap;
  }
}

std::string YAxis(const Scale& y, double step, bool percent) {
  std::string svg;
  for (int i = 0; i * step <= y.high * 1.0001; ++i) {
    const double value = i * step;
    absl::StrAppendFormat(
        &svg,
        "<line class='grid' x1='%g' x2='%g' y1='%.1f' y2='%.1f'/>"
        "<text class='tick' x='%g' y='%.1f' text-anchor='end'>%s</text>",
        kLeft, kRight, y(value), y(value), kLeft - 8, y(value) + 4,
        percent ? absl::StrFormat("%.0f%%", value * 100) : absl::StrFormat("%g", value));
  }
  return svg;
}

std::string XAxis(const Scale& x) {
  std::string svg;
  const double step = std::max(1.0, NiceStep(x.high - x.low, 8));
  for (double value = std::ceil(x.low / step) * step; value <= x.high; value += step) {
    absl::StrAppendFormat(&svg, "<text class='tick' x='%.1f' y='%g' text-anchor='middle'>%g</text>",
                          x(value), kBottom + 18, value);
  }
  return svg;
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      case '"':
        escaped += "&quot;";
        break;
      case '\'':
        escaped += "&#39;";
        break;
      default:
        escaped += (static_cast<unsigned char>(c) < 0x20 && c != '\n') ? ' ' : c;
    }
  }
  return escaped;
}

std::string LineChartSvg(const LineChart& chart) {
  double x_low = 0;
  double x_high = 1;
  double y_high = 0;
  for (const Series& series : chart.series) {
    for (const auto& [x, y] : series.points) {
      x_high = std::max(x_high, x);
      if (std::isfinite(y)) y_high = std::max(y_high, y);
    }
  }
  const double y_step = chart.percent ? 0.2 : NiceStep(y_high > 0 ? y_high : 1, 5);
  y_high = chart.percent ? 1 : std::max(y_step, std::ceil(y_high / y_step) * y_step);
  const Scale x{x_low, x_high, kLeft, kRight};
  const Scale y{0, y_high, kBottom, kTop};

  std::string svg = absl::StrFormat(
      "<svg viewBox='0 0 %g %g' role='img' aria-label='%s'><text class='title' x='%g' y='18'>%s"
      "</text>",
      kWidth, kHeight, EscapeHtml(chart.title), kLeft - 40, EscapeHtml(chart.title));
  absl::StrAppend(&svg, YAxis(y, y_step, chart.percent), XAxis(x));
  absl::StrAppendFormat(&svg, "<text class='tick' x='%g' y='%g' text-anchor='middle'>%s</text>",
                        (kLeft + kRight) / 2, kBottom + 36, EscapeHtml(chart.x_label));
  std::vector<Label> labels;
  for (const ReferenceLine& line : chart.references) {
    if (!std::isfinite(line.y) || line.y > y_high) continue;
    absl::StrAppendFormat(&svg, "<line class='reference %s' x1='%g' x2='%g' y1='%.1f' y2='%.1f'/>",
                          line.css_class, kLeft, kRight, y(line.y), y(line.y));
    labels.push_back({y(line.y) + 4, line.label, line.css_class});
  }
  for (const Series& series : chart.series) {
    std::string path;
    bool pen_down = false;
    double last = 0;
    for (const auto& [px, py] : series.points) {
      if (!std::isfinite(py)) {
        pen_down = false;
        continue;
      }
      absl::StrAppendFormat(&path, "%c%.1f %.1f", pen_down ? 'L' : 'M', x(px), y(py));
      absl::StrAppendFormat(&svg, "<circle class='%s' cx='%.1f' cy='%.1f' r='2.5'/>",
                            series.css_class, x(px), y(py));
      pen_down = true;
      last = y(py);
    }
    if (path.empty()) continue;
    absl::StrAppendFormat(&svg, "<path class='%s' d='%s'/>", series.css_class, path);
    labels.push_back({last + 4, series.label, series.css_class});
  }
  Spread(labels);
  for (const Label& label : labels) {
    absl::StrAppendFormat(&svg, "<text class='label %s' x='%g' y='%.1f'>%s</text>", label.css_class,
                          kRight + 8, label.y, EscapeHtml(label.text));
  }
  return svg + "</svg>";
}

std::string HistogramSvg(const std::vector<std::pair<std::string, int64_t>>& counts,
                         int64_t largest) {
  constexpr double kRow = 17;
  constexpr double kNames = 74;
  constexpr double kBar = 150;
  std::string svg = absl::StrFormat("<svg viewBox='0 0 280 %g' role='img'>",
                                    kRow * static_cast<double>(counts.size()) + 4);
  double top = 0;
  for (const auto& [name, count] : counts) {
    const double length =
        largest > 0 ? kBar * static_cast<double>(count) / static_cast<double>(largest) : 0;
    absl::StrAppendFormat(
        &svg,
        "<text class='tick' x='%g' y='%g' text-anchor='end'>%s</text><rect class='bar' x='%g' "
        "y='%g' width='%.1f' height='%g' rx='2'/><text class='tick' x='%.1f' y='%g'>%d</text>",
        kNames - 6, top + 12, EscapeHtml(name), kNames, top + 3, length, kRow - 6,
        kNames + length + 5, top + 12, count);
    top += kRow;
  }
  return svg + "</svg>";
}

}  // namespace fedumm::programs
