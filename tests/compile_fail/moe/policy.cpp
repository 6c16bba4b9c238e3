// clang-format off
#include <moefold/moe/policy.hpp>
using namespace moefold;

struct policy : moe_defaults {
// fails COEFFICIENT: coefficients of balance losses are finite and 0 .off. or above
#if defined(COEFFICIENT)
  static constexpr balance_losses balance{.micro_batch = -0.01};
// fails JITTER: jitter lies in .0, 1.; 0.01 is usual, 0 is off
#elif defined(JITTER)
  static constexpr double jitter = 1;
#else
  static constexpr balance_losses balance{.sequence = 0.01};       // the control: this one compiles
  static constexpr double jitter = 0.01;
#endif
};
constexpr moe_facts facts = facts_of<policy>();
