#pragma once
// The runs that were built into the program. Each run's translation units add themselves before main starts: one for ranks as threads on the host, one for ranks
// as processes there, and, where the program is built with CUDA, one for devices.
#include <moefold/comm/bootstrap.hpp>
#include <moefold/train/program.hpp>

#include <map>

namespace moefold {
class process_ranks;
}

struct run_entry {
  using train_function = int(const moefold::program_options& options, moefold::log_sink& log);
  std::string summary;  // one line for --list
  train_function* on_host = nullptr;
  train_function* on_cuda = nullptr;  // null: the program was built without CUDA
  int (*as_host_process)(const moefold::program_options& options, moefold::log_sink& log, const moefold::process_ranks& ranks) = nullptr;
  int (*as_process)(const moefold::program_options& options, moefold::log_sink& log,
                    const moefold::launch_info& me) = nullptr;  // on a device, over NCCL; null: built without NCCL
};

inline std::map<std::string, run_entry>& runs() {
  static std::map<std::string, run_entry> all;
  return all;
}
