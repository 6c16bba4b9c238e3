// A cluster as a file: what comes out can be planned for, and comes back the same when it is written and read again.
#include <moefold/train/cluster_file.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  cluster_spec measured = laptop;
  measured.inside.curve = curve_through(std::array{1024.0, 65536.0, 1e6}, std::array{1e-5, 1e-5, 1e-4});
  std::vector<std::string> seeds;
  for (const cluster_spec& c : {dgx_h100, gb200_nvl72, measured}) seeds.push_back(write_cluster(c, "a note"));
  return seeds;
}

void fuzz_one(std::span<const std::byte> input) {
  const stored_cluster c = read_cluster(text_of(input), "input");
  const std::string text = write_cluster(c.spec(), c.note());
  holds(c.spec().gpus_per_node >= 1 && c.spec().gpu.bf16_flops > 0);
  for (const link_spec& link : {c.spec().inside, c.spec().between}) holds(link.transfer(1e6) <= link.transfer(2e6));
  const stored_cluster again = read_cluster(text, "again");
  holds(write_cluster(again.spec(), again.note()) == text);
}
