#include <moefold/attention/policy.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

struct mine : attention_defaults {
  static constexpr extent_t sequence = 32;
  using precision = fp64;
};

}  // namespace

TEST_SUITE("attention/policy") {
  TEST_CASE("a policy of one's own says only what differs") {
    static_assert(mine::sequence == 32 && mine::model == model_shape{});
    static_assert(std::is_same_v<mine::precision, fp64> && std::is_same_v<mine::context, cp_all_gather>);
    static_assert(attention_defaults::sequence == 256 && std::is_same_v<attention_defaults::precision, fp32>);
    CHECK_NOTHROW(check(attention_defaults::model));
  }
}
