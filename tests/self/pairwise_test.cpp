// The tests' own tools: the sample of runs in which every two choices meet.
#include "../support/pairwise.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>

using namespace moefold::testing;

namespace {

std::vector<factor> some(const std::vector<int>& sizes) {
  std::vector<factor> factors;
  for (const int size : sizes) {
    factor f{"f" + std::to_string(factors.size()), {}};
    for (int l = 0; l < size; ++l) f.levels.push_back(std::to_string(l));
    factors.push_back(f);
  }
  return factors;
}
using pairs = std::set<std::vector<std::size_t>>;
pairs pairs_in(const std::vector<row>& rows) {
  pairs all;
  for (const row& r : rows)
    for (std::size_t a = 0; a < r.size(); ++a)
      for (std::size_t b = a + 1; b < r.size(); ++b) all.insert({a, std::size_t(r[a]), b, std::size_t(r[b])});
  return all;
}

}  // namespace

TEST_SUITE("self/pairwise") {
  TEST_CASE("every pair of levels that a legal row holds is in the sample, no illegal row is, and the sample is small") {
    for (const auto& sizes : std::vector<std::vector<int>>{{21, 4, 4, 2, 2, 3, 2}, {2, 2, 2, 2, 2, 2, 2, 2}, {5, 1, 3}, {7}}) {
      const auto factors = some(sizes);
      const auto legal = [](const row& r) { return r.size() < 3 || r[0] % 4 != 1 || r[2] == 0; };
      const auto sample = pairwise(factors, legal);
      const auto all = all_rows(factors, legal);
      CHECK(pairs_in(sample) == pairs_in(all));
      for (const row& r : sample) CHECK(legal(r));
      CHECK(sample.size() <= all.size());
      if (sizes.size() > 5) CHECK(sample.size() <= (sizes[0] == 21 ? 110u : 12u));
    }
  }
  TEST_CASE("the sample is the same every time, another with another seed, and as long as asked for") {
    const auto factors = some({6, 4, 3, 2});
    const auto all = [](const row&) { return true; };
    CHECK(pairwise(factors, all, 40, 5) == pairwise(factors, all, 40, 5));
    CHECK(pairwise(factors, all, 40, 5) != pairwise(factors, all, 40, 6));
    CHECK(pairwise(factors, all, 40).size() >= 40);
    CHECK_THROWS(pairwise(factors, [](const row&) { return false; }));
  }
  TEST_CASE("further rows are no repetitions, and a product that is too small ends the sample") {
    const auto factors = some({3, 2, 2});
    const auto all = [](const row&) { return true; };
    for (const std::size_t least : {9u, 12u, 100u}) {
      const auto sample = pairwise(factors, all, least);
      CHECK(sample.size() == std::min<std::size_t>(least, 12));
      CHECK(std::set<row>(sample.begin(), sample.end()).size() == sample.size());
    }
  }
  TEST_CASE("preferred rows come first, and others only for pairs that no preferred row holds") {
    const auto factors = some({5, 4, 3, 3});
    const auto all = [](const row&) { return true; };
    const auto preferred = [](const row& r) { return r[0] != 4 || r[1] == 2; };
    const auto sample = pairwise(factors, all, 0, 1, preferred);
    CHECK(pairs_in(sample) == pairs_in(all_rows(factors, all)));
    CHECK(std::is_partitioned(sample.begin(), sample.end(), preferred));
    CHECK(std::count_if(sample.begin(), sample.end(), preferred) >= 16);
    CHECK(std::count_if(sample.begin(), sample.end(), preferred) < std::ptrdiff_t(sample.size()));
    const pairs held = pairs_in(all_rows(factors, preferred));
    for (const row& r : sample)
      if (!preferred(r)) {
        const pairs in_row = pairs_in({r});
        CHECK_FALSE(std::includes(held.begin(), held.end(), in_row.begin(), in_row.end()));
      }
    CHECK(pairwise(factors, all, 0, 1, [](const row&) { return false; }) == pairwise(factors, all));  // none preferred: no difference
  }
  TEST_CASE("a table names factors and levels, numbers its rows and marks the chosen ones") {
    CHECK(table({{"folding", {"tp", "cp alone"}}, {"dp", {"1", "2"}}}, {{0, 1}, {1, 0}}, {1}) ==
          "     folding   dp\n"
          "  0  tp        2\n"
          "* 1  cp alone  1\n");
  }
  TEST_CASE("MOEFOLD_ROTATION chooses the turn, must be a number, and is the day where it is not set") {
    const char* const before = std::getenv("MOEFOLD_ROTATION");
    const std::string kept = before ? before : "";
    setenv("MOEFOLD_ROTATION", "12", 1);
    CHECK(rotation() == 12);
    for (const char* wrong : {"-1", "12a", "a3f", " 4"}) {
      setenv("MOEFOLD_ROTATION", wrong, 1);
      CHECK_THROWS_AS(rotation(), moefold::config_error);
    }
    unsetenv("MOEFOLD_ROTATION");
    CHECK(rotation() >= 20000);
    if (before) setenv("MOEFOLD_ROTATION", kept.c_str(), 1);
  }
  TEST_CASE("turns take every row in time, and a row can be read") {
    for (const std::size_t size : {1u, 5u, 40u, 97u})
      for (const std::size_t count : {1u, 6u, 40u}) {
        std::set<std::size_t> seen;
        for (std::size_t turn = 7; turn < 7 + (size + count - 1) / count; ++turn)
          for (const std::size_t i : rotating(size, count, turn)) seen.insert(i);
        CHECK(seen.size() == size);
      }
    CHECK(describe(some({2, 3}), {1, 2}) == "f0=1, f1=2");
  }
}
