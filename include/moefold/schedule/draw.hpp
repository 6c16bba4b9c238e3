#pragma once
// A schedule as a picture, one row per stage and one column per slot of time, as text and as SVG; and the share of time its stages stand still.
//
//   stage 0 | F0 F1 .  B0 .  B1            F forward   B backward   I its input part   W its weight part   .  waits
//   stage 1 | .  F0 B0 F1 B1               F0:1 is micro-batch 0 in chunk 1
#include <moefold/schedule/check.hpp>

#include <cstdio>
#include <string>

namespace moefold {

/// The letter of a computing step; 0 of a message.
constexpr char letter_of(step_kind kind) {
  switch (kind) {
    case step_kind::forward: return 'F';
    case step_kind::backward: return 'B';
    case step_kind::backward_input: return 'I';
    case step_kind::backward_weight: return 'W';
    default: return 0;
  }
}

/// Times for a picture: as short as they can be. A backward of two parts takes two slots, any other one.
template <pipeline_schedule Schedule>
constexpr step_times picture_times() {
  for (const schedule_step& step : Schedule::steps(0, 1, 1))
    if (step.kind == step_kind::backward_weight) return {1, 2, 1};
  return {1, 1, 1};
}

/// A computing step longer than one slot is continued with '-'.
template <pipeline_schedule Schedule>
std::string draw(int stages, int micro_batches, const step_times& times = picture_times<Schedule>()) {
  std::vector<std::vector<std::string>> rows{std::size_t(stages)};
  std::size_t width = 2;
  for (const played_step& p : play<Schedule>(stages, micro_batches, times)) {
    if (letter_of(p.step.kind) == 0) continue;
    auto& row = rows[std::size_t(p.stage)];
    row.resize(std::size_t(p.begin), ".");
    row.push_back(sentence(letter_of(p.step.kind), p.step.micro_batch));
    if (p.step.chunk > 0) row.back() += ":" + std::to_string(p.step.chunk);
    width = std::max(width, row.back().size());
    row.resize(std::size_t(p.end), "-");
  }
  std::string text;
  const std::size_t label = std::to_string(stages - 1).size();
  for (std::size_t s = 0; s < rows.size(); ++s) {
    const std::string number = std::to_string(s);
    std::string line = "stage " + std::string(label - number.size(), ' ') + number + " |";
    for (const std::string& cell : rows[s]) line += ' ' + cell + std::string(width - cell.size(), ' ');
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  }
  return text;
}

/// The share of stages * time in which a stage waits, 0 <= bubble < 1; (stages - 1) / (micro_batches + stages - 1) for 1F1B.
template <pipeline_schedule Schedule>
constexpr double bubble(int stages, int micro_batches, const step_times& times = {}) {
  int busy = 0, end = 0;
  for (const played_step& p : play<Schedule>(stages, micro_batches, times)) {
    busy += p.end - p.begin;
    end = std::max(end, p.end);
  }
  return end == 0 ? 0.0 : 1.0 - double(busy) / (double(stages) * double(end));
}

/// The picture as an SVG document: a row per stage, a colour per kind of step, darker for later chunks, micro-batches as numbers.
template <pipeline_schedule Schedule>
std::string draw_svg(int stages, int micro_batches, const step_times& times = {}) {
  struct style {
    step_kind kind;
    const char* name;
    int hue, saturation;
  };
  constexpr style styles[] = {{step_kind::forward, "forward", 212, 70},
                              {step_kind::backward, "backward", 28, 85},
                              {step_kind::backward_input, "backward, input", 28, 85},
                              {step_kind::backward_weight, "backward, weights", 152, 45}};
  const auto colour = [](const style& s, int chunk) {
    char text[40];
    std::snprintf(text, sizeof text, "hsl(%d,%d%%,%d%%)", s.hue, s.saturation, std::max(38, 80 - 14 * chunk));
    return std::string(text);
  };
  const auto escaped = [](const std::string& in) {
    std::string out;
    for (const char c : in) out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : std::string(1, c);
    return out;
  };
  const std::vector<played_step> steps = play<Schedule>(stages, micro_batches, times);
  int end = 1;
  bool used[4] = {};
  for (const played_step& p : steps) {
    end = std::max(end, p.end);
    for (int i = 0; i < 4; ++i) used[i] = used[i] || styles[i].kind == p.step.kind;
  }
  const int slot = std::max(6, std::min(28, 1400 / end)), row = 30, left = 70, top = 64, width = left + end * slot + 16,
            height = top + stages * row + 16;
  char number[96];
  std::snprintf(number, sizeof number, "%d %s, %d %s, bubble %.1f%%", stages, stages == 1 ? "stage" : "stages", micro_batches,
                micro_batches == 1 ? "micro-batch" : "micro-batches", 100 * bubble<Schedule>(stages, micro_batches, times));
  std::string svg = sentence("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"", std::max(width, 560), "\" height=\"", height,
                             "\" font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n",
                             "<text x=\"16\" y=\"24\" font-size=\"15\">", escaped(Schedule::name), ": ", number, "</text>\n");
  int at = left;
  for (int i = 0; i < 4; ++i) {
    if (!used[i]) continue;
    svg += sentence("<rect x=\"", at, "\" y=\"36\" width=\"14\" height=\"14\" fill=\"", colour(styles[i], 0), "\"/><text x=\"", at + 20,
                    "\" y=\"48\">", styles[i].name, "</text>\n");
    at += 130;
  }
  for (int c = 1; c < Schedule::chunks; ++c, at += 80)
    svg += sentence("<rect x=\"", at, "\" y=\"36\" width=\"14\" height=\"14\" fill=\"", colour(styles[0], c), "\"/><text x=\"", at + 20,
                    "\" y=\"48\">chunk ", c, "</text>\n");
  for (int s = 0; s < stages; ++s) {
    svg += sentence("<text x=\"16\" y=\"", top + s * row + 19, "\">stage ", s, "</text>\n<rect x=\"", left, "\" y=\"", top + s * row + 2,
                    "\" width=\"", end * slot, "\" height=\"", row - 4, "\" fill=\"#f2f2f2\"/>\n");
  }
  for (const played_step& p : steps) {
    for (const style& look : styles) {
      if (look.kind != p.step.kind || p.end == p.begin) continue;
      const int x = left + p.begin * slot, w = (p.end - p.begin) * slot, y = top + p.stage * row + 2;
      svg += sentence("<rect x=\"", x, "\" y=\"", y, "\" width=\"", w, "\" height=\"", row - 4, "\" fill=\"", colour(look, p.step.chunk),
                      "\" stroke=\"white\"><title>", escaped(describe(p.step)), "</title></rect>");
      if (w >= 14) svg += sentence("<text x=\"", x + w / 2, "\" y=\"", y + 18, "\" text-anchor=\"middle\">", p.step.micro_batch, "</text>");
      svg += '\n';
    }
  }
  return svg + "</svg>\n";
}

}  // namespace moefold
