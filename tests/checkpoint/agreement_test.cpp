#include <moefold/checkpoint/agreement.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/comm/thread.hpp>

#include <doctest/doctest.h>
#include "../support/run_ranks.hpp"

#include <atomic>

using namespace moefold;
using doctest::Contains;

TEST_SUITE("checkpoint/agreement") {
  TEST_CASE("what one rank throws, every rank throws: the class, the words, the file and the place") {
    const auto check = [](auto&& thrown, auto expected) {
      using error_type = decltype(expected);
      std::atomic<int> caught{0};
      run_ranks(4, [&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        failure_note mine;
        mine.attempt([&] {
          if (world.rank() >= 2) thrown(world.rank());
        });
        CHECK(mine.failed() == (world.rank() >= 2));
        try {
          agree(e, world, mine);
        } catch (const error_type& met) {
          CHECK(std::string(met.what()) == "moefold: rank 2: it broke at 2");
          if constexpr (std::derived_from<error_type, file_error>) CHECK((met.file() == "f2" && met.offset() == 102));
          if constexpr (std::same_as<error_type, storage_error>) CHECK((met.path() == "p2" && met.code() == 7));
          CHECK(typeid(met) == typeid(error_type));
          ++caught;
        }
      });
      CHECK(caught == 4);
    };
    const auto words = [](int rank) { return "moefold: it broke at " + std::to_string(rank); };
    const auto file = [](int rank) { return "f" + std::to_string(rank); };
    check([&](int r) { throw format_error(words(r), file(r), std::uint64_t(100 + r)); }, format_error("", "", 0));
    check([&](int r) { throw checksum_mismatch(words(r), file(r), std::uint64_t(100 + r)); }, checksum_mismatch("", "", 0));
    check([&](int r) { throw incomplete_checkpoint(words(r), file(r), std::uint64_t(100 + r)); }, incomplete_checkpoint("", "", 0));
    check([&](int r) { throw storage_error(words(r), "p" + std::to_string(r), 7); }, storage_error("", "", 0));
    check([&](int r) { throw config_error(words(r)); }, config_error(""));
    check([&](int r) { throw error(words(r)); }, error(""));
    check([&](int r) { throw std::logic_error(words(r).substr(9)); }, error(""));
  }
  TEST_CASE("where nothing failed nothing is thrown, and nothing is done after the first failure") {
    run_ranks(3, [&](thread_comm& world) {
      host_context context;
      failure_note mine;
      mine.attempt([] {});
      agree(host_exec(context), world, mine);
    });
    failure_note mine;
    mine.attempt([] { throw std::bad_alloc(); });
    mine.attempt([] { FAIL("not reached"); });
    host_context context;
    self_comm self;
    CHECK_THROWS_WITH_AS(agree(host_exec(context), self, mine), Contains("moefold: out of memory"), error);
  }

  TEST_CASE("ranks wait patiently for one whose work takes longer than a deadline, and agree on how it went") {
    thread_options options;
    options.first_deadline = options.deadline = std::chrono::milliseconds(100);
    const auto rank = [](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      failure_note note;
      patiently(e, world, note, [&] {
        if (world.rank() != 1) return;
        std::this_thread::sleep_for(std::chrono::milliseconds(400));
        throw storage_error("moefold: full", "there", 28);
      });
      CHECK(note.failed() == (world.rank() == 1));
      CHECK_THROWS_WITH_AS(agree(e, world, note), "moefold: rank 1: full", storage_error);
    };
    run_threads(3, rank, options);
  }
}
