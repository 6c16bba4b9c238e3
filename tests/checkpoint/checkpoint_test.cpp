#include <moefold/checkpoint/checkpoint.hpp>

#include "../support/checkpoint_state.hpp"
#include "../support/memory_storage.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using namespace moefold::test;
using namespace moefold::testing;

TEST_SUITE("checkpoint/checkpoint") {
  TEST_CASE("what any of 26 foldings saves, at once or apart, others load, element by element") {
    const std::vector<mapping> all = many_mappings();
    memory_storage disk;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const std::string folder = "saves/" + std::to_string(i);
      save_step(disk, folder, all[i].fold, odd_model(i % 2 == 0), extent_t(i), 2, i % 2 == 1);
      for (const std::size_t j : {i, (i + 7) % all.size(), (i + 18) % all.size()}) {
        CAPTURE(all[i].name);
        CAPTURE(all[j].name);
        CHECK(load_step(disk, folder, all[j].fold, odd_model(i % 2 == 0)) == extent_t(i));
      }
    }
  }
}
