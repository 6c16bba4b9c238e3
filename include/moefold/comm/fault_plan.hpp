#pragma once
// What is to go wrong, and at which calls, as plain data: one line per fault, so a failure can be written down and played again (comm/chaos.hpp plays it).
// The same lines for every kind of communicator.
//
//   rank=3 axis=ep op=all_to_all_v seq=17 phase=inside do=throw
//   ^ what is left out matches everything    ^ before (default) | inside | after
//   axis="cp x dp"                           quotes where there are spaces
//   do=   throw | hang:500ms | slow:2ms      before, inside (peers have arrived, data has not moved) or after the call
//         exit                               before or after: the rank's function ends without a word, as if it had returned
//         kill | segv                        the process ends by SIGKILL or SIGSEGV; where ranks are threads, all of them with it
//         oom | oom:5                        the next allocation of this rank's thread fails, or the fifth from here (core/memory.hpp)
//         bitflip:payload | nan              one bit, or one number, of what is sent (before) or received (after); nan: of floating types
//         count:+1 | count:-1 | dtype        before: the call is made with other counts or another type, on memory of its own
//   chance=0.01 seed=7                       at one in a hundred of the calls that match, always the same ones for the same seed
//   seq counts the collective calls of a communicator from 0 (a window's close aside); sends and recvs have numbers of their own.
#include <moefold/comm/signature.hpp>
#include <moefold/core/rng.hpp>

#include <charconv>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace moefold {

struct fault {
  enum class phase_t : std::uint8_t { before, inside, after };
  enum class action_t : std::uint8_t { raise, wait, exit, kill, segv, oom, bitflip, nan, count, dtype };

  std::optional<int> rank;  // world rank
  comm_label axis;          // label of the communicator; empty: any
  std::optional<operation> op;
  std::optional<std::uint64_t> seq;
  double chance = 1;       // that a call which matches is hit
  std::uint64_t seed = 0;  // decides which ones
  phase_t phase = phase_t::before;
  action_t action = action_t::raise;
  std::chrono::milliseconds time{0};  // of wait
  int change = 0;                     // of count, elements
  std::uint64_t nth = 1;              // of oom: which allocation from here

  bool matches(int r, const comm_label& label, operation o, std::uint64_t s) const {
    return (!rank || *rank == r) && (axis.empty() || axis == label) && (!op || *op == o) && (!seq || *seq == s) &&
           (chance >= 1 || drawn(r, label, o, s) < chance);
  }
  bool operator==(const fault&) const = default;

 private:
  double drawn(int r, const comm_label& label, operation o, std::uint64_t s) const {
    const std::uint64_t place = (std::uint64_t(std::uint32_t(r)) << 8 | std::uint64_t(o)) * 0x9E3779B97F4A7C15u;
    return random_stream(seed, hash_of(label.view()) ^ place).uniform(s);
  }
};

namespace detail {

template <class T>
T number(std::string_view text, std::string_view line) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  T value{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  require<config_error>(failure == std::errc{} && end == text.data() + text.size(), "moefold: fault plan: \"", text,
                        "\" is no number that fits, in \"", line, "\"");
  return value;
}

/// The key=value words of a line; a value in quotes may hold spaces.
class plan_words {
 public:
  explicit plan_words(std::string_view line) : rest_(line) {}
  std::string_view word, key, value;

  bool next() {
    const std::size_t begin = rest_.find_first_not_of(blank);
    if (begin == rest_.npos) return false;
    rest_.remove_prefix(begin);
    const std::size_t equals = rest_.find('='), space = rest_.find_first_of(blank);
    const bool quoted = equals < space && equals + 1 < rest_.size() && rest_[equals + 1] == '"';
    std::size_t end = space;
    if (quoted) {
      const std::size_t close = rest_.find('"', equals + 2);
      end = close == rest_.npos ? close : close + 1;
    }
    word = rest_.substr(0, end);
    rest_ = end < rest_.size() ? rest_.substr(end) : std::string_view{};
    key = word.substr(0, equals);
    value = equals < word.size() ? word.substr(equals + 1) : std::string_view{};
    if (quoted && value.size() >= 2 && value.back() == '"') value = value.substr(1, value.size() - 2);
    return true;
  }

 private:
  static constexpr const char* blank = " \t\r";
  std::string_view rest_;
};

/// f(line) for each line of a text that holds something; what follows # is skipped.
template <class F>
void each_plan_line(std::string_view text, F&& f) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == text.npos ? std::string_view{} : text.substr(end + 1);
    line = line.substr(0, line.find('#'));
    if (line.find_first_not_of(" \t\r") != line.npos) f(line);
  }
}

inline void parse_action(fault& f, std::string_view text, std::string_view line) {
  using enum fault::action_t;
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  std::string_view argument = colon == text.npos ? std::string_view{} : text.substr(colon + 1);
  const bool bare = colon == text.npos;
  if (name == "throw" && bare) {
    f.action = raise;
  } else if ((name == "hang" || name == "slow") && !argument.empty()) {
    if (argument.ends_with("ms")) argument.remove_suffix(2);
    f.action = wait, f.time = std::chrono::milliseconds(number<std::uint32_t>(argument, line));
  } else if (name == "exit" && bare) {
    f.action = fault::action_t::exit;
  } else if (name == "kill" && bare) {
    f.action = kill;
  } else if (name == "segv" && bare) {
    f.action = segv;
  } else if (name == "oom" && (bare || !argument.empty())) {
    f.action = oom, f.nth = bare ? 1 : number<std::uint64_t>(argument, line);
    require<config_error>(f.nth > 0, "moefold: fault plan: allocations are counted from 1, not as in \"", line, "\"");
  } else if (name == "bitflip" && argument == "payload") {
    f.action = bitflip;
  } else if (name == "nan" && bare) {
    f.action = nan;
  } else if (name == "count" && !argument.empty()) {
    f.action = count, f.change = number<int>(argument, line);
  } else if (name == "dtype" && bare) {
    f.action = fault::action_t::dtype;
  } else {
    throw config_error(sentence("moefold: fault plan: do=", text,
                                " is not one of throw, hang:<ms>, slow:<ms>, exit, kill, segv, oom, oom:<n>, bitflip:payload, nan, "
                                "count:+1, dtype, in \"",
                                line, "\""));
  }
}

inline comm_label parse_axis(std::string_view text, std::string_view line) {
  for (const char c : text)
    require<config_error>(c >= ' ' && c != '"' && c != 127,
                          "moefold: fault plan: an axis has a name such as ep or \"cp x dp\", not as in \"", line, "\"");
  return text;
}

inline operation parse_operation(std::string_view text, std::string_view line) {
  for (std::size_t op = 0; op < operations; ++op)
    if (text == name_of(operation(op))) return operation(op);
  throw config_error(sentence("moefold: fault plan: op=", text, " is no operation, in \"", line, "\"; use names such as all_to_all_v"));
}

inline fault parse_fault(std::string_view line) {
  fault f;
  bool acts = false;
  for (plan_words w(line); w.next();) {
    if (w.key == "rank")
      f.rank = number<int>(w.value, line);
    else if (w.key == "axis")
      f.axis = parse_axis(w.value, line);
    else if (w.key == "op")
      f.op = parse_operation(w.value, line);
    else if (w.key == "seq")
      f.seq = number<std::uint64_t>(w.value, line);
    else if (w.key == "chance")
      f.chance = number<double>(w.value, line);
    else if (w.key == "seed")
      f.seed = number<std::uint64_t>(w.value, line);
    else if (w.key == "phase" && w.value == "before")
      f.phase = fault::phase_t::before;
    else if (w.key == "phase" && w.value == "inside")
      f.phase = fault::phase_t::inside;
    else if (w.key == "phase" && w.value == "after")
      f.phase = fault::phase_t::after;
    else if (w.key == "do")
      parse_action(f, w.value, line), acts = true;
    else
      throw config_error(sentence("moefold: fault plan: \"", w.word,
                                  "\" is none of rank=, axis=, op=, seq=, chance=, seed=, phase=before|inside|after, do=, in \"", line,
                                  "\""));
  }
  using enum fault::action_t;
  require<config_error>(acts, "moefold: fault plan: no do= in \"", line, "\"; say what is to happen, such as do=throw");
  require<config_error>(f.chance > 0 && f.chance <= 1, "moefold: fault plan: a chance is above 0 and at most 1, not as in \"", line, "\"");
  const bool lies = f.action == count || f.action == fault::action_t::dtype, changes = f.action == bitflip || f.action == nan;
  require<config_error>(f.phase == fault::phase_t::before || (!lies && !(changes && f.phase == fault::phase_t::inside)),
                        "moefold: fault plan: a rank lies before a call (bitflip and nan also after), not as in \"", line, "\"");
  require<config_error>(f.action != fault::action_t::exit || f.phase != fault::phase_t::inside,
                        "moefold: fault plan: a rank's function ends before or after a call, not as in \"", line, "\"");
  return f;
}

inline std::string quoted(const comm_label& label) {
  const std::string text(label.view());
  return text.find_first_of(" \t") == text.npos ? text : '"' + text + '"';
}

}  // namespace detail

/// One fault per line; empty lines and what follows # are skipped. Throws config_error that quotes the line.
inline std::vector<fault> parse_faults(std::string_view text) {
  std::vector<fault> plan;
  detail::each_plan_line(text, [&](std::string_view line) { plan.push_back(detail::parse_fault(line)); });
  return plan;
}

/// The line that parse_faults reads as this fault.
inline std::string describe(const fault& f) {
  constexpr const char* phases[] = {"", "phase=inside ", "phase=after "};
  constexpr const char* actions[] = {"throw", "hang:", "exit", "kill", "segv", "oom:", "bitflip:payload", "nan", "count:", "dtype"};
  std::string text;
  if (f.rank) text += sentence("rank=", *f.rank, " ");
  if (!f.axis.empty()) text += sentence("axis=", detail::quoted(f.axis), " ");
  if (f.op) text += sentence("op=", name_of(*f.op), " ");
  if (f.seq) text += sentence("seq=", *f.seq, " ");
  if (f.chance < 1) text += sentence("chance=", f.chance, " seed=", f.seed, " ");
  text += sentence(phases[std::size_t(f.phase)], "do=", actions[std::size_t(f.action)]);
  if (f.action == fault::action_t::wait) text += sentence(f.time.count(), "ms");
  if (f.action == fault::action_t::oom) text += sentence(f.nth);
  if (f.action == fault::action_t::count) text += sentence(f.change > 0 ? "+" : "", f.change);
  return text;
}

}  // namespace moefold
