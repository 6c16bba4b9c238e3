#include <moefold/ops/row_copy.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

TEST_SUITE("ops/row_copy") {
  TEST_CASE("a row is copied or cleared over whatever was there, and its neighbours are left alone") {
    std::vector<float> from{1, 2, 3}, to(5, -1.f);
    copy_row(from.data(), to.data() + 1, 3);
    CHECK(to == std::vector<float>{-1, 1, 2, 3, -1});
    to[2] = std::numeric_limits<float>::quiet_NaN();
    zero_row(to.data() + 1, 3);
    CHECK(to == std::vector<float>{-1, 0, 0, 0, -1});
  }
  TEST_CASE_TEMPLATE("rows are added in their order, null pointers left out; none at all is zero", T, float, double, bf16) {
    using A = accumulate_t<T>;
    constexpr extent_t width = 133;
    for (extent_t k = 0; k <= 7; ++k) {
      std::vector<std::vector<T>> rows;
      for (extent_t j = 0; j < k; ++j) {
        auto& row = rows.emplace_back();
        for (extent_t c = 0; c < width; ++c) row.push_back(T(float(1 + j * j) / float(3 + c)));
      }
      const auto row_of = [&](extent_t j) { return j % 3 == 1 ? nullptr : rows[std::size_t(j)].data(); };
      std::vector<T> out(width, T(9.f));
      sum_rows(width, k, row_of, out.data());
      for (extent_t c = 0; c < width; ++c) {
        A sum = 0;
        for (extent_t j = 0; j < k; ++j)
          if (j % 3 != 1) sum += A(rows[std::size_t(j)][std::size_t(c)]);
        CHECK(A(out[std::size_t(c)]) == A(T(sum)));  // bf16: added in fp32, rounded once
      }
    }
  }
}
