#include <moefold/core/sequence_part.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace moefold;

TEST_SUITE("core/sequence_part") {
  static_assert(sequence_part{.sequence = 8, .cp = 2, .cp_rank = 0}.position(2) == 6);
  static_assert(sequence_part{.sequence = 8, .cp = 2, .cp_rank = 1, .tp = 2, .tp_rank = 1}.local_position(0) == 4);

  TEST_CASE("the ranks of cp x tp hold every position exactly once") {
    for (extent_t cp = 1; cp <= 5; ++cp)
      for (extent_t tp = 1; tp <= 4; ++tp)
        for (extent_t n = 1; n <= 3; ++n) {
          const extent_t sequence = (cp == 1 ? tp : 2 * cp * tp) * n;
          std::vector<int> holders(std::size_t(sequence), 0);
          for (extent_t c = 0; c < cp; ++c)
            for (extent_t t = 0; t < tp; ++t) {
              const sequence_part part{sequence, cp, c, tp, t};
              CHECK_NOTHROW(check(part));
              CHECK(part.local_tokens() * tp == part.cp_tokens());
              for (extent_t i = 0; i < part.local_tokens(); ++i) ++holders.at(std::size_t(part.local_position(i)));
            }
          CHECK(holders == std::vector<int>(std::size_t(sequence), 1));
        }
  }
  TEST_CASE("positions ascend inside a part") {
    for (extent_t c = 0; c < 3; ++c) {
      const sequence_part part{.sequence = 24, .cp = 3, .cp_rank = c};
      for (extent_t i = 1; i < part.cp_tokens(); ++i) CHECK(part.position(i) > part.position(i - 1));
    }
  }
  TEST_CASE("causal work is the same on every cp rank") {
    for (extent_t c = 0; c < 4; ++c) {
      const sequence_part part{.sequence = 64, .cp = 4, .cp_rank = c};
      extent_t work = 0;
      for (extent_t i = 0; i < part.cp_tokens(); ++i) work += part.position(i) + 1;
      CHECK(work == 64 * 65 / 2 / 4);
    }
  }
  TEST_CASE("without context parallelism a sequence is cut plainly, also an odd one") {
    CHECK_NOTHROW(check(sequence_part{.sequence = 9, .tp = 3}));
    CHECK(sequence_part{.sequence = 9, .tp = 3, .tp_rank = 2}.local_position(2) == 8);
  }
  TEST_CASE("a sequence that cannot be cut is refused with the next length that can") {
    try {
      check(sequence_part{.sequence = 250, .cp = 2, .tp = 2});
      FAIL("accepted");
    } catch (const config_error& e) {
      CHECK(std::string(e.what()) ==
            "moefold: the sequence must be a multiple of 2*cp*tp = 8 (given 250); use 256 or fewer context- or tensor-parallel ranks");
    }
    CHECK_THROWS_AS(check(sequence_part{.sequence = 8, .cp = 2, .cp_rank = 2}), config_error);
  }
}
