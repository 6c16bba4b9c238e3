#include <moefold/comm/self.hpp>

#include "../support/communicator_suite.hpp"

#include <doctest/doctest.h>

using namespace moefold;

static_assert(communicator<self_comm>);  // over all element types

TEST_SUITE("comm/self") {
  TEST_CASE("one rank is a communicator") {
    self_comm c;
    check_communicator(c);
  }
  TEST_CASE("a recv from itself without a send is an error, not a hang") {
    self_comm c;
    host_context context;
    std::vector<float> out(1);
    CHECK_THROWS_WITH_AS(c.recv(host_exec(context), out, 0), doctest::Contains("send first"), error);
  }
  TEST_CASE("sizes that contradict each other are an error") {
    self_comm c;
    host_context context;
    std::vector<float> three(3), two(2);
    CHECK_THROWS_WITH_AS(c.all_reduce(host_exec(context), three, two, sum{}), doctest::Contains("3 elements in and room for 2"), error);
    CHECK_THROWS_AS(c.broadcast(host_exec(context), two, 1), error);
  }
  TEST_CASE("fetch_v shows a rank what it has shown itself") {
    self_comm c;
    host_context context;
    const std::vector<float> rows{1, 2, 3};
    const std::vector<std::size_t> counts{3}, other{2}, two{3, 0};
    int calls = 0;
    c.fetch_v<float>(host_exec(context), rows.data(), counts, counts, [&](auto&& peer) {
      CHECK(peer(0) == rows.data());
      ++calls;
    });
    CHECK(calls == 1);
    const char* text = "moefold: fetch_v on one rank sends itself what it receives; give both counts the same number";
    const auto never = [&](auto&&) { ++calls; };
    CHECK_THROWS_WITH_AS(c.fetch_v<float>(host_exec(context), rows.data(), counts, other, never), text, error);
    CHECK_THROWS_WITH_AS(c.fetch_v<float>(host_exec(context), rows.data(), two, two, never), text, error);
    CHECK(calls == 1);
  }
}
