#pragma once
// A schedule as a picture, one row per stage and one column per slot of time, and the share of time its stages stand still.
//
//   stage 0 | F0 F1 .  B0 .  B1
//   stage 1 | .  F0 B0 F1 B1
#include <moefold/schedule/check.hpp>

#include <string>

namespace moefold {

/// Forwards as F<m>, backwards as B<m>, waiting as a dot. A forward or backward longer than one slot is continued with '-'.
template <pipeline_schedule Schedule>
std::string draw(int stages, int micro_batches, int forward_slots = 1, int backward_slots = 1) {
  std::vector<std::vector<std::string>> rows{std::size_t(stages)};
  std::size_t width = 2;
  for (const played_step& p : play<Schedule>(stages, micro_batches, forward_slots, backward_slots)) {
    if (p.step.kind != step_kind::forward && p.step.kind != step_kind::backward) continue;
    auto& row = rows[std::size_t(p.stage)];
    row.resize(std::size_t(p.begin), ".");
    row.push_back(sentence(p.step.kind == step_kind::forward ? 'F' : 'B', p.step.micro_batch));
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
constexpr double bubble(int stages, int micro_batches, int forward_slots = 1, int backward_slots = 2) {
  int busy = 0, end = 0;
  for (const played_step& p : play<Schedule>(stages, micro_batches, forward_slots, backward_slots)) {
    busy += p.end - p.begin;
    end = std::max(end, p.end);
  }
  return end == 0 ? 0.0 : 1.0 - double(busy) / (double(stages) * double(end));
}

}  // namespace moefold
