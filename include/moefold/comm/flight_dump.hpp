#pragma once
// The flight recorder's rings as files, one per rank, written by whoever notices a failure: no rank has to make a call for it. A file is a plain text table,
// so it can be read with the eyes; comm/flight_reader.hpp reads the files of all ranks together and says where they part.
//
//   MOEFOLD_FLIGHT_DIR=runs/flight     a world that fails writes   runs/flight/moefold-flight-<host>-<pid>-<world>-failure-rank-<rank>.txt
//   not set                            a failure writes nothing
// The words of the failure end with the place. On SIGUSR1: comm/flight_signal.hpp.
#include <moefold/comm/flight_recorder.hpp>

#include <algorithm>
#include <cstdio>
#include <string>

#if __has_include(<unistd.h>)
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace moefold {

namespace detail {

inline std::string host_name() {
  char name[256] = "localhost";
#if __has_include(<unistd.h>)
  if (gethostname(name, sizeof name - 1) != 0) return "localhost";
#endif
  std::string text = name;
  for (char& c : text)
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.')) c = '_';
  return text.empty() ? "localhost" : text;
}
inline long process_number() {
#if __has_include(<unistd.h>)
  return long(getpid());
#else
  return 0;
#endif
}
/// On one line, without control characters.
inline std::string one_line(std::string text) {
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ' || c == 127) c = ' ';
  return text;
}

}  // namespace detail

/// Where a failure's dump goes; empty: nowhere.
inline std::string flight_folder() {
  const char* const named = std::getenv("MOEFOLD_FLIGHT_DIR");
  return named != nullptr ? named : "";
}

/// What the file of one rank holds. `reason` is why it is written, `culprit` the world rank whose failure that is, -1: nobody's.
inline std::string flight_text(const flight_recorder& recorder, int rank, std::string_view reason, int culprit = -1) {
  const auto now = std::chrono::steady_clock::now();
  const auto wall = std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch()).count();
  std::string text = sentence("moefold flight 1\nworld ", recorder.world(), "\nrank ", rank, "\nrecorder ", recorder.number(), "\nhost ",
                              detail::host_name(), "\npid ", detail::process_number(), "\nclock ", flight_ring::nanoseconds(now), " ", wall,
                              "\nculprit ", culprit, "\nreason ", detail::one_line(std::string(reason)), "\n");
  const flight_labels& labels = recorder.labels();
  for (std::uint32_t i = 0; i < labels.size(); ++i)
    text += sentence("label ", i, " ", detail::one_line(std::string(labels[i].view())), "\n");
  for (int lane = 0; lane < recorder.lanes(); ++lane) text += sentence("calls ", lane, " ", recorder.ring(rank, lane).calls(), "\n");
  text += "# lane call group label size rank operation seq type count reduction root memory state start end\n";
  for (int lane = 0; lane < recorder.lanes(); ++lane)
    recorder.ring(rank, lane).for_each([&](const flight_entry& e) {
      char line[400];
      std::snprintf(line, sizeof line, "%d %llu %llx %u %u %u %s %llu %s %llu %s %d %s %s %lld %lld\n", lane,
                    static_cast<unsigned long long>(e.number), static_cast<unsigned long long>(e.group.id), e.group.label, e.group.size,
                    e.group.rank, name_of(e.what.op), static_cast<unsigned long long>(e.what.seq), name_of(e.what.type),
                    static_cast<unsigned long long>(e.what.count), *e.what.reduction ? e.what.reduction : "-", e.what.root,
                    e.what.device ? "device" : "host", name_of(e.state), static_cast<long long>(e.start), static_cast<long long>(e.end));
      text += line;
    });
  return text + "end\n";
}

/// The name of a rank's file; `rank` "*" for all of them.
inline std::string flight_file(const std::string& folder, const flight_recorder& recorder, std::string_view occasion,
                               std::string_view rank) {
  return sentence(folder, folder.empty() || folder.back() == '/' ? "" : "/", "moefold-flight-", detail::host_name(), "-",
                  detail::process_number(), "-", recorder.number(), "-", occasion, "-rank-", rank, ".txt");
}

/// Writes the files of all ranks that live here, and says so, or why not, on standard error. Never throws: it is called where something has failed already.
inline bool dump_flight(const flight_recorder& recorder, const std::string& folder, std::string_view occasion, std::string_view reason,
                        int culprit = -1) noexcept {
  try {
#if __has_include(<unistd.h>)
    (void)mkdir(folder.c_str(), 0777);  // perhaps it is there
#endif
    for (int r = recorder.first(); r < recorder.first() + recorder.here(); ++r) {
      const std::string text = flight_text(recorder, r, reason, culprit), file = flight_file(folder, recorder, occasion, std::to_string(r));
      std::FILE* const to = std::fopen(file.c_str(), "w");
      const bool written = to != nullptr && std::fwrite(text.data(), 1, text.size(), to) == text.size();
      if (to == nullptr || std::fclose(to) != 0 || !written) {
        std::fprintf(stderr,
                     "moefold: could not write the flight recorder to %s; let MOEFOLD_FLIGHT_DIR name a folder that can be written\n",
                     file.c_str());
        return false;
      }
    }
    std::fprintf(stderr, "moefold: the last calls of %d of %d ranks are in %s\n", recorder.here(), recorder.world(),
                 flight_file(folder, recorder, occasion, "*").c_str());
    return true;
  } catch (...) {
    return false;
  }
}

/// What the words of a failure end with: where its dump lies. Empty where none is written.
inline std::string failure_dump_place(const flight_recorder* recorder) {
  const std::string folder = recorder != nullptr ? flight_folder() : "";
  if (folder.empty()) return "";
  const bool all_here = recorder->here() == recorder->world();  // other processes have other names
  return sentence("; the last calls of the ranks: ",
                  all_here ? flight_file(folder, *recorder, "failure", "*") : folder + "/moefold-flight-*-failure-rank-*.txt");
}
/// Writes it. By whoever has failed first, once per world.
inline void dump_on_failure(const flight_recorder* recorder, std::string_view reason, int culprit) noexcept {
  if (recorder == nullptr || std::getenv("MOEFOLD_FLIGHT_DIR") == nullptr || *std::getenv("MOEFOLD_FLIGHT_DIR") == '\0') return;
  dump_flight(*recorder, std::getenv("MOEFOLD_FLIGHT_DIR"), "failure", reason, culprit);
}

}  // namespace moefold
