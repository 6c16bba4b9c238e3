#include <moefold/plan/prediction.hpp>

#include <doctest/doctest.h>

#include <set>
#include <string>

using namespace moefold;

TEST_SUITE("plan/prediction") {
  TEST_CASE("every part of a step has a place of its own, a name of its own, and is in the total") {
    const time_split t{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
    CHECK(t.total() == 32767);
    CHECK(sizeof(time_split) == time_split::parts * sizeof(double));
    std::set<std::string> names;
    for (std::size_t i = 0; i < time_split::parts; ++i) {
      CHECK(t.all()[i] == double(1 << i));  // in the order of the members, as are the names
      names.insert(time_split::names[i]);
    }
    CHECK(names.size() == time_split::parts);
    CHECK(std::string(time_split::names[7]) == "ep");
    CHECK(t.ep == 128);
  }
  TEST_CASE("what a GPU holds is the sum of its kinds, the stage's number aside") {
    CHECK(plan_memory{7, 1, 2, 4, 8, 16, 32}.total() == 63);
  }
}
