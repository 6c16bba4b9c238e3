#include <moefold/ops/rows.hpp>

#include <doctest/doctest.h>
#include "../support/random.hpp"

using namespace moefold;

TEST_SUITE("ops/rows") {
  TEST_CASE("leading extents are flattened into rows") {
    double none[1];
    CHECK(rows_of(view<double>(none, {2, 3, 4})) == 6);
    CHECK(cols_of(view<double>(none, {2, 3, 4})) == 4);
    CHECK(rows_of(view<double>(none, {7})) == 1);
    CHECK(rows_of(view<double>(none, {0, 5})) == 0);
  }
  TEST_CASE_TEMPLATE("lane sums and maxima agree with plain loops for every length", T, float, double) {
    const auto x = test::random_tensor<T>({100}, 3);
    for (extent_t n = 0; n <= 100; ++n) {
      double sum = 0, most = -std::numeric_limits<double>::infinity();
      for (extent_t i = 0; i < n; ++i) sum += double(x[std::size_t(i)]), most = std::max(most, double(x[std::size_t(i)]));
      const auto term = [&](extent_t i) { return x[std::size_t(i)]; };
      CHECK(double(lane_sum<T>(n, term)) == doctest::Approx(sum).epsilon(1e-5));
      CHECK(double(lane_max<T>(n, term)) == most);
    }
  }
  TEST_CASE("a wrong shape says what was given and what is needed") {
    double none[1];
    CHECK_THROWS_WITH_AS(require_matrix("gemm_nt", "a", view<double>(none, {2, 3}), 2, 4),
                         "moefold: gemm_nt needs a [2, 4] to fit its other arguments, given [2, 3]; "
                         "pass a view of that many rows and columns",
                         error);
    CHECK_THROWS_AS(require_count("rope", "position", 3, 4), error);
  }
}
