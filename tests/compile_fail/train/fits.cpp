// clang-format off
#include <moefold/schedule/gpipe.hpp>
#include <moefold/train/fits.hpp>
using namespace moefold;

struct large : run_defaults {
  static constexpr model_shape model{.layers = 8, .hidden = 8192, .heads = 64, .kv_heads = 8, .head_dim = 128, .ffn = 16384};
  using fold = folding<mesh<tp<2>, dp<4>>, mesh<ep<8>>>;
};
struct open : run_defaults {
  using fold = folding<mesh<tp<2>, dp<dyn>>, mesh<ep<4>, edp<dyn>>>;
};
struct other : run_defaults {
  using fold = folding<mesh<dp<8>>, mesh<ep<8>>>;
  using schedule = gpipe;
};

// fails TOO_LARGE: the run needs more memory than the GPU has: raise tp, ep or pp, recompute more
#if defined(TOO_LARGE)
static_assert(fits<large, laptop_core>);
// fails TOO_LARGE_IN_NUMBERS: check_memory<[0-9]+(l|ll|L|LL)?, 2147483648(l|ll|L|LL)?>
#elif defined(TOO_LARGE_IN_NUMBERS)
static_assert(fits<large, laptop_core>);
// fails WORLD: the fold has a dyn extent, so its memory depends on the world: name it
#elif defined(WORLD)
static_assert(fits<open, h100_80gb>);
// fails SCHEDULE: the planner knows the memory of 1F1B, interleaved and zero-bubble schedules
#elif defined(SCHEDULE)
static_assert(fits<other, h100_80gb>);
#else
static_assert(fits<large, h100_80gb> && fits<open, laptop_core, 8>);  // the control: this one compiles
#endif
