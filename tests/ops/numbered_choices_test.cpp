#include <moefold/ops/numbered_choices.hpp>

#include <doctest/doctest.h>

#include <moefold/tensor/tensor.hpp>

using namespace moefold;

TEST_SUITE("ops/numbered_choices") {
  TEST_CASE("a row is the token's number, then its choices, and splits into both again") {
    host_context context;
    const host_exec e(context);
    const batch_place place{0, 0, 3, {16, 2, 1, 2, 1}};
    tensor<std::int32_t> expert({12, 2}), rows({12, 3}, -9), number({12}, -9), again({12, 2}, -9);
    for (std::size_t i = 0; i < expert.size(); ++i) expert[i] = std::int32_t(i) - 1;
    number_choices(e, place, expert, rows);
    for (extent_t t = 0; t < 12; ++t) {
      CHECK(rows.view()(t, 0) == place.number(t));
      CHECK(rows.view()(t, 1) == expert.view()(t, 0));
      CHECK(rows.view()(t, 2) == expert.view()(t, 1));
    }
    split_numbers(e, rows, number, again);
    for (extent_t t = 0; t < 12; ++t) CHECK(number[std::size_t(t)] == place.number(t));
    CHECK(std::equal(again.begin(), again.end(), expert.begin()));
  }
  TEST_CASE("counting up begins at 0") {
    host_context context;
    tensor<std::int32_t> number({5}, -1);
    count_up(host_exec(context), number);
    for (std::size_t t = 0; t < 5; ++t) CHECK(number[t] == std::int32_t(t));
  }
  TEST_CASE("what does not fit is refused") {
    host_context context;
    const host_exec e(context);
    tensor<std::int32_t> expert({4, 2}), rows({4, 2}), wide({4, 3}), number({3});
    CHECK_THROWS_WITH_AS(number_choices(e, {}, expert, rows), doctest::Contains("needs rows [4, 3]"), error);
    CHECK_THROWS_WITH_AS(split_numbers(e, wide, number, expert), doctest::Contains("needs 4 elements in number"), error);
  }
}
