#include <moefold/ops/ids.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

TEST_SUITE("ops/ids") {
  TEST_CASE("tokens from 0 to below the vocabulary pass, the first other one is named with its place") {
    host_context context;
    const host_exec e(context);
    std::vector<std::int32_t> ids{0, 7, 3};
    CHECK_NOTHROW(require_tokens(e, ids, 8));
    CHECK_NOTHROW(require_tokens(e, {}, 0));
    CHECK_THROWS_WITH_AS(require_tokens(e, ids, 7),
                         "moefold: token 7 is outside the vocabulary of 7 (at place 1); use tokens from 0 to below it", error);
    ids[2] = -1;
    CHECK_THROWS_WITH_AS(require_tokens(e, ids, 8),
                         "moefold: token -1 is outside the vocabulary of 8 (at place 2); use tokens from 0 to below it", error);
  }
}
