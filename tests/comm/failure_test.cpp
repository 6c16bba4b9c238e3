#include <moefold/comm/failure.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("comm/failure") {
  TEST_CASE("every failure is a moefold::error that carries its root cause") {
    const root_cause cause{3, "ep", operation::all_to_all_v, 17, std::chrono::milliseconds(5), "rank 3 failed"};
    try {
      throw peer_failed("moefold: rank 3 failed", cause);
    } catch (const error& e) {
      const auto* failure = dynamic_cast<const comm_error*>(&e);
      REQUIRE(failure != nullptr);
      CHECK(failure->cause().rank == 3);
      CHECK(failure->cause().axis() == "ep");
      CHECK(failure->cause().op == operation::all_to_all_v);
      CHECK(std::string(e.what()) == "moefold: rank 3 failed");
    }
    CHECK_THROWS_AS(throw timeout("", cause), comm_error);
    CHECK_THROWS_AS(throw signature_mismatch("", cause), comm_error);
    CHECK_THROWS_AS(throw comm_revoked("", cause), comm_error);
  }
}
