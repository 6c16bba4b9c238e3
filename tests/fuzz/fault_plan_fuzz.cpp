// Fault plans and call sites: whatever a line says, what is read of it is written as a line that reads the same.
#include <moefold/comm/call_sites.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  return {"rank=3 axis=ep op=all_to_all_v seq=17 phase=inside do=throw\ndo=slow:2ms # everywhere\n",
          "axis=\"cp x dp\" phase=after do=nan\nop=send do=count:-3\nchance=0.01 seed=7 do=oom:5\ndo=kill\ndo=exit",
          "rank=1 axis=\"cp x dp\" op=all_reduce seq=0 type=fp32 count=6 reduction=max root=-1 bytes=24\n"};
}

void fuzz_one(std::span<const std::byte> input) {
  try {
    for (const fault& f : parse_faults(text_of(input))) {
      const auto again = parse_faults(describe(f));
      holds(again.size() == 1 && again[0].action == f.action && again[0].axis == f.axis && again[0].seq == f.seq && again[0].op == f.op);
    }
  } catch (const config_error&) {
  }
  try {
    for (const call_site& s : parse_sites(text_of(input))) holds(parse_sites(describe(s)) == site_record{s});
  } catch (const config_error&) {
  }
}
