#include <moefold/core/config.hpp>

#include <moefold/core/error.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

MOEFOLD_RULE(chairs, guests, chairs, guests <= chairs, "moefold: every guest needs a chair; bring more")

MOEFOLD_HD constexpr int twice(int x) { return 2 * x; }

void copy(const float* MOEFOLD_RESTRICT from, float* MOEFOLD_RESTRICT to) { *to = *from; }

}  // namespace

TEST_SUITE("core/config") {
  TEST_CASE("a rule is a condition, a type and a run-time check that agree") {
    static_assert(chairs_holds(3, 4) && !chairs_holds(5, 4));
    static_assert(check_chairs<3, 4>::ok);
    static_assert((require_chairs(4, 4), true));  // what holds is a constant expression
    CHECK_THROWS_WITH_AS(require_chairs(5, 4), "moefold: every guest needs a chair; bring more (given guests = 5, chairs = 4)",
                         config_error);
  }
  TEST_CASE("the macros mean something to a compiler without CUDA") {
    static_assert(twice(2) == 4);
    static_assert(MOEFOLD_HAS_CBLAS == 0 || MOEFOLD_HAS_CBLAS == 1);
#if defined(MOEFOLD_WITH_CBLAS)
    static_assert(MOEFOLD_HAS_CBLAS == 1);
#endif
    float from = 3, to = 0;
    copy(&from, &to);
    CHECK(to == 3);
  }
}
