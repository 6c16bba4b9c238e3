// The tests' own tools: the sample of runs in which every two choices meet.
#include "../support/pairwise.hpp"

#include <doctest/doctest.h>

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
