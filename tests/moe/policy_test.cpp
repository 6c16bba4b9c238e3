#include <moefold/comm/self.hpp>
#include <moefold/moe/policy.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {
struct mine : moe_defaults {  // says only what differs
  using precision = fp64;
};
}  // namespace

TEST_SUITE("moe/policy") {
  TEST_CASE("a policy that says one thing keeps every other default") {
    CHECK(std::is_same_v<mine::precision, fp64>);
    CHECK(std::is_same_v<mine::tokens, dropless>);
    CHECK(mine::model == model_shape{});
    CHECK(std::is_same_v<mine::dispatcher<double, self_comm>, all_to_all_dispatcher<double, self_comm>>);
    CHECK(std::is_same_v<mine::experts<fp64>, grouped_experts<fp64>>);
  }
}
