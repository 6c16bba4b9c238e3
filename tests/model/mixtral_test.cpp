#include <moefold/model/mixtral.hpp>

#include <doctest/doctest.h>
#include "../support/used_parameters.hpp"

using namespace moefold;
using testing::billions;
using testing::used_parameters;

TEST_SUITE("model/mixtral") {
  TEST_CASE("the models have as many parameters, and use as many per token, as was published") {
    static_assert(check_model<mixtral_8x7b>::ok && check_model<mixtral_8x22b>::ok && check_model<mixtral_8x22b_g8t8>::ok);
    static_assert(count_parameters(mixtral_8x7b) == 46'702'792'704);  // of the published files
    static_assert(billions(used_parameters(mixtral_8x7b), 12.9, 0.05));
    static_assert(billions(count_parameters(mixtral_8x22b), 141, 0.5) && billions(used_parameters(mixtral_8x22b), 39, 0.5));
  }
  TEST_CASE("cutting experts into eight leaves their number of parameters, and a token uses eight pieces") {
    constexpr extent_t more_router = 56 * (64 - 8) * 6144;
    static_assert(count_parameters(mixtral_8x22b_g8t8) == count_parameters(mixtral_8x22b) + more_router);
    static_assert(mixtral_8x22b_g8t8.ffn * mixtral_8x22b_g8t8.top_k == mixtral_8x22b.ffn);
  }
}
