#include <moefold/comm/self.hpp>

#include "../support/communicator_suite.hpp"

#include <doctest/doctest.h>

using namespace moefold;

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
}
