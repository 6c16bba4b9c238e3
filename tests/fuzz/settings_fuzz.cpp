// What comes from a command line or an environment: launchers' variables, addresses, and the names of formats, rates and policies. Lines NAME=value.
#include <moefold/comm/bootstrap.hpp>
#include <moefold/train/options.hpp>
#include <moefold/train/token_file.hpp>

#include "fuzz.hpp"

#include <map>

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  return {"RANK=3\nWORLD_SIZE=8\nLOCAL_RANK=3\nLOCAL_WORLD_SIZE=8\nMASTER_ADDR=::1\nMASTER_PORT=29500\n",
          "OMPI_COMM_WORLD_RANK=1\nOMPI_COMM_WORLD_SIZE=2\nPMI_RANK=1\nPMI_SIZE=2",
          "SLURM_PROCID=5\nSLURM_STEP_NUM_TASKS=6\nSLURM_LOCALID=1\nSLURM_JOB_ID=77\nSLURM_STEP_NODELIST=n[01-03,7],m9\n",
          "MOEFOLD_RANK=0\nMOEFOLD_WORLD_SIZE=2\nMOEFOLD_RENDEZVOUS=[fe80::1]:5\n", "NCCL_COMM_ID=host:70000\nRANK=0\nWORLD_SIZE=1"};
}

void fuzz_one(std::span<const std::byte> input) {
  std::map<std::string, std::string, std::less<>> set;
  std::string_view rest = text_of(input);
  while (!rest.empty()) {
    const std::string_view line = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(rest.size(), line.size() + 1));
    const std::size_t equals = std::min(line.find('='), line.size());
    const std::string name(line.substr(0, equals)), value(line.substr(std::min(line.size(), equals + 1)));
    set[name] = value;
    const auto refused = [](auto&& parse) {
      try {
        parse();
      } catch (const config_error&) {
      }
    };
    refused([&] { holds(name_of(data_format_of(value)) == value); });
    refused([&] { holds(name_of(rate_shape_of(value)) == value); });
    refused([&] { holds(name_of(bad_step_of(value)) == value); });
    refused([&] {
      const address to = parse_address("it", value);
      holds(to.port >= 0 && to.port <= 65535 && !to.empty());
      holds(parse_address("it", to.text()) == to);
    });
  }
  try {
    const launch_info me = detect([&](const char* name) {
      const auto at = set.find(name);
      return at == set.end() ? nullptr : at->second.c_str();
    });
    holds(me.rank >= 0 && me.rank < me.size && me.local_rank >= 0 && me.local_size >= 0);
  } catch (const config_error&) {
  }
}
