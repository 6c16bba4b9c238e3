// clang-format off
#include <moefold/comm/self.hpp>
#include <moefold/moe/moe.hpp>
using namespace moefold;

struct policy : moe_defaults {
  static constexpr model_shape model{.experts = 8, .ffn = 96};
};
// fails EXPERTS: the experts must be a multiple of EP; choose an EP that divides them
#if defined(EXPERTS)
using where = mesh<ep<3>>;
// fails FFN: check_ffn<96(l|ll|L|LL)?, 5(l|ll|L|LL)?>
#elif defined(FFN)
using where = mesh<etp<5>, ep<2>>;
#else
using where = mesh<etp<2>, ep<4>>;                                // the control: this one compiles
#endif
template class moefold::moe<policy, where, self_comm>;
