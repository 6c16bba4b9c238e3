// Says how attention and MoE lie on 16 ranks, lets the compiler check it, and asks who talks to whom.
#include <moefold/mesh/describe.hpp>
#include <moefold/mesh/folding.hpp>
#include <moefold/mesh/group.hpp>

#include <cstdio>

using namespace moefold;

using fold = folding<mesh<tp<2>, cp<2>, dp<2>, pp<2>>,     // attention: innermost (fastest) axis first
                     mesh<etp<1>, ep<8>, edp<1>, pp<2>>>;  // MoE: EP 8 folded over TP x CP x DP
static_assert(fold::attention::ranks == 16);

// A wrong mapping does not compile. Try ep<4> above:
//   error: static assertion failed: moefold: TP*CP*DP*PP must equal ETP*EP*EDP*PP; change edp, or write edp<dyn>

int main() {
  std::puts(describe(resolve<fold>()).c_str());

  for (const group& ranks : groups<fold::moe, tag::ep>()) {  // computed by arithmetic: no tables, also for a million ranks
    std::printf("ep group:");
    for (const extent_t rank : ranks) std::printf(" %d", int(rank));
    std::puts("");
  }

  // One extent may be left open and is filled in from the world size at start-up, by the same rules.
  using open = folding<mesh<tp<2>, dp<dyn>>, mesh<ep<4>, edp<dyn>>>;
  std::printf("on 32 ranks dp is %d and edp is %d\n", int(resolve<open>(32).attention.of(axis_id::dp)),
              int(resolve<open>(32).moe.of(axis_id::edp)));
  try {
    resolve<open>(6);
  } catch (const config_error& wrong) {
    std::printf("on 6 ranks: %s\n", wrong.what());
  }
}
