#include "programs/report/report_html.h"

#include <algorithm>
#include <cmath>
#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/text.h"
#include "programs/report/format.h"
#include "programs/report/svg.h"

namespace fedumm::programs {
namespace {

// Colours: Okabe and Ito's palette, which colour-blind readers can tell apart.
constexpr std::string_view kStyle = R"css(
:root{--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--page:#fff;--card:#f6f8fa;--vqa:#0072b2;--draw:#d55e00;--good:#00795c;--bad:#b3372b;--mute:#8a94a0}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#a5b0bd;--line:#38424e;--page:#12171d;--card:#1b222b;--vqa:#56b4e9;--draw:#f0903c;--good:#3fc39b;--bad:#f08474;--mute:#7f8a96}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 20px 48px}h1{font-size:26px;line-height:1.25;margin:8px 0 4px}h2{font-size:19px;margin:40px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:0 0 6px}p{margin:6px 0 12px}.soft,.soft *{color:var(--soft)}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:left;padding:6px 10px 6px 0;border-bottom:1px solid var(--line);white-space:nowrap}th{color:var(--soft);font-weight:600;font-size:13px}td.n,th.n{text-align:right;padding-right:8px}
.track{display:inline-block;width:84px;height:10px;border-radius:5px;background:var(--line);margin-right:10px;vertical-align:middle}.fill{display:block;height:10px;border-radius:5px}.vqa{background:var(--vqa)}.draw{background:var(--draw)}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(230px,1fr))}.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr))}.card{background:var(--card);border-radius:10px;padding:12px 14px}
.sample{display:flex;gap:12px;align-items:flex-start;font-size:14px}.sample img,.pair img{width:84px;height:84px;image-rendering:pixelated;border-radius:6px;border:1px solid var(--line);background:#fff}.pair{display:flex;gap:10px;font-size:12px}.pair figure{margin:0;text-align:center}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .title{font-weight:600;font-size:14px}svg .tick{fill:var(--soft)}svg .grid{stroke:var(--line)}svg path{fill:none;stroke-width:2}svg .bar{fill:var(--vqa)}
svg path.s1,svg line.s1{stroke:var(--vqa)}svg circle.s1,svg text.s1{fill:var(--vqa)}svg path.s2,svg line.s2{stroke:var(--draw)}svg circle.s2,svg text.s2{fill:var(--draw)}svg path.s3,svg line.s3{stroke:var(--mute)}svg circle.s3,svg text.s3{fill:var(--mute)}svg .reference{stroke-dasharray:5 4}
@media(max-width:560px){.track{display:none}}
code{font:13px ui-monospace,monospace;background:var(--card);padding:2px 5px;border-radius:4px;overflow-wrap:anywhere}footer{margin-top:40px;color:var(--soft);font-size:13px}
)css";

std::string TaskTitle(const std::string& task) {
  if (task == "vqa") return "Answering";
  if (task == "draw") return "Drawing";
  return task;
}
std::string TaskColour(const std::string& task) { return task == "draw" ? "draw" : "vqa"; }
std::string TaskSeries(const std::string& task) { return task == "draw" ? "s2" : "s1"; }

// The entries of a map by task, answering before drawing before others.
template <typename Value>
std::vector<std::pair<std::string, Value>> InOrder(const std::map<std::string, Value>& by_task) {
  std::vector<std::pair<std::string, Value>> ordered(by_task.begin(), by_task.end());
  std::stable_partition(ordered.begin(), ordered.end(),
                        [](const auto& entry) { return entry.first == "vqa"; });
  return ordered;
}

std::string Image(const std::string& png, std::string_view alternative) {
  return absl::StrCat("<img alt='", EscapeHtml(alternative), "' src='data:image/png;base64,",
                      absl::Base64Escape(png), "'>");
}

std::string Headline(const RunData& data) {
  std::string html;
  for (const auto& [task, verdict] : InOrder(data.verdicts)) {
    absl::StrAppend(&html, html.empty() ? "" : "; ", TaskTitle(task), " ",
                    Percent(verdict.frozen.all), " → ", Percent(verdict.federated.all));
  }
  return absl::StrCat(
      "<p class='soft'>fedumm · ", EscapeHtml(data.name), "</p><h1>",
      html.empty() ? "A federated run" : html, "</h1><p>", data.clients.size(),
      " clients taught a frozen model over ", data.rounds.empty() ? 0 : data.rounds.back().number,
      " rounds, sending adapters only: ", HumanBytes(data.adapter_bytes),
      " a direction and round instead of ", HumanBytes(data.full_model_bytes),
      " for the whole model. Their images and questions stayed where they were.</p>");
}

void AddVerdictRow(std::string& html, const std::string& task, const std::string& how,
                   const Score& score, const Given& given) {
  absl::StrAppendFormat(&html, "<tr><td>%s</td><td>", how);
  if (std::isfinite(score.all)) {
    absl::StrAppendFormat(&html,
                          "<span class='track'><span class='fill %s' "
                          "style='width:%.1f%%'></span></span>",
                          TaskColour(task), 100 * std::clamp(score.all, 0.0, 1.0));
  }
  absl::StrAppend(&html, Percent(score.all), "</td><td class='n'>", Percent(score.new_concepts),
                  "</td><td class='n'>", given.examples == 0 ? "–" : Thousands(given.examples),
                  "</td><td class='n'>", given.steps == 0 ? "–" : Thousands(given.steps),
                  "</td></tr>");
}

std::string Verdicts(const RunData& data) {
  if (data.verdicts.empty()) return "";
  std::string html = "<h2>The verdict, on held-out examples</h2><div class='grid wide'>";
  for (const auto& [task, verdict] : InOrder(data.verdicts)) {
    absl::StrAppend(&html, "<div class='card scroll'><h3>", EscapeHtml(TaskTitle(task)),
                    "</h3><table><tr><th></th><th>right</th><th class='n'>new "
                    "concepts</th><th class='n'>examples</th><th class='n'>steps</th></tr>");
    AddVerdictRow(html, task, "Frozen model", verdict.frozen, {});
    AddVerdictRow(html, task, "Clients alone, mean", verdict.AloneMean(), verdict.alone_given);
    AddVerdictRow(html, task, "<b>Federated</b>", verdict.federated, verdict.federated_given);
    AddVerdictRow(html, task, "Centralized", verdict.centralized, verdict.centralized_given);
    html += "</table></div>";
  }
  html += "</div>";
  if (!data.frozen.empty()) {
    absl::StrAppend(&html, "<p class='soft'>", EscapeHtml(data.frozen), "</p>");
  }
  const bool balanced = std::find(data.settings.begin(), data.settings.end(),
                                  std::pair<std::string, std::string>(
                                      "data.balanced-batches", "true")) != data.settings.end();
  if (balanced) {
    html +=
        "<p class='soft'>Every training's batches of drawings are balanced by colour "
        "(data.balanced-batches), a remedy for the clients' skewed shares.</p>";
  }
  return html +
         "<p class='soft'>Clients alone: each trains on its own examples only, as many steps "
         "as in the federation. Federated: examples and steps of all clients together. "
         "Centralized: "
         "one training on all clients' examples in one place, which sees as many examples as the "
         "federation and has its own batch size and learning rate. Examples are counted as often "
         "as "
         "they are seen.</p>";
}

std::string Curves(const RunData& data) {
  if (data.rounds.empty()) return "";
  LineChart accuracy{
      .title = "Right on held-out examples, by round", .x_label = "round", .percent = true};
  LineChart loss{.title = "Training loss of the clients (mean), by round", .x_label = "round"};
  std::map<std::string, Series> accuracies;
  std::map<std::string, Series> losses;
  for (const RoundData& round : data.rounds) {
    const double number = static_cast<double>(round.number);
    for (const auto& [task, value] : round.accuracies) {
      accuracies[task].points.emplace_back(number, value);
    }
    for (const auto& [task, value] : round.losses) losses[task].points.emplace_back(number, value);
  }
  for (auto [task, series] : InOrder(accuracies)) {
    series.label = TaskTitle(task);
    series.css_class = TaskSeries(task);
    accuracy.series.push_back(series);
  }
  for (auto [task, series] : InOrder(losses)) {
    series.label = TaskTitle(task);
    series.css_class = TaskSeries(task);
    loss.series.push_back(series);
  }
  for (const auto& [task, verdict] : InOrder(data.verdicts)) {
    accuracy.references.push_back({absl::StrCat(TaskTitle(task), ", centralized"), TaskSeries(task),
                                   verdict.centralized.all});
  }
  return absl::StrCat("<h2>How it went</h2><div class='grid wide'><div class='card'>",
                      LineChartSvg(accuracy), "</div><div class='card'>", LineChartSvg(loss),
                      "</div></div><p class='soft'>Before the first round and after the last all "
                      "held-out examples count; in between, a part of them.</p>");
}

std::string Clients(const RunData& data) {
  if (data.clients.empty()) return "";
  std::string html = "<h2>What each client has</h2>";
  std::map<std::string, int64_t> largest;
  for (const ClientData& client : data.clients) {
    for (const auto& [task, histogram] : client.histograms) {
      for (const auto& entry : histogram) largest[task] = std::max(largest[task], entry.second);
    }
  }
  for (const auto& [task, most] : InOrder(largest)) {
    absl::StrAppend(&html, "<h3>", EscapeHtml(TaskTitle(task)),
                    task == "vqa" ? ": questions by answer" : ": pictures by colour", "</h3>",
                    "<div class='grid' style='margin-bottom:16px'>");
    for (const ClientData& client : data.clients) {
      const auto histogram = client.histograms.find(task);
      if (histogram == client.histograms.end()) continue;
      int64_t total = 0;
      for (const auto& entry : histogram->second) total += entry.second;
      absl::StrAppend(&html, "<div class='card'><b>Client ", client.partition_id,
                      "</b> <span class='soft'>", total, " examples</span>",
                      HistogramSvg(histogram->second, most), "</div>");
    }
    html += "</div>";
  }
  return html;
}

std::string Questions(const RunData& data) {
  if (data.questions.empty()) return "";
  std::string html =
      "<h2>Questions, before and after</h2><p class='soft'>Held-out images. "
      "Before: the frozen model. After: with the federated adapter.</p><div class='grid'>";
  const auto answer = [](const std::string& given, const std::string& truth) {
    return absl::StrCat("<span class='", given == truth ? "good'>✓ " : "bad'>✗ ", EscapeHtml(given),
                        "</span>");
  };
  for (const QuestionSample& sample : data.questions) {
    absl::StrAppend(&html, "<div class='card sample'>", Image(sample.png, sample.question), "<div>",
                    EscapeHtml(sample.question), "<br>before ", answer(sample.before, sample.truth),
                    "<br>after ", answer(sample.after, sample.truth),
                    "<br><span class='soft'>truth ", EscapeHtml(sample.truth),
                    "</span></div></div>");
  }
  return html + "</div>";
}

std::string Drawings(const RunData& data) {
  if (data.drawings.empty()) return "";
  std::string html =
      "<h2>Drawings, before and after</h2><p class='soft'>The same prompt and the same noise. A "
      "detector that is no part of the model judges colour and shape.</p><div class='grid'>";
  const auto figure = [](const std::string& png, std::string_view when, bool right) {
    return absl::StrCat("<figure>", Image(png, when), "<br>", Text(when), " <span class='",
                        right ? "good'>✓" : "bad'>✗", "</span></figure>");
  };
  for (const DrawingSample& sample : data.drawings) {
    absl::StrAppend(&html, "<div class='card'><h3>", EscapeHtml(sample.prompt),
                    "</h3><div class='pair'>",
                    figure(sample.png_before, "before", sample.right_before),
                    figure(sample.png_after, "after", sample.right_after), "</div></div>");
  }
  return html + "</div>";
}

std::string Ledger(const RunData& data) {
  if (data.rounds.size() < 2) return "";
  struct Sum {
    uint64_t down = 0;
    uint64_t up = 0;
    int64_t accepted = 0;
    int64_t refused = 0;
  };
  std::map<uint64_t, Sum> sums;
  Sum all;
  int64_t rounds = 0;
  for (const RoundData& round : data.rounds) {
    if (round.number > 0) ++rounds;
    for (const NodeRound& node : round.nodes) {
      Sum& sum = sums[node.node_id];
      for (Sum* const target : {&sum, &all}) {
        target->down += node.bytes_down;
        target->up += node.bytes_up;
        ++(node.accepted ? target->accepted : target->refused);
      }
    }
  }
  std::string html =
      "<h2>Bytes on the wire</h2><div class='scroll'><table><tr><th>node</th><th class='n'>to the "
      "node</th><th class='n'>from the node</th><th class='n'>replies used</th><th "
      "class='n'>refused or missing</th></tr>";
  const auto row = [&html](const std::string& name, const Sum& sum) {
    absl::StrAppend(&html, "<tr><td>", name, "</td><td class='n'>",
                    HumanBytes(static_cast<double>(sum.down)), "</td><td class='n'>",
                    HumanBytes(static_cast<double>(sum.up)), "</td><td class='n'>", sum.accepted,
                    "</td><td class='n'>", sum.refused, "</td></tr>");
  };
  for (const ClientData& client : data.clients) {
    const auto sum = sums.find(client.node_id);
    if (sum == sums.end()) continue;
    row(client.partition_id < 0 ? absl::StrCat("node ", client.node_id)
                                : absl::StrCat("client ", client.partition_id),
        sum->second);
  }
  row("<b>all</b>", all);
  absl::StrAppend(&html, "</table></div><p class='soft'>");
  if (all.down + all.up > 0) {
    absl::StrAppend(&html, "Measured as gRPC messages, everything included: ",
                    HumanBytes(static_cast<double>(all.down + all.up)), " in ", rounds,
                    " rounds. ");
  }
  const double whole =
      2.0 * static_cast<double>(data.full_model_bytes) * static_cast<double>(rounds * sums.size());
  const double adapters =
      2.0 * static_cast<double>(data.adapter_bytes) * static_cast<double>(rounds * sums.size());
  return absl::StrCat(html, "Adapters alone: ", HumanBytes(adapters), "; whole models would be ",
                      HumanBytes(whole), ", ",
                      adapters > 0 ? absl::StrFormat("%.1f", whole / adapters) : "?",
                      " times as much. At the sizes of a real 8B model the adapter (rank 16, all "
                      "linear layers of the decoder) is some 240 times smaller.</p>");
}

std::string Settings(const RunData& data) {
  if (data.settings.empty()) return "";
  std::string html = "<h2>Settings</h2><div class='scroll'><table>";
  for (const auto& [key, value] : data.settings) {
    absl::StrAppend(&html, "<tr><td>", EscapeHtml(key), "</td><td>", EscapeHtml(value),
                    "</td></tr>");
  }
  return html + "</table></div>";
}

}  // namespace

std::string ReportHtml(const RunData& data) {
  return absl::StrCat(
      "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
      "content='width=device-width,initial-scale=1'><title>fedumm: ",
      EscapeHtml(data.name), "</title><style>", Text(kStyle), "</style></head><body><main>",
      Headline(data), Verdicts(data), Curves(data), Questions(data), Drawings(data), Clients(data),
      Ledger(data), Settings(data), "<footer>", EscapeHtml(data.strategy), ", seed ", data.seed,
      ", ", absl::StrFormat("%.0f", data.seconds), " s in all. Made by <code>",
      EscapeHtml(data.command), "</code></footer></main></body></html>\n");
}

}  // namespace fedumm::programs
