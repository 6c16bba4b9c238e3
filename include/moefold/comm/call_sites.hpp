#pragma once
// The calls a rank makes, as a list: chaos (comm/chaos.hpp) writes it on a clean run, and tests go through it, so that a new call is covered without a line
// of theirs being changed. A line is a fault's (comm/fault_plan.hpp) but for what is to happen there.
//
//   rank=3 axis=ep op=all_to_all_v seq=17 type=fp32 count=0 reduction=- root=-1 bytes=98304
#include <moefold/comm/fault_plan.hpp>

#include <string>
#include <vector>

namespace moefold {

struct call_site {
  int rank = 0;             // world rank
  comm_label axis;          // label of its communicator
  signature what;           // with its number there
  std::uint64_t bytes = 0;  // of the data this rank gave: its whole input

  bool operator==(const call_site&) const = default;
  /// Matches this call. Communicators with one label share their numbers: all of them are hit.
  fault at(fault::action_t action, fault::phase_t phase = fault::phase_t::before) const {
    fault f;
    f.rank = rank, f.axis = axis, f.op = what.op, f.seq = what.seq, f.action = action, f.phase = phase;
    return f;
  }
};

/// Of one rank, in the order of its calls; written by its thread.
using site_record = std::vector<call_site>;

inline std::string describe(const call_site& s) {
  return sentence("rank=", s.rank, " axis=", detail::quoted(s.axis), " op=", name_of(s.what.op), " seq=", s.what.seq,
                  " type=", name_of(s.what.type), " count=", s.what.count, " reduction=", *s.what.reduction ? s.what.reduction : "-",
                  " root=", s.what.root, " bytes=", s.bytes);
}
inline std::string text_of(std::span<const call_site> sites) {
  std::string text;
  for (const call_site& s : sites) text += describe(s) + "\n";
  return text;
}

namespace detail {

inline call_site parse_site(std::string_view line) {
  call_site s;
  const auto known = [&](bool found, std::string_view word) {
    require<config_error>(found, "moefold: call site: \"", word, "\" is not known, in \"", line, "\"");
  };
  for (plan_words w(line); w.next();) {
    if (w.key == "rank")
      s.rank = number<int>(w.value, line);
    else if (w.key == "axis")
      s.axis = parse_axis(w.value, line);
    else if (w.key == "op")
      s.what.op = parse_operation(w.value, line);
    else if (w.key == "seq")
      s.what.seq = number<std::uint64_t>(w.value, line);
    else if (w.key == "count")
      s.what.count = number<std::uint64_t>(w.value, line);
    else if (w.key == "root")
      s.what.root = number<int>(w.value, line);
    else if (w.key == "bytes")
      s.bytes = number<std::uint64_t>(w.value, line);
    else if (w.key == "type") {
      std::size_t type = 0;
      while (type < 8 && w.value != name_of(dtype(type))) ++type;
      known(type < 8, w.word);
      s.what.type = dtype(type);
    } else if (w.key == "reduction") {
      const char* found = w.value == "-" ? "" : nullptr;
      for (const char* name : {"sum", "max", "apart"})
        if (w.value == name) found = name;
      known(found != nullptr, w.word);
      s.what.reduction = found;
    } else {
      known(false, w.word);
    }
  }
  return s;
}

}  // namespace detail

/// What text_of has written. Throws config_error that quotes the line.
inline site_record parse_sites(std::string_view text) {
  site_record sites;
  detail::each_plan_line(text, [&](std::string_view line) { sites.push_back(detail::parse_site(line)); });
  return sites;
}

}  // namespace moefold
