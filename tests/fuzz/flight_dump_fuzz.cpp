// What a flight recorder wrote: whatever a file holds, what is read of it lies within its own world, and can be put beside itself.
#include <moefold/comm/flight_report.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  const std::string head =
      "moefold flight 1\nworld 4\nrank 3\nrecorder 0\nhost n\npid 1\nclock 100 200\nreason r\nlabel 0 world\ncalls 0 9\ncalls 1 1\n";
  return {head + "0 7 1 0 4 3 barrier 0 uint8 0 - -1 host done 1 2\n0 8 1 0 4 3 all_reduce 1 fp32 8 sum -1 host inside 3 0\nend\n",
          head + "0 8 1 0 4 3 recv 1 bf16 8 - 2 device inside 3 0\n1 0 2 0 2 1 split 0 uint8 0 apart -1 host failed 3 4\n",
          head + "0 8 1 0 4 3 reduce 18446744073709551615 int64 8 max 2 host inside 9223372036854775807 0\nend\n",
          "moefold flight 1\nworld 1048576\nrank 1048575\ncalls 0 1\n0 0 1 0 1048576 5 barrier 1 uint8 0 - -1 host inside 1 0\nend\n"};
}

void fuzz_one(std::span<const std::byte> input) {
  const flight_dump dump = parse_flight(text_of(input), "input");
  holds(0 <= dump.rank && dump.rank < dump.world);
  for (const flight_call& c : dump.calls) {
    holds(c.group.rank < c.group.size && c.group.size <= std::uint32_t(dump.world));
    holds(c.lane < int(dump.made.size()) && c.what.root < int(c.group.size));
  }
  flight_dump other = dump;
  other.rank = (dump.rank + 1) % dump.world;
  const flight_report report({dump, other});
  holds(!report.verdict().empty() && report.dumps().size() == (dump.world > 1 ? 2u : 1u));
  holds(!report.table(3, true).empty());
}
