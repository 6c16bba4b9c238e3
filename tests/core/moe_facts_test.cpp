#include <moefold/core/moe_facts.hpp>

#include <doctest/doctest.h>

#include <limits>

using namespace moefold;

namespace {

constexpr double inf = std::numeric_limits<double>::infinity(), not_a_number = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_SUITE("core/moe_facts") {
  TEST_CASE("the default is dropless, without losses, over all-to-all") {
    constexpr moe_facts facts{};
    static_assert((check(facts), true));
    CHECK_FALSE(facts.tokens.drops());
    CHECK_FALSE(facts.balance.any());
    CHECK(facts.dispatch == dispatch_kind::all_to_all);
    CHECK(facts == moe_facts{});
    CHECK_FALSE(facts == moe_facts{.jitter = 0.01});
  }
  TEST_CASE("capacity is the percentage of the even share, rounded up") {
    constexpr token_rule even{100}, more{125}, tiny{1};
    static_assert(even.drops());
    static_assert(even.capacity(8, 2, 8) == 2);
    static_assert(more.capacity(8, 2, 8) == 3);    // 2.5
    static_assert(more.capacity(16, 2, 8) == 5);   // exactly 5
    static_assert(even.capacity(1, 2, 8) == 1);    // 0.25
    static_assert(tiny.capacity(400, 2, 8) == 1);  // exactly 1
    static_assert(tiny.capacity(401, 2, 8) == 2);
    static_assert(more.capacity(0, 2, 8) == 0);
  }
  TEST_CASE("capacity is exact up to 2^31 tokens, k = 256 and 100000 percent") {
    constexpr extent_t billion2 = extent_t(1) << 31;
    static_assert(token_rule{100000}.capacity(billion2, 256, 1) == billion2 * 256 * 1000);
    static_assert(token_rule{100000}.capacity(billion2 - 1, 255, 256) == 2139095039004);  // 2139095039003.90625
    static_assert(token_rule{33}.capacity(billion2, 8, 7) == 809908119);                  // 809908118.67
  }
  TEST_CASE("padded rows are the capacity of the set, and never more than the rank's own tokens") {
    constexpr token_rule rule{.percent = 125, .padded = true};
    static_assert(rule.padded_rows(8, 8, 2, 8) == 3);
    static_assert(rule.padded_rows(8, 32, 2, 8) == 8);  // the set's capacity of 10 is beyond the rank's 8 tokens
    static_assert(rule.padded_rows(2, 8, 2, 8) == 2);
    static_assert(rule.padded_rows(0, 8, 2, 8) == 0);
  }
  TEST_CASE("which losses count sets, load, anything") {
    struct expected {
      balance_losses b;
      bool sets, load, any;
    };
    for (const expected& x :
         {expected{{}, false, false, false}, expected{{.micro_batch = 1}, true, true, true}, expected{{.sequence = 1}, true, true, true},
          expected{{.global = 1}, false, true, true}, expected{{.global_running = 1}, false, true, true},
          expected{{.z = 1}, false, false, true}, expected{{.bias_step = 1}, false, false, false}}) {
      CAPTURE(describe(x.b));
      CHECK(x.b.counts_sets() == x.sets);
      CHECK(x.b.any_load() == x.load);
      CHECK(x.b.any() == x.any);
    }
  }
  TEST_CASE("coefficients and names come in one order") {
    constexpr balance_losses b{.micro_batch = 1, .sequence = 2, .global = 3, .global_running = 4, .z = 5};
    CHECK(coefficients(b) == balance_values{1, 2, 3, 4, 5});
    CHECK(describe(b) == "1 micro_batch + 2 sequence + 3 global + 4 global_running + 5 z");
  }
  TEST_CASE("what was chosen is said in a few words") {
    CHECK(describe(token_rule{}) == "dropless");
    CHECK(describe(token_rule{.full_sequence = true, .padded = true}) == "dropless");
    CHECK(describe(token_rule{.percent = 125, .padded = true}) == "capacity 125%, sub-sequence, by probability, padded");
    CHECK(describe(token_rule{100, true, true, false}) == "capacity 100%, full sequence, by position");
    CHECK(describe(balance_losses{}) == "none");
    CHECK(describe(balance_losses{.micro_batch = 0.01, .z = 0.001}) == "0.01 micro_batch + 0.001 z");
    CHECK(std::string(name_of(dispatch_kind::all_to_all)) == "all_to_all");
    CHECK(std::string(name_of(dispatch_kind::all_gather)) == "all_gather");
    CHECK(std::string(name_of(dispatch_kind::other)) == "a dispatcher of the user's");
  }
  TEST_CASE("a coefficient that is negative or not finite is refused, whichever it is; so is a jitter outside [0, 1)") {
    for (double balance_losses::*member : {&balance_losses::micro_batch, &balance_losses::sequence, &balance_losses::global,
                                           &balance_losses::global_running, &balance_losses::z, &balance_losses::bias_step})
      for (const double bad : {-0.01, inf, not_a_number}) {
        moe_facts facts;
        facts.balance.*member = bad;
        CHECK_THROWS_AS(check(facts), config_error);
        facts.balance.*member = 0;
        CHECK_NOTHROW(check(facts));
      }
    CHECK_THROWS_WITH_AS(check(balance_losses{.z = -0.5}),
                         "moefold: coefficients of balance losses are finite and 0 (off) or above (given -0.5)", config_error);
    for (const double bad : {-0.01, 1.0, inf, not_a_number}) CHECK_THROWS_AS(check(moe_facts{.jitter = bad}), config_error);
    CHECK_THROWS_WITH_AS(check(moe_facts{.jitter = 1}), "moefold: jitter lies in [0, 1) (given 1); 0.01 is usual, 0 is off", config_error);
    CHECK_NOTHROW(check(moe_facts{.jitter = 0.999}));
    for (const extent_t bad : {-1, 100001})
      CHECK_THROWS_WITH_AS(check(moe_facts{{bad}}), doctest::Contains("between 1 and 100000 percent of the even share"), config_error);
    CHECK_NOTHROW(check(moe_facts{{100000, true, true, true}}));
    CHECK_THROWS_WITH_AS(check(moe_facts{{0, false, false, true}}), doctest::Contains("belong to a capacity"), config_error);
  }
}
