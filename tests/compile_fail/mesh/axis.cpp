// clang-format off
#include <moefold/mesh/axis.hpp>
using namespace moefold;

// fails NO_RANKS: an axis has at least 1 rank. leave the axis out or write 1
#if defined(NO_RANKS)
using my_axis = tp<0>;
// fails NEGATIVE: an axis has at least 1 rank. leave the axis out or write 1
#elif defined(NEGATIVE)
using my_axis = dp<-2>;
// fails NUMBERS: check_axis_ranks<0(l|ll|L|LL)?, 1(l|ll|L|LL)?>
#elif defined(NUMBERS)
using my_axis = ep<0>;
#else
using my_axis = dp<dyn>;                                          // the control: this one compiles
#endif
static_assert(my_axis::extent != 7);
