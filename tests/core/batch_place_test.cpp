#include <moefold/core/batch_place.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

TEST_SUITE("core/batch_place") {
  static_assert(batch_place{0, 4, 2, {8, 2, 0, 1, 0}}.number(5) == 6 * 2 + 1);
  static_assert(batch_place{0, 4, 2, {8, 2, 0, 1, 0}}.sample(5) == 5);

  TEST_CASE("the ranks of cp x tp number every token of a micro-batch exactly once, in the order of positions") {
    for (const extent_t cp : {1, 2, 3})
      for (const extent_t tp : {1, 2})
        for (const extent_t batch : {1, 3}) {
          const extent_t sequence = 24;
          std::vector<int> seen(std::size_t(sequence * batch), 0);
          for (extent_t c = 0; c < cp; ++c)
            for (extent_t t = 0; t < tp; ++t) {
              const batch_place place{0, 7, batch, {sequence, cp, c, tp, t}};
              for (extent_t i = 0; i < sequence / (cp * tp) * batch; ++i) {
                ++seen.at(std::size_t(place.number(i)));
                CHECK(place.number(i) / batch == place.position(i));
                CHECK(place.sample(i) - 7 == place.number(i) % batch);
              }
            }
          CHECK(seen == std::vector<int>(seen.size(), 1));
        }
  }
}
