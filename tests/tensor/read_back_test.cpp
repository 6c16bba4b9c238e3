#include <moefold/tensor/read_back.hpp>

#include <moefold/ops/elementwise.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("tensor/read_back") {
  TEST_CASE("what operations have written is what the host reads, and stays readable") {
    host_context context;
    const host_exec e(context);
    read_back<double> numbers(5);
    CHECK(numbers.size() == 5);
    fill(e, numbers.all(), 2.0);
    fill(e, numbers.at(1, 2), 3.0);
    const auto all = numbers.read(e);
    CHECK(std::vector<double>(all.begin(), all.end()) == std::vector<double>{2, 3, 3, 2, 2});
    all[4] = 7;
    CHECK(numbers.last_read()[4] == 7);
  }
  TEST_CASE("numbers it does not have are refused") {
    read_back<std::int64_t> numbers(2);
    CHECK(numbers.at(2, 0).empty());
    CHECK_THROWS_WITH_AS(numbers.at(1, 2), "moefold: numbers 1 to 3 of 2", error);
    CHECK(read_back<double>().size() == 0);
  }
}
