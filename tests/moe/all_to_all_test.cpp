#include <moefold/comm/self.hpp>
#include <moefold/moe/all_to_all.hpp>

#include <doctest/doctest.h>
#include "../support/dispatcher_suite.hpp"

using namespace moefold;

TEST_SUITE("moe/all_to_all") {
  TEST_CASE("the suite: alone and in the layer, on every folding and with every token rule, for starved experts and ranks without tokens") {
    test::dispatcher_suite<all_to_all_dispatcher>("all_to_all");
  }
  TEST_CASE("an expert that does not exist is refused before anything travels") {
    self_comm ep("ep"), etp("etp");
    host_context context;
    const host_exec e(context);
    arena keep;
    tensor<double> x({1, 2}, 1.0);
    tensor<std::int32_t> expert({1, 1}, 4);
    tensor<double> weight({1, 1}, 1.0);
    const all_to_all_dispatcher<double, self_comm> dispatcher(4, 1, ep, etp);
    CHECK_THROWS_WITH_AS(dispatcher.dispatch(e, view<const double>(x), routing<double>{expert, weight}, keep),
                         "moefold: token 0 chose expert 4, of 4; experts are numbered from 0, -1 means dropped", error);
  }
  TEST_CASE("experts that ep ranks cannot share equally are refused") {
    run_threads(2, [](thread_comm& world) {
      thread_comm etp = world.split(world.rank(), 0, "etp");
      const std::string why = "moefold: 7 experts cannot be shared equally by 2 ep ranks";
      CHECK_THROWS_WITH_AS((all_to_all_dispatcher<double, thread_comm>(7, 1, world, etp)), why.c_str(), error);
    });
  }
  TEST_CASE("a ticket outlives other dispatches: two in flight do not disturb each other") {
    self_comm ep("ep"), etp("etp");
    host_context context;
    const host_exec e(context);
    arena first_keep, second_keep;
    const auto x = test::random_tensor<double>({5, 3}, 1), other = test::random_tensor<double>({2, 3}, 2);
    tensor<std::int32_t> expert({5, 1}, 1), other_expert({2, 1}, 0);
    tensor<double> weight({5, 1}, 1.0), other_weight({2, 1}, 1.0), y({5, 3}), dx({5, 3}), dchoice({5, 1});
    const all_to_all_dispatcher<double, self_comm> dispatcher(2, 1, ep, etp);
    const auto first = dispatcher.dispatch(e, view<const double>(x), routing<double>{expert, weight}, first_keep);
    const auto second = dispatcher.dispatch(e, view<const double>(other), routing<double>{other_expert, other_weight}, second_keep);
    CHECK(second.batch.extent(0) == 2);
    dispatcher.combine(e, view<const double>(first.batch), y.view(), first);
    CHECK(test::largest_error(y, x) == 0);
    dispatcher.dispatch_backward(e, view<const double>(first.batch), view<const double>(first.weight), dx.view(), dchoice.view(), first);
    CHECK(test::largest_error(dx, x) == 0);
    CHECK(test::largest_error(dchoice, weight) == 0);
  }
  TEST_CASE("in bf16 p and its gradient keep all bits of a float, over ep and summed over etp") {
    run_threads(4, [](thread_comm& world) {
      thread_comm ep = world.split(world.rank() / 2, world.rank() % 2, "ep"), etp = world.split(world.rank() % 2, world.rank() / 2, "etp");
      host_context context;
      const host_exec e(context);
      arena keep;
      tensor<bf16> x({2, 3}, bf16(float(world.rank()))), dx({2, 3});
      tensor<std::int32_t> expert({2, 1}, 1);
      expert[1] = 2;
      tensor<float> p({2, 1}), dp({2, 1});
      p[0] = 1.0f / 3, p[1] = 1.0f / 7;
      const all_to_all_dispatcher<bf16, thread_comm> dispatcher(4, 1, ep, etp);
      const auto t = dispatcher.dispatch(e, view<const bf16>(x), routing<float>{expert, p}, keep);
      REQUIRE(t.batch.extent(0) == 4);
      tensor<float> half({4});
      for (std::size_t r = 0; r < 4; ++r) {
        CHECK(t.weight(extent_t(r)) == (ep.rank() == 1 ? 1.0f / 7 : 1.0f / 3));
        half[r] = t.weight(extent_t(r)) / 2;
      }
      dispatcher.dispatch_backward(e, view<const bf16>(t.batch), view<const float>(half), dx.view(), dp.view(), t);
      CHECK(dp[0] == p[0]);
      CHECK(dp[1] == p[1]);
      for (std::size_t i = 0; i < dx.size(); ++i) CHECK(float(dx[i]) == 2 * float(x[i]));
    });
  }
}
