#include <moefold/checkpoint/checkpoint.hpp>

#include "../support/checkpoint_state.hpp"
#include "../support/memory_storage.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using namespace moefold::test;
using namespace moefold::testing;
using doctest::Contains;

TEST_SUITE("checkpoint/checkpoint") {
  TEST_CASE("what any of 26 foldings saves, any other loads, element by element; at once and apart") {
    const std::vector<mapping> all = many_mappings();
    memory_storage disk;
    std::vector<std::string> folders;
    for (std::size_t i = 0; i < all.size(); ++i) {
      folders.push_back("saves/" + std::to_string(i));
      save_step(disk, folders.back(), all[i].fold, odd_model(false), extent_t(i) + 1, 2, i % 2 == 1);
    }
    for (std::size_t i = 0; i < all.size(); ++i)  // each pair once in two runs of the whole list
      for (std::size_t j = i % 3; j < all.size(); j += 3) {
        CAPTURE(all[i].name);
        CAPTURE(all[j].name);
        CHECK(load_step(disk, folders[i], all[j].fold, odd_model(false)) == extent_t(i) + 1);
      }
  }
}
