#pragma once
// The runs that were built into the program. Each run's translation unit adds itself before main starts.
#include <moefold/train/program.hpp>

#include <map>

struct run_entry {
  std::string summary;  // one line for --list
  int (*train)(const moefold::program_options& options, moefold::log_sink& log);
};

inline std::map<std::string, run_entry>& runs() {
  static std::map<std::string, run_entry> all;
  return all;
}
