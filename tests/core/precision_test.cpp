#include <moefold/core/precision.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace moefold;

namespace {

struct mixed {  // what a user may write
  using storage = bf16;
  using accumulate = float;
  using reduce = float;
  using master = float;
  using moments = float;
  static constexpr const char* name = "mixed";
};
struct sums_in_bf16 : mixed {
  using accumulate = bf16;
};
struct moments_in_text : mixed {
  using moments = std::string;
};
struct nameless {
  using storage = float;
  using accumulate = float;
  using reduce = float;
  using master = float;
  using moments = float;
};

}  // namespace

TEST_SUITE("core/precision") {
  TEST_CASE("a policy of one's own counts if its types travel, sums are made in accumulate_t of its storage, and it has a name") {
    static_assert(precision_policy<fp32> && precision_policy<fp64> && precision_policy<mixed>);
    static_assert(!precision_policy<sums_in_bf16> && !precision_policy<moments_in_text> && !precision_policy<nameless>);
    CHECK(std::string(fp32::name) + fp64::name == "fp32fp64");
  }
  TEST_CASE("mixed_bf16 stores in two bytes and sums in four; its moments alone may be made narrow") {
    using narrow = with_moments<mixed_bf16, bf16>;
    static_assert(precision_policy<mixed_bf16> && precision_policy<narrow>);
    static_assert(sizeof(mixed_bf16::storage) == 2 && dtype_of<mixed_bf16::accumulate> == dtype::fp32);
    static_assert(dtype_of<mixed_bf16::reduce> == dtype::fp32 && dtype_of<mixed_bf16::master> == dtype::fp32);
    static_assert(dtype_of<mixed_bf16::moments> == dtype::fp32 && dtype_of<narrow::moments> == dtype::bf16);
    static_assert(dtype_of<narrow::master> == dtype::fp32 && dtype_of<narrow::storage> == dtype::bf16);
    CHECK(std::string(narrow::name) == "bf16");
  }
  TEST_CASE("in fp64 nothing is narrower than a double") {
    static_assert(sizeof(fp64::storage) == 8 && sizeof(fp64::accumulate) == 8 && sizeof(fp64::reduce) == 8);
    static_assert(sizeof(fp64::master) == 8 && sizeof(fp64::moments) == 8);
    CHECK(dtype_of<fp64::storage> == dtype::fp64);
  }
}
