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
  TEST_CASE("in bf16, which cannot count beyond 256, experts beyond it are found, and p and its gradient keep all bits of a float") {
    run_threads(4, [](thread_comm& world) {
      thread_comm ep = world.split(world.rank() / 2, world.rank() % 2, "ep"), etp = world.split(world.rank() % 2, world.rank() / 2, "etp");
      host_context context;
      const host_exec e(context);
      arena keep;
      const extent_t n = 2, hidden = 3, experts = 1000;
      tensor<bf16> x({n, hidden}, bf16(float(world.rank()))), dx({n, hidden});
      tensor<std::int32_t> expert({n, 1});
      tensor<float> p({n, 1}), dp({n, 1});
      expert[0] = 257 + world.rank(), expert[1] = 999 - 2 * world.rank();  // no two alike
      p[0] = 1.0f / 3, p[1] = 1.0f / 7;
      const all_gather_dispatcher<bf16, thread_comm> dispatcher(experts, 1, ep, etp);
      const auto t = dispatcher.dispatch(e, view<const bf16>(x), routing<float>{expert, p}, keep);
      const bool high = ep.rank() == 1;  // experts 500 .. 999
      REQUIRE(t.batch.extent(0) == 4);
      for (extent_t r = 0; r < 4; ++r) CHECK(t.weight(r) == (high ? 1.0f / 7 : 1.0f / 3));
      for (int r = 0; r < 4; ++r) CHECK(t.counts(high ? 499 - 2 * r : 257 + r) == 1);
      // Partial over etp: each rank gives half of each p, which is no bf16 number.
      tensor<float> half({4});
      for (std::size_t r = 0; r < 4; ++r) half[r] = t.weight(extent_t(r)) / 2;
      dispatcher.dispatch_backward(e, view<const bf16>(t.batch), view<const float>(half), dx.view(), dp.view(), t);
      CHECK(dp[0] == p[0]);
      CHECK(dp[1] == p[1]);
      for (std::size_t i = 0; i < dx.size(); ++i) CHECK(float(dx[i]) == 2 * float(x[i]));
    });
  }
}
