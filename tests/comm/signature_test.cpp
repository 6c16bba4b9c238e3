#include <moefold/comm/signature.hpp>

#include <doctest/doctest.h>

#include <limits>
#include <vector>

using namespace moefold;

TEST_SUITE("comm/signature") {
  TEST_CASE("a signature reads as a call") {
    CHECK(describe({operation::all_reduce, dtype::fp32, "sum", -1, 4096, 17}) == "all_reduce #17 of 4096 x fp32, sum");
    CHECK(describe({operation::broadcast, dtype::bf16, "", 2, 1, 0}) == "broadcast #0 of 1 x bf16, root 2");
    CHECK(describe({operation::all_to_all_v, dtype::int64, "", -1, 0, 5}) == "all_to_all_v #5 of int64");
    CHECK(describe({operation::barrier}) == "barrier #0");
  }
  TEST_CASE("signatures differ in each of their parts") {
    const signature base{operation::reduce, dtype::fp32, "sum", 1, 8, 3};
    CHECK(base == signature{operation::reduce, dtype::fp32, "sum", 1, 8, 3});
    CHECK_FALSE(base == signature{operation::all_reduce, dtype::fp32, "sum", 1, 8, 3});
    CHECK_FALSE(base == signature{operation::reduce, dtype::fp64, "sum", 1, 8, 3});
    CHECK_FALSE(base == signature{operation::reduce, dtype::fp32, "max", 1, 8, 3});
    CHECK_FALSE(base == signature{operation::reduce, dtype::fp32, "sum", 2, 8, 3});
    CHECK_FALSE(base == signature{operation::reduce, dtype::fp32, "sum", 1, 9, 3});
    CHECK_FALSE(base == signature{operation::reduce, dtype::fp32, "sum", 1, 8, 4});
    CHECK_FALSE(base == signature{operation::reduce, dtype::fp32, "sum", 1, 8, 3, true});
  }
  TEST_CASE("counts must be one per rank and add up, without overflow") {
    const std::vector<std::size_t> counts{3, 0, 5};
    CHECK_NOTHROW(require_counts(operation::all_gather_v, 3, counts, 8));
    CHECK_THROWS_WITH_AS(require_counts(operation::all_gather_v, 3, counts, 9), doctest::Contains("add up to 8, the buffer has 9"), error);
    CHECK_THROWS_WITH_AS(require_counts(operation::all_gather_v, 3, counts, 7), doctest::Contains("more than the 7"), error);
    CHECK_THROWS_WITH_AS(require_counts(operation::all_gather_v, 4, counts, 8), doctest::Contains("over 4 ranks got 3 counts"), error);
    const std::vector<std::size_t> huge{std::numeric_limits<std::size_t>::max(), 9};
    CHECK_THROWS_AS(require_counts(operation::all_gather_v, 2, huge, 8), error);
  }
  TEST_CASE("one side must be ranks times the other, without overflow") {
    CHECK_NOTHROW(require_parts(operation::all_gather, 4, 0, 0));
    CHECK_NOTHROW(require_parts(operation::all_gather, 4, 3, 12));
    CHECK_THROWS_AS(require_parts(operation::all_gather, 4, 3, 13), error);
    CHECK_THROWS_AS(require_parts(operation::all_gather, 4, std::size_t{1} << 62, 0), error);  // 4 x 2^62 wraps to 0
  }
  TEST_CASE("roots and peers lie inside the communicator") {
    CHECK_NOTHROW(require_rank(operation::send, "peer", 3, 4));
    CHECK_THROWS_WITH_AS(require_rank(operation::send, "peer", 4, 4), doctest::Contains("0 to 3"), error);
    CHECK_THROWS_AS(require_rank(operation::broadcast, "root", -1, 4), error);
  }
}
