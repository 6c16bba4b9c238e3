#include <moefold/moe/all_gather.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/dispatcher_suite.hpp"

using namespace moefold;

TEST_SUITE("moe/all_gather") {
  TEST_CASE("the suite: alone and in the layer, on every folding and with every token rule, for starved experts and ranks without tokens") {
    test::dispatcher_suite<all_gather_dispatcher>("all_gather");
  }
  TEST_CASE("an expert that does not exist is refused before anything travels") {
    self_comm ep("ep"), etp("etp");
    host_context context;
    arena keep;
    tensor<double> x({1, 2}, 1.0), weight({1, 1}, 1.0);
    tensor<std::int32_t> expert({1, 1}, 4);
    const all_gather_dispatcher<double, self_comm> dispatcher(4, 1, ep, etp);
    CHECK_THROWS_WITH_AS(dispatcher.dispatch(host_exec(context), view<const double>(x), routing<double>{expert, weight}, keep),
                         "moefold: token 0 chose expert 4, of 4; experts are numbered from 0, -1 means dropped", error);
  }
  TEST_CASE("more experts than its numbers can tell apart are refused") {
    self_comm one;
    CHECK_THROWS_WITH_AS(
        (all_gather_dispatcher<float, self_comm>(1 << 24, 1, one, one)),
        "moefold: the AllGather dispatcher sends choices as numbers of 24 bits, too few for 16777216 experts; use the AllToAll "
        "dispatcher",
        error);
    CHECK_NOTHROW(all_gather_dispatcher<float, self_comm>((1 << 24) - 1, 1, one, one));
  }
}
