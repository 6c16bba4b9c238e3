// clang-format off
#include <moefold/mesh/folding.hpp>
using namespace moefold;

#if defined(STRANGER_IN_ATTENTION)
using attention = mesh<tp<2>, ep<4>, pp<2>>;
#elif defined(NO_MULTIPLE)
using attention = mesh<tp<2>, cp<2>, dp<3>, pp<2>>;               // 24 ranks
#elif defined(DYN_OUTSIDE_DIFFERS)
using attention = mesh<tp<2>, dp<dyn>, pp<2>, cp<2>>;             // 2 ranks outside pp
#else
using attention = mesh<tp<2>, cp<2>, dp<2>, pp<2>>;               // 16 ranks, 8 inside pp
#endif

// fails RANKS_DIFFER: TP\*CP\*DP\*PP must equal ETP\*EP\*EDP\*PP
#if defined(RANKS_DIFFER)
using moe = mesh<ep<4>, pp<2>>;                                   // 8 ranks
// fails RANKS_IN_NUMBERS: check_ranks<16(l|ll|L|LL)?, 8(l|ll|L|LL)?>
#elif defined(RANKS_IN_NUMBERS)
using moe = mesh<ep<4>, pp<2>>;
// fails STAGES_DIFFER: give both the same pp
#elif defined(STAGES_DIFFER)
using moe = mesh<ep<4>, pp<4>>;
// fails PIPELINE_DIFFERS: both meshes must have the same pipeline groups, member for member
#elif defined(PIPELINE_DIFFERS)
using moe = mesh<ep<4>, pp<2>, edp<2>>;                           // 4 ranks inside pp
// fails PIPELINE_DIFFERS_DYN: check_pipeline<8(l|ll|L|LL)?, 4(l|ll|L|LL)?>
#elif defined(PIPELINE_DIFFERS_DYN)
using moe = mesh<ep<4>, pp<2>, edp<dyn>>;                         // known whatever the world
// fails DYN_OUTSIDE_DIFFERS: check_pipeline<2(l|ll|L|LL)?, 1(l|ll|L|LL)?>
#elif defined(DYN_OUTSIDE_DIFFERS)
using moe = mesh<ep<4>, edp<dyn>, pp<2>>;                         // 1 rank outside pp
// fails NO_MULTIPLE: start a multiple of that product, or change the extents
#elif defined(NO_MULTIPLE)
using moe = mesh<ep<8>, edp<dyn>, pp<2>>;                         // edp = 24 / 16
// fails STRANGER_IN_ATTENTION: the attention mesh has only the axes tp, cp, dp and pp
#elif defined(STRANGER_IN_ATTENTION)
using moe = mesh<ep<8>, pp<2>>;
// fails STRANGER_IN_MOE: the MoE mesh has only the axes etp, ep, edp and pp
#elif defined(STRANGER_IN_MOE)
using moe = mesh<tp<2>, ep<4>, pp<2>>;
#else
using moe = mesh<ep<8>, pp<2>>;                                   // the control: this one compiles
#endif
template struct moefold::folding<attention, moe>;
