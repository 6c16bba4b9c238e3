// clang-format off
#include <moefold/moe/tokens.hpp>
using namespace moefold;

struct best_effort {};
// fails NOTHING: a capacity is given in percent of the even share, from 1 to 100000
#if defined(NOTHING)
using tokens = capacity<0>;
// fails TOO_MUCH_IN_NUMBERS: check_capacity_percent<100001(l|ll|L|LL)?, 100000(l|ll|L|LL)?>
#elif defined(TOO_MUCH_IN_NUMBERS)
using tokens = capacity<100001>;
// fails TWO_SETS: the options of capacity are sub_sequence or full_sequence, by_probability or by_position, and padded, each at most once
#elif defined(TWO_SETS)
using tokens = capacity<100, sub_sequence, full_sequence>;
// fails TWO_ORDERS: by_probability or by_position, and padded, each at most once
#elif defined(TWO_ORDERS)
using tokens = capacity<100, by_position, padded, by_probability>;
// fails UNKNOWN: the options of capacity are sub_sequence or full_sequence, by_probability or by_position, and padded
#elif defined(UNKNOWN)
using tokens = capacity<100, best_effort>;
// fails UNKNOWN_IN_NUMBERS: check_capacity_options<2(l|ll|L|LL)?, 1(l|ll|L|LL)?>
#elif defined(UNKNOWN_IN_NUMBERS)
using tokens = capacity<100, padded, best_effort>;
// fails TWICE: and padded, each at most once
#elif defined(TWICE)
using tokens = capacity<100, padded, padded>;
#else
using tokens = capacity<100, by_position, padded, full_sequence>; // the control: this one compiles
#endif
static_assert(tokens::rule.drops());
