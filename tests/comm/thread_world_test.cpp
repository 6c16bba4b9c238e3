#include <moefold/comm/thread_world.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {
struct counting final : thread_world::member {
  int closed = 0;
  void close() override { ++closed; }
  std::optional<root_cause> waits_for(int rank) override {
    if (rank != 1) return {};
    return root_cause{1, "tp", operation::barrier, 4, {}, "rank 1 finished early"};
  }
  void missing(int, int, std::vector<int>&) override {}
};
root_cause blame(int rank, const char* text) { return {rank, "tp", operation::send, 2, {}, text}; }
}  // namespace

TEST_SUITE("comm/thread_world") {
  TEST_CASE("the first failure wins, and closes every member once") {
    thread_world world(3);
    counting a, b;
    world.add(a);
    world.fail<timeout>(blame(2, "first"));
    world.fail<peer_failed>(blame(1, "second"));
    world.add(b);  // born closed
    CHECK(world.failed());
    CHECK(a.closed == 1);
    CHECK(b.closed == 1);
    CHECK_THROWS_WITH_AS(std::rethrow_exception(world.first_failure()), "moefold: first", timeout);
    world.remove(a);
    world.remove(b);
  }
  TEST_CASE("a rank is told the cause once, then that the world is revoked") {
    thread_world world(2);
    world.fail<signature_mismatch>(blame(1, "ranks disagree"));
    const signature call{operation::all_gather, dtype::fp32, "", -1, 3, 9};
    CHECK_THROWS_WITH_AS(world.throw_failure(0, call, "ep"), "moefold: all_gather #9 of 3 x fp32 on ep, rank 0, ended: ranks disagree",
                         signature_mismatch);
    CHECK_THROWS_WITH_AS(world.throw_failure(0, call, "ep"), doctest::Contains("start a new world"), comm_revoked);
    CHECK_THROWS_AS(world.throw_failure(1, call, "ep"), signature_mismatch);
  }
  TEST_CASE("an exception seen later replaces what its own rank could only announce") {
    thread_world world(2);
    world.fail_unwinding(1, "left a window");
    try {
      throw std::runtime_error("real");
    } catch (...) {
      world.fail_with_current_exception(0);  // another rank's consequence does not
      CHECK_THROWS_AS(std::rethrow_exception(world.first_failure()), peer_failed);
      world.fail_with_current_exception(1);
    }
    CHECK_THROWS_WITH_AS(std::rethrow_exception(world.first_failure()), "real", std::runtime_error);
  }
  TEST_CASE("a rank that ends while somebody waits for it is a failure, otherwise it is not") {
    thread_world world(2);
    counting m;
    world.add(m);
    world.finish(0);
    CHECK_FALSE(world.failed());
    world.finish(1);
    CHECK(world.failed());
    CHECK(m.closed == 1);
    world.remove(m);
  }
  TEST_CASE("what a rank keeps beside its world is made once, by what it was first asked with") {
    thread_world world(2);
    world.beside<int>(0, 7) = 8;
    CHECK(world.beside<int>(0, 9) == 8);
    CHECK(world.beside<int>(1, 9) == 9);
  }
}
