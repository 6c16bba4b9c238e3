#pragma once
// Reads the files that comm/flight_dump.hpp writes. They may have been cut short by the end of their process, and may come from anywhere: what is no such file
// is a format_error that names the file and the byte, and nothing is believed unchecked. Time and memory are linear in the size of the file.
//
//   "moefold flight 1" ... "0 5226 4 1 8 3 all_reduce 17 fp32 4096 sum -1 host inside 123456 0" ...  ->  flight_dump{world, rank, ..., calls}
#include <moefold/comm/flight_recorder.hpp>
#include <moefold/core/file_error.hpp>

#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace moefold {

struct flight_call : flight_entry {
  int lane = 0;
  comm_label label;
};

/// One rank's file.
struct flight_dump {
  std::string file, host, reason;
  int world = 0, rank = 0;
  int culprit = -1;  // world rank whose failure it was written for
  int recorder = 0;  // which world of its process, from 0
  long pid = 0;
  std::int64_t steady = 0, wall = 0;  // ns of both clocks when it was written: wall - steady maps a call's times to the time of day
  bool complete = false;              // false: cut short
  std::vector<std::uint64_t> made;    // [lanes], calls made; only the last ones are here
  std::vector<flight_call> calls;     // by lane, then in order

  /// The last call of a lane; null when it made none.
  const flight_call* last(int lane) const {
    const flight_call* found = nullptr;
    for (const flight_call& c : calls)
      if (c.lane == lane) found = &c;
    return found;
  }
};

namespace detail {

/// A line of words, and where it lies in its file.
class flight_words {
 public:
  flight_words(std::string_view line, std::uint64_t at, const std::string& file) : rest_(line), at_(at), file_(file) {}

  std::string_view word() {
    const std::size_t space = rest_.find(' ');
    const std::string_view found = rest_.substr(0, space);
    require_file(!found.empty(), file_, at_, "the line has too few words; it is no line of a flight recorder");
    rest_ = space == rest_.npos ? std::string_view{} : rest_.substr(space + 1);
    return found;
  }
  std::string_view rest() { return std::exchange(rest_, {}); }
  template <class T>
  T number(T least, T most, int base = 10) {
    const std::string_view text = word();
    std::uint64_t value = 0;
    const bool negative = text.starts_with('-');
    bool good = text.size() > std::size_t(negative);
    for (const char c : text.substr(negative)) {
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : base;
      good = good && digit < base && value <= (std::numeric_limits<std::uint64_t>::max() - std::uint64_t(digit)) / std::uint64_t(base);
      if (good) value = value * std::uint64_t(base) + std::uint64_t(digit);
    }
    if (negative)
      good = good && least < 0 && value == 1;  // -1: none
    else
      good = good && value >= (least > 0 ? std::uint64_t(least) : 0) && value <= std::uint64_t(most);
    require_file(good, file_, at_, "\"", shown(text), "\" is no number from ", least, " to ", most);
    return negative ? T(-1) : T(value);
  }
  /// The place of the word among `names` of `count` values.
  template <class Enum>
  Enum name(std::size_t count) {
    const std::string_view text = word();
    for (std::size_t i = 0; i < count; ++i)
      if (text == name_of(Enum(i))) return Enum(i);
    fail("\"", shown(text), "\" is not known here; it may come from another version");
  }
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    throw format_error(sentence("moefold: '", file_, "' at byte ", at_, ": ", parts...), file_, at_);
  }
  void end() const { require_file(rest_.empty(), file_, at_, "the line has too many words"); }

  /// Without characters that a terminal obeys.
  static std::string shown(std::string_view text, std::size_t most = 40) {
    std::string out(text.substr(0, most));
    for (char& c : out)
      if (static_cast<unsigned char>(c) < ' ' || c == 127) c = '?';
    return out;
  }

 private:
  std::string_view rest_;
  std::uint64_t at_;
  const std::string& file_;
};

inline flight_call parse_flight_call(flight_words line, const flight_dump& dump, const std::vector<comm_label>& labels) {
  constexpr std::int64_t longest = std::numeric_limits<std::int64_t>::max();
  constexpr std::uint64_t any = std::numeric_limits<std::uint64_t>::max();
  flight_call c;
  c.lane = line.number(0, int(dump.made.size()) - 1);
  c.number = line.number<std::uint64_t>(0, any);
  c.group.id = line.number<std::uint64_t>(0, any, 16);
  c.group.label = line.number<std::uint32_t>(0, flight_labels::most);
  c.label = c.group.label < labels.size() ? labels[c.group.label] : comm_label("...");
  c.group.size = line.number<std::uint32_t>(1, std::uint32_t(dump.world));
  c.group.rank = line.number<std::uint32_t>(0, c.group.size - 1);
  c.what.op = line.name<operation>(operations);
  c.what.seq = line.number<std::uint64_t>(0, any);
  c.what.type = line.name<dtype>(8);
  c.what.count = line.number<std::uint64_t>(0, any);
  const std::string_view reduction = line.word();
  c.what.reduction = nullptr;
  for (const char* known : {"sum", "max", "apart"})
    if (reduction == known) c.what.reduction = known;
  if (reduction == "-") c.what.reduction = "";
  if (c.what.reduction == nullptr) line.fail("\"", flight_words::shown(reduction), "\" is no reduction");
  c.what.root = line.number(-1, int(c.group.size) - 1);
  const std::string_view memory = line.word();
  c.what.device = memory == "device";
  if (!c.what.device && memory != "host") line.fail("\"", flight_words::shown(memory), "\" is neither host nor device");
  c.state = line.name<flight_state>(flight_states);
  c.start = line.number<std::int64_t>(0, longest);
  c.end = line.number<std::int64_t>(0, longest);
  line.end();
  return c;
}

}  // namespace detail

/// `file` is for the errors.
inline flight_dump parse_flight(std::string_view text, const std::string& file) {
  constexpr int most_ranks = 1 << 20;
  constexpr std::int64_t longest = std::numeric_limits<std::int64_t>::max();
  flight_dump dump;
  dump.file = file, dump.rank = -1;
  std::vector<comm_label> labels;
  std::uint64_t at = 0;
  for (bool first = true; at < text.size(); first = false) {
    const std::size_t end = text.find('\n', at);
    if (end == text.npos) break;  // cut short within a line
    const std::string_view all = text.substr(at, end - at);
    detail::flight_words line(all, at, file);
    at = end + 1;
    if (first) {
      require_file(all == "moefold flight 1", file, 0, "no file of a flight recorder, or of another version: it begins with \"",
                   detail::flight_words::shown(all), "\"");
      continue;
    }
    if (all.empty() || all.front() == '#') continue;
    if (all == "end") {
      dump.complete = true;
      break;
    }
    if (all.front() >= '0' && all.front() <= '9') {
      if (dump.made.empty() || dump.world == 0) line.fail("a call comes before the number of calls, or of ranks");
      dump.calls.push_back(detail::parse_flight_call(line, dump, labels));
      continue;
    }
    const std::string_view key = line.word();
    if (key == "world")
      dump.world = line.number(1, most_ranks);
    else if (key == "rank")
      dump.rank = line.number(0, most_ranks);
    else if (key == "culprit")
      dump.culprit = line.number(-1, most_ranks);
    else if (key == "recorder")
      dump.recorder = line.number(0, std::numeric_limits<int>::max());
    else if (key == "host")
      dump.host = detail::flight_words::shown(line.rest());
    else if (key == "pid")
      dump.pid = line.number<long>(0, std::numeric_limits<long>::max());
    else if (key == "clock")
      dump.steady = line.number<std::int64_t>(0, longest), dump.wall = line.number<std::int64_t>(0, longest);
    else if (key == "reason")
      dump.reason = detail::flight_words::shown(line.rest(), 4096);
    else if (key == "label") {
      if (line.number<std::uint32_t>(0, flight_labels::most - 1) != labels.size()) line.fail("labels are numbered 0, 1, 2, ...");
      labels.emplace_back(detail::flight_words::shown(line.rest()));
    } else if (key == "calls") {
      if (line.number(0, 7) != int(dump.made.size())) line.fail("lanes are numbered 0, 1, 2, ...");
      dump.made.push_back(line.number<std::uint64_t>(0, std::uint64_t(longest)));
    } else {
      line.fail("\"", detail::flight_words::shown(key),
                "\" is none of world, rank, recorder, culprit, host, pid, clock, reason, label, calls, end");
    }
    line.end();
  }
  require_file(dump.rank >= 0 && dump.rank < dump.world, file, at, "the file is empty or cut short before its first call, or names rank ",
               dump.rank, " of ", dump.world);
  for (const flight_call& c : dump.calls)
    require_file(int(c.group.size) <= dump.world, file, 0, "a communicator has ", c.group.size, " ranks, the world ", dump.world);
  return dump;
}

}  // namespace moefold
