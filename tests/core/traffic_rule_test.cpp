#include <moefold/core/traffic_rule.hpp>

#include <doctest/doctest.h>

#include <array>
#include <string_view>

using namespace moefold;
using enum operation;

TEST_SUITE("core/traffic_rule") {
  TEST_CASE("bytes of the equal-part operations follow their formulas") {
    static_assert(bytes_sent(all_gather, 4, 10, 4) == 3 * 40);
    static_assert(bytes_sent(reduce_scatter, 4, 10, 8) == 3 * 80);
    static_assert(bytes_sent(all_to_all, 8, 5, 2) == 7 * 10);
    static_assert(bytes_sent(all_reduce, 4, 10, 4) == 2 * 3 * 3 * 4);  // slices of ceil(10 / 4) = 3
    static_assert(bytes_sent(all_reduce, 2, 1, 8) == 2 * 1 * 1 * 8);
    static_assert(bytes_sent(broadcast, 4, 10, 4) == 30);
    static_assert(bytes_sent(reduce, 3, 1, 4) == 3);  // 8/3, rounded up
    static_assert(bytes_sent(send, 2, 7, 4) == 28);
  }
  TEST_CASE("what moves no data sends nothing") {
    for (operation op : {barrier, recv, split, expose, close}) {
      CHECK(bytes_sent(op, 8, 100, 4) == 0);
      CHECK(messages_sent(op, 8, std::uint64_t{100}) == 0);
    }
  }
  TEST_CASE("a group of one rank sends nothing, whatever the operation") {
    for (std::size_t op = 0; op < operations; ++op) {
      CHECK(bytes_sent(operation(op), 1, 100, 4) == 0);
      CHECK(messages_sent(operation(op), 1, std::uint64_t{100}) == 0);
    }
  }
  TEST_CASE("messages are the peers sent to, and nothing is no message") {
    CHECK(messages_sent(all_gather, 8, std::uint64_t{1}) == 7);
    CHECK(messages_sent(all_reduce, 8, std::uint64_t{1}) == 14);
    CHECK(messages_sent(broadcast, 8, std::uint64_t{1}) == 1);
    CHECK(messages_sent(send, 8, std::uint64_t{1}) == 1);
    for (std::size_t op = 0; op < operations; ++op) CHECK(messages_sent(operation(op), 8, std::uint64_t{0}) == 0);
  }
  TEST_CASE("v-operations count the elements that leave the rank") {
    constexpr std::array<std::size_t, 4> counts{5, 0, 2, 3};
    static_assert(elements_leaving(all_to_all_v, 0, counts) == 5);  // its own part stays
    static_assert(elements_leaving(all_to_all_v, 1, counts) == 10);
    static_assert(elements_leaving(reduce_scatter_v, 2, counts) == 8);
    static_assert(elements_leaving(all_gather_v, 3, counts) == 9);  // 3 elements to each of 3 peers
    static_assert(messages_sent(all_to_all_v, std::size_t{0}, counts) == 2);
    static_assert(messages_sent(all_to_all_v, std::size_t{1}, counts) == 3);
    static_assert(messages_sent(all_gather_v, std::size_t{1}, counts) == 0);
    static_assert(messages_sent(all_gather_v, std::size_t{2}, counts) == 3);
    CHECK(bytes_sent(all_to_all_v, 4, elements_leaving(all_to_all_v, 0, counts), 4) == 20);
  }
  TEST_CASE("every operation has a name of its own") {
    for (std::size_t a = 0; a < operations; ++a) {
      CHECK(std::string_view(name_of(operation(a))) != "?");
      for (std::size_t b = 0; b < a; ++b) CHECK(std::string_view(name_of(operation(a))) != name_of(operation(b)));
    }
    CHECK(std::string_view(name_of(operation(operations))) == "?");
  }
}
