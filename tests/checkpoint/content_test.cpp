#include <moefold/checkpoint/content.hpp>

#include <doctest/doctest.h>

using namespace moefold;
using doctest::Contains;

TEST_SUITE("checkpoint/content") {
  TEST_CASE("a tensor's bytes are those of its elements that are no padding") {
    const checkpoint_tensor t{"w", {{{8, 3}, {4, 0}, {4, 3}}, {2, 12}, 18}, dtype::bf16, {}, {}};  // rows 4 and 5 are real
    CHECK(t.bytes() == 2 * (6 - 2));
  }
  TEST_CASE("an array gives back its numbers, and no others") {
    const std::vector<std::int64_t> numbers{1, -2, std::int64_t{1} << 60};
    const checkpoint_array a = array_of<std::int64_t>("cursor", numbers);
    CHECK(values_of<std::int64_t>(a) == numbers);
    CHECK_THROWS_WITH_AS(values_of<double>(a), Contains("the array 'cursor' of the checkpoint has elements of int64, not fp64"),
                         config_error);
    CHECK(values_of<float>(array_of<float>("none", {})).empty());
  }
}
