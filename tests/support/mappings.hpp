#pragma once
// The foldings that every claim about mappings is tested on: each axis alone, folded over others, odd orders and uneven stages. Values, so that
// a suite compiles its model once.
#include <moefold/mesh/extents.hpp>
#include <moefold/mesh/folding.hpp>

#include <string>
#include <vector>

namespace moefold::testing {

struct mapping {
  std::string name;
  folding_extents fold;
};

inline std::vector<mapping> mappings() {
  using enum axis_id;
  const auto make = [](std::string name, extents attention, extents moe) { return mapping{std::move(name), make_folding(attention, moe)}; };
  using dyn_dp = folding<mesh<moefold::tp<2>, moefold::dp<dyn>>, mesh<moefold::ep<4>, moefold::edp<dyn>>>;
  return {
      make("one rank", {}, {}),
      make("tp alone", {{tp, 2}}, {{edp, 2}}),
      make("cp alone", {{cp, 2}}, {{edp, 2}}),
      make("dp alone", {{dp, 2}}, {{edp, 2}}),
      make("pp alone, 5 layers on 2 stages", {{pp, 2}}, {{pp, 2}}),
      make("ep alone, over dp", {{dp, 2}}, {{ep, 2}}),
      make("etp alone, with tp 1", {{dp, 2}}, {{etp, 2}}),
      make("etp over tp", {{tp, 2}}, {{etp, 2}}),
      make("ep over cp", {{cp, 2}, {dp, 2}}, {{ep, 2}, {edp, 2}}),
      make("ep over tp x cp", {{tp, 2}, {cp, 2}}, {{ep, 4}}),
      make("etp 2 under tp 4", {{tp, 4}}, {{etp, 2}, {ep, 2}}),
      make("pp 4, uneven", {{pp, 4}}, {{pp, 4}}),
      make("one folding: tp 2 cp 2 pp 2, ep 4", {{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}}),
      make("ep 8 over tp x cp x dp", {{tp, 2}, {cp, 2}, {dp, 2}}, {{ep, 8}}),
      make("cp 4, etp 2 ep 4", {{cp, 4}, {dp, 2}}, {{etp, 2}, {ep, 4}}),
      make("tp 2 dp 2 pp 2, etp 2 edp 2", {{tp, 2}, {dp, 2}, {pp, 2}}, {{etp, 2}, {edp, 2}, {pp, 2}}),
      make("pipeline fastest", {{pp, 2}, {tp, 2}, {cp, 2}}, {{pp, 2}, {ep, 2}, {etp, 2}}),
      make("data slowest, as in the paper's listing", {{tp, 2}, {cp, 2}, {pp, 2}, {dp, 2}}, {{etp, 2}, {ep, 2}, {pp, 2}, {edp, 2}}),
      make("tp 2 cp 2 dp 2 pp 2, ep 8", {{tp, 2}, {cp, 2}, {dp, 2}, {pp, 2}}, {{ep, 8}, {pp, 2}}),
      make("pp 4 and every other axis", {{tp, 2}, {cp, 2}, {pp, 4}}, {{etp, 2}, {ep, 2}, {pp, 4}}),
      {"dp and edp dyn, filled in from 8 ranks", resolve<dyn_dp>(8)},
  };
}

}  // namespace moefold::testing
