#include "programs/report/report_html.h"

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/text.h"
#include "programs/report/format.h"
#include "programs/report/svg.h"

namespace fedumm::programs {
namespace {

// Colours: Okabe and Ito's palette, which colour-blind readers can tell apart.
constexpr std::string_view kStyle = R"css(
:root{--ink:#1c2430;--soft:#5b6675;--line:#dfe4ea;--page:#fff;--card:#f6f8fa;--t1:#0072b2;--t2:#d55e00;--t3:#a8548a;--t4:#8a6d00;--good:#00795c;--bad:#b3372b;--mute:#8a94a0}
@media(prefers-color-scheme:dark){:root{--ink:#e8ecf1;--soft:#a5b0bd;--line:#38424e;--page:#12171d;--card:#1b222b;--t1:#56b4e9;--t2:#f0903c;--t3:#e08fc0;--t4:#d8b93c;--good:#3fc39b;--bad:#f08474;--mute:#7f8a96}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 20px 48px}h1{font-size:26px;line-height:1.25;margin:8px 0 4px}h2{font-size:19px;margin:40px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
h3{font-size:15px;margin:0 0 6px}p{margin:6px 0 12px}.soft,.soft *{color:var(--soft)}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}th,td{text-align:left;padding:6px 10px 6px 0;border-bottom:1px solid var(--line);white-space:nowrap}th{color:var(--soft);font-weight:600;font-size:13px}td.n,th.n{text-align:right;padding-right:8px}
.track{display:inline-block;width:84px;height:10px;border-radius:5px;background:var(--line);margin-right:10px;vertical-align:middle}.fill{display:block;height:10px;border-radius:5px}.f1{background:var(--t1)}.f2{background:var(--t2)}.f3{background:var(--t3)}.f4{background:var(--t4)}
.grid{display:grid;gap:16px;grid-template-columns:repeat(auto-fill,minmax(230px,1fr))}.wide{grid-template-columns:repeat(auto-fit,minmax(min(100%,460px),1fr))}.card{background:var(--card);border-radius:10px;padding:12px 14px}
.sample{display:flex;gap:12px;align-items:flex-start;font-size:14px}.sample img,.pair img{width:84px;height:84px;image-rendering:pixelated;border-radius:6px;border:1px solid var(--line);background:#fff}.pair{display:flex;gap:10px;font-size:12px}.pair figure{margin:0;text-align:center}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
svg{width:100%;height:auto;display:block}svg text{font:12px system-ui,sans-serif;fill:var(--ink)}svg .title{font-weight:600;font-size:14px}svg .tick{fill:var(--soft)}svg .grid{stroke:var(--line)}svg path{fill:none;stroke-width:2}svg .bar{fill:var(--t1)}
svg path.s1,svg line.s1{stroke:var(--t1)}svg circle.s1,svg text.s1{fill:var(--t1)}svg path.s2,svg line.s2{stroke:var(--t2)}svg circle.s2,svg text.s2{fill:var(--t2)}svg path.s3,svg line.s3{stroke:var(--t3)}svg circle.s3,svg text.s3{fill:var(--t3)}svg path.s4,svg line.s4{stroke:var(--t4)}svg circle.s4,svg text.s4{fill:var(--t4)}svg .reference{stroke-dasharray:5 4}
.bars td,.bars th{padding-right:4px;font-size:13.5px}.bars td.n,.bars th.n{padding-right:4px}.bars .track{width:52px;margin-right:8px}
@media(max-width:560px){.track{display:none}}
code{font:13px ui-monospace,monospace;background:var(--card);padding:2px 5px;border-radius:4px;overflow-wrap:anywhere}footer{margin-top:40px;color:var(--soft);font-size:13px}
)css";

// The colour of a task: "f2" of its bars, "s2" of its lines.
std::string ColourOf(char kind, size_t task) {
  constexpr size_t kColours = 4;
  return absl::StrCat(std::string(1, kind), task % kColours + 1);
}

const Verdict* VerdictOf(const RunData& data, const TaskData& task) {
  const auto verdict = data.verdicts.find(task.name);
  return verdict == data.verdicts.end() ? nullptr : &verdict->second;
}

std::string Image(const std::string& png, std::string_view alternative) {
  return absl::StrCat("<img alt='", EscapeHtml(alternative), "' src='data:image/png;base64,",
                      absl::Base64Escape(png), "'>");
}

std::string Headline(const RunData& data) {
  std::string html;
  for (const TaskData& task : data.tasks) {
    const Verdict* verdict = VerdictOf(data, task);
    if (verdict == nullptr || !std::isfinite(verdict->federated.score.all)) continue;
    absl::StrAppend(&html, html.empty() ? "" : "; ", EscapeHtml(task.title), " ",
                    Percent(verdict->frozen.score.all), " → ",
                    Percent(verdict->federated.score.all));
  }
  return absl::StrCat(
      "<p class='soft'>fedumm · ", EscapeHtml(data.name), "</p><h1>",
      html.empty() ? "A federated run" : html, "</h1><p>", data.clients.size(),
      " clients trained an adapter of a frozen model over ",
      data.rounds.empty() ? 0 : data.rounds.back().number,
      " rounds and sent adapters only: ", HumanBytes(static_cast<double>(data.adapter_bytes)),
      " in each direction and round instead of ",
      HumanBytes(static_cast<double>(data.full_model_bytes)),
      " for the whole model. Their examples stayed where they were.</p>");
}

std::string CountCell(int64_t count) {
  return absl::StrCat("<td class='n'>", count > 0 ? Thousands(count) : "–", "</td>");
}

void AddVerdictRow(std::string& html, const TaskData& task, const std::string& colour,
                   const std::string& how, const Bar& bar) {
  absl::StrAppend(&html, "<tr><td>", how, "</td><td>");
  if (std::isfinite(bar.score.all)) {
    absl::StrAppendFormat(&html,
                          "<span class='track'><span class='fill %s' "
                          "style='width:%.1f%%'></span></span>",
                          colour, 100 * std::clamp(bar.score.all, 0.0, 1.0));
  }
  absl::StrAppend(&html, Percent(bar.score.all), "</td>");
  if (!task.part_title.empty()) {
    absl::StrAppend(&html, "<td class='n'>", Percent(bar.score.part), "</td>");
  }
  absl::StrAppend(&html, CountCell(bar.examples), CountCell(bar.steps), "</tr>");
}

// The figures by kind of example; nothing where the task has no kinds.
std::string Kinds(const TaskData& task, const Verdict& verdict) {
  if (task.kinds.empty()) return "";
  const Bar alone = verdict.AloneMean();
  std::string html =
      "<table class='bars'><tr><th></th><th class='n'>frozen</th><th class='n'>alone, mean</th>"
      "<th class='n'>federated</th><th class='n'>centralized</th></tr>";
  for (const std::string& kind : task.kinds) {
    absl::StrAppend(&html, "<tr><td>", EscapeHtml(kind), "</td>");
    for (const Score* score : {&verdict.frozen.score, &alone.score, &verdict.federated.score,
                               &verdict.centralized.score}) {
      absl::StrAppend(&html, "<td class='n'>", Percent(score->OfKind(kind)), "</td>");
    }
    html += "</tr>";
  }
  return absl::StrCat(html, "</table>");
}

std::string Verdicts(const RunData& data) {
  if (data.verdicts.empty()) return "";
  std::string html = "<h2>Results on held-out examples</h2><div class='grid wide'>";
  for (size_t i = 0; i < data.tasks.size(); ++i) {
    const TaskData& task = data.tasks[i];
    const Verdict* verdict = VerdictOf(data, task);
    if (verdict == nullptr) continue;
    absl::StrAppend(&html, "<div class='card scroll'><h3>", EscapeHtml(task.title),
                    "</h3><table class='bars'><tr><th></th><th>", EscapeHtml(task.metric_title),
                    "</th>");
    if (!task.part_title.empty()) {
      absl::StrAppend(&html, "<th class='n'>", EscapeHtml(task.part_title), "</th>");
    }
    html += "<th class='n'>examples</th><th class='n'>steps</th></tr>";
    const std::string colour = ColourOf('f', i);
    AddVerdictRow(html, task, colour, "Frozen model", verdict->frozen);
    AddVerdictRow(html, task, colour, "Clients alone, mean", verdict->AloneMean());
    AddVerdictRow(html, task, colour, "<b>Federated</b>", verdict->federated);
    AddVerdictRow(html, task, colour, "Centralized", verdict->centralized);
    absl::StrAppend(&html, "</table>", Kinds(task, *verdict), "</div>");
  }
  absl::StrAppend(
      &html,
      "</div><p class='soft'>Clients alone: each client trains on its own examples only, with as "
      "many steps as in the federation. Federated: examples and steps of all clients together. "
      "Centralized: one training on all clients' examples in one place, which looks at as many "
      "examples as the federation and has its own batch size and learning rate. An example that "
      "comes up twice counts twice.</p>");
  if (!data.notes.empty()) {
    absl::StrAppend(&html, "<p class='soft'>", EscapeHtml(absl::StrJoin(data.notes, " ")), "</p>");
  }
  return html;
}

std::string OnClients(const RunData& data) {
  const RoundData* judged = LastJudgedByClients(data);
  if (judged == nullptr) return "";
  std::string html =
      "<h2>On each client's own held-out examples</h2><div class='scroll'><table><tr><th></th><th "
      "class='n'>mean</th><th class='n'>worst client</th><th class='n'>best client</th><th "
      "class='n'>spread</th></tr>";
  for (const TaskData& task : data.tasks) {
    const auto row = [&](const std::map<std::string, OverClients>& figures, const char* how) {
      const auto it = figures.find(task.name);
      if (it == figures.end()) return;
      absl::StrAppend(&html, "<tr><td>", EscapeHtml(task.title), how, "</td>");
      for (const double value :
           {it->second.mean, it->second.worst, it->second.best, it->second.spread}) {
        absl::StrAppend(&html, "<td class='n'>", Percent(value), "</td>");
      }
      html += "</tr>";
    };
    row(judged->on_clients, ", federated");
    row(judged->personalised, ", after a few steps of its own");
  }
  return absl::StrCat(html, "</table></div><p class='soft'>After round ", judged->number,
                      ". Each client counts once; spread is the standard deviation.</p>");
}

std::string Curves(const RunData& data) {
  if (data.rounds.empty()) return "";
  LineChart accuracy{
      .title = "On held-out examples, by round", .x_label = "round", .percent = true};
  LineChart loss{.title = "Training loss of the clients (mean), by round", .x_label = "round"};
  for (size_t i = 0; i < data.tasks.size(); ++i) {
    const TaskData& task = data.tasks[i];
    Series accuracies{.label = task.title, .css_class = ColourOf('s', i)};
    Series losses = accuracies;
    for (const RoundData& round : data.rounds) {
      const auto number = static_cast<double>(round.number);
      const auto measured = round.accuracies.find(task.name);
      if (measured != round.accuracies.end()) {
        accuracies.points.emplace_back(number, measured->second);
      }
      const auto trained = round.losses.find(task.name);
      if (trained != round.losses.end()) losses.points.emplace_back(number, trained->second);
    }
    if (!accuracies.points.empty()) accuracy.series.push_back(std::move(accuracies));
    if (!losses.points.empty()) loss.series.push_back(std::move(losses));
    const Verdict* verdict = VerdictOf(data, task);
    if (verdict != nullptr && std::isfinite(verdict->centralized.score.all)) {
      accuracy.references.push_back(
          {task.title + ", centralized", ColourOf('s', i), verdict->centralized.score.all});
    }
  }
  return absl::StrCat("<h2>The rounds</h2><div class='grid wide'><div class='card'>",
                      LineChartSvg(accuracy), "</div><div class='card'>", LineChartSvg(loss),
                      "</div></div><p class='soft'>Before the first round and after the last all "
                      "held-out examples count; in between, a part of them.</p>");
}

std::string Holdings(const RunData& data, const TaskData& task) {
  int64_t largest = 0;
  std::string cards;
  for (const ClientData& client : data.clients) {
    const auto histogram = client.histograms.find(task.name);
    if (histogram == client.histograms.end()) continue;
    for (const auto& entry : histogram->second) largest = std::max(largest, entry.second);
  }
  for (const ClientData& client : data.clients) {
    const auto histogram = client.histograms.find(task.name);
    if (histogram == client.histograms.end()) continue;
    int64_t total = 0;
    for (const auto& entry : histogram->second) total += entry.second;
    absl::StrAppend(&cards, "<div class='card'><b>Client ", client.partition_id,
                    "</b> <span class='soft'>", total, " examples</span>",
                    HistogramSvg(histogram->second, largest), "</div>");
  }
  if (cards.empty()) return "";
  return absl::StrCat("<h3>", EscapeHtml(task.title), ": ", EscapeHtml(task.holding_title),
                      "</h3><div class='grid' style='margin-bottom:16px'>", cards, "</div>");
}

std::string Clients(const RunData& data) {
  std::string html;
  for (const TaskData& task : data.tasks) html += Holdings(data, task);
  return html.empty() ? "" : absl::StrCat("<h2>What each client holds</h2>", html);
}

std::string Mark(bool right) {
  return right ? "<span class='good'>✓</span>" : "<span class='bad'>✗</span>";
}

// A sample with an answer in words.
std::string AnswerCard(const SampleData& sample) {
  const auto answer = [](const std::string& given, bool right) {
    return absl::StrCat("<span class='", right ? "good'>✓ " : "bad'>✗ ", EscapeHtml(given),
                        "</span>");
  };
  return absl::StrCat(
      "<div class='card sample'>", sample.png.empty() ? "" : Image(sample.png, sample.prompt),
      "<div>", EscapeHtml(sample.prompt), "<br>before ", answer(sample.before, sample.right_before),
      "<br>after ", answer(sample.after, sample.right_after),
      sample.truth.empty()
          ? ""
          : absl::StrCat("<br><span class='soft'>truth ", EscapeHtml(sample.truth), "</span>"),
      "</div></div>");
}

// A sample with a picture that the model drew.
std::string PictureCard(const SampleData& sample) {
  const auto figure = [](const std::string& png, const std::string& when, const std::string& mark) {
    return absl::StrCat("<figure>", Image(png, when), "<br>", when, " ", mark, "</figure>");
  };
  return absl::StrCat("<div class='card'><h3>", EscapeHtml(sample.prompt),
                      "</h3><div class='pair'>",
                      sample.png.empty() ? "" : figure(sample.png, "input", ""),
                      figure(sample.png_before, "before", Mark(sample.right_before)),
                      figure(sample.png_after, "after", Mark(sample.right_after)), "</div></div>");
}

std::string Samples(const RunData& data) {
  std::string html;
  for (const TaskData& task : data.tasks) {
    std::string cards;
    for (const SampleData& sample : data.samples) {
      if (sample.task != task.name) continue;
      cards += sample.png_after.empty() ? AnswerCard(sample) : PictureCard(sample);
    }
    if (cards.empty()) continue;
    absl::StrAppend(&html, "<h2>", EscapeHtml(task.title),
                    ", before and after</h2><div class='grid'>", cards, "</div>");
  }
  if (html.empty()) return "";
  return html +
         "<p class='soft'>Held-out inputs. Before: the frozen model. After: with the federated "
         "adapter, the same input and the same noise.</p>";
}

std::string Ledger(const RunData& data) {
  if (data.rounds.size() < 2) return "";
  ClientData all;
  std::string html =
      "<h2>Bytes on the wire</h2><div class='scroll'><table><tr><th>node</th><th class='n'>to the "
      "node</th><th class='n'>from the node</th><th class='n'>replies used</th><th "
      "class='n'>rejected or missing</th><th class='n'>examples</th></tr>";
  const auto row = [&html](const std::string& name, const ClientData& sum,
                           const std::string& examples) {
    absl::StrAppend(&html, "<tr><td>", name, "</td><td class='n'>",
                    HumanBytes(static_cast<double>(sum.bytes_down)), "</td><td class='n'>",
                    HumanBytes(static_cast<double>(sum.bytes_up)), "</td><td class='n'>",
                    sum.accepted, "</td><td class='n'>", sum.rejected, "</td><td class='n'>",
                    examples, "</td></tr>");
  };
  for (const ClientData& client : data.clients) {
    row(client.partition_id < 0 ? absl::StrCat("node ", client.node_id)
                                : absl::StrCat("client ", client.partition_id),
        client, absl::StrFormat("%.0f", client.num_examples));
    all.bytes_down += client.bytes_down;
    all.bytes_up += client.bytes_up;
    all.accepted += client.accepted;
    all.rejected += client.rejected;
  }
  row("<b>all</b>", all, "");
  absl::StrAppend(&html, "</table></div><p class='soft'>");
  if (all.bytes_down + all.bytes_up > 0) {
    absl::StrAppend(&html, "Measured as messages, everything included: ",
                    HumanBytes(static_cast<double>(all.bytes_down + all.bytes_up)), " in ",
                    data.rounds.back().number, " rounds. ");
  }
  const double transfers = 2.0 * static_cast<double>(data.rounds.back().number) *
                           static_cast<double>(data.clients.size());
  const double whole = transfers * static_cast<double>(data.full_model_bytes);
  const double adapters = transfers * static_cast<double>(data.adapter_bytes);
  return absl::StrCat(
      html, "Adapters alone: ", HumanBytes(adapters), "; whole models would be ", HumanBytes(whole),
      ", ", adapters > 0 ? absl::StrFormat("%.1f", whole / adapters) : "?", " times as much.</p>");
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
      Headline(data), Verdicts(data), OnClients(data), Curves(data), Samples(data), Clients(data),
      Ledger(data), Settings(data), "<footer>", EscapeHtml(data.strategy), ", seed ", data.seed,
      ", ", absl::StrFormat("%.0f", data.seconds), " s in all. Made by <code>",
      EscapeHtml(data.command), "</code></footer></main></body></html>\n");
}

}  // namespace fedumm::programs
