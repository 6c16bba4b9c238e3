#include <moefold/ops/grouped_tiles.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

namespace {

/// Calls visit with every ascending list of groups + 1 offsets from 0 to rows.
template <class Visit>
void for_offsets(std::int64_t groups, std::int64_t rows, Visit visit) {
  std::vector<std::int64_t> offsets(std::size_t(groups) + 1, 0);
  offsets.back() = rows;
  const auto place = [&](auto self, std::size_t g) -> void {
    if (g + 1 >= offsets.size()) return visit(offsets);
    for (offsets[g] = offsets[g - 1]; offsets[g] <= rows; ++offsets[g]) self(self, g + 1);
  };
  place(place, 1);
}

}  // namespace

TEST_SUITE("ops/grouped_tiles") {
  TEST_CASE("bands visit every tile once") {
    for (std::int64_t rows = 1; rows <= 9; ++rows)
      for (std::int64_t columns = 1; columns <= 5; ++columns)
        for (std::int64_t band = 1; band <= 10; ++band) {
          std::vector<int> seen(std::size_t(rows * columns), 0);
          for (std::int64_t i = 0; i < rows * columns; ++i) {
            const tile_place at = in_bands(i, rows, columns, band);
            REQUIRE((at.row >= 0 && at.row < rows && at.column >= 0 && at.column < columns));
            ++seen[std::size_t(at.row * columns + at.column)];
          }
          CHECK(seen == std::vector<int>(seen.size(), 1));
        }
  }
  TEST_CASE("for any offsets the row tiles cover every row of every group once, and never two groups") {
    for (std::int64_t groups = 1; groups <= 4; ++groups)
      for (std::int64_t rows = 0; rows <= 9; ++rows)
        for (std::int64_t tile = 1; tile <= 5; ++tile)
          for_offsets(groups, rows, [&](const std::vector<std::int64_t>& offsets) {
            std::vector<int> seen(std::size_t(rows), 0);
            for (std::int64_t number = 0; number < row_tile_numbers(rows, groups, tile); ++number) {
              const auto g = std::size_t(group_of_row_tile(offsets.data(), groups, tile, number));
              const std::int64_t first = offsets[g] + (number - offsets[g] / tile - std::int64_t(g)) * tile;
              REQUIRE(first >= offsets[g]);
              for (std::int64_t r = first; r < first + tile && r < offsets[g + 1]; ++r) ++seen[std::size_t(r)];
            }
            REQUIRE(seen == std::vector<int>(seen.size(), 1));
          });
  }
  TEST_CASE("the tiles of all blocks together are the three products, each element made once") {
    const std::int64_t out = 3, in = 4;
    for (const grouped_kind kind : {grouped_kind::nt, grouped_kind::nn, grouped_kind::tn})
      for (std::int64_t groups = 1; groups <= 3; ++groups)
        for (std::int64_t rows = 0; rows <= 5; ++rows)
          for_offsets(groups, rows, [&](const std::vector<std::int64_t>& offsets) {
            const grouped_extents all{groups, rows, out, in};
            const bool by_weight = kind == grouped_kind::tn;
            const std::int64_t size_w = groups * out * in, size_a = rows * (kind == grouped_kind::nt ? in : out),
                               size_b = by_weight ? rows * in : size_w,
                               size_c = by_weight ? size_w : rows * (kind == grouped_kind::nt ? out : in);
            const auto value_a = [](std::int64_t i) { return double(i * 7 % 11 - 5); };
            const auto value_b = [](std::int64_t i) { return double(i * 5 % 13 - 6); };
            for (std::int64_t tile_m = 1; tile_m <= 3; ++tile_m)
              for (std::int64_t tile_n = 1; tile_n <= 5; tile_n += 2) {
                std::vector<double> c(std::size_t(size_c), 0);
                std::vector<int> made(std::size_t(size_c), 0);
                for (std::int64_t block = 0; block < grouped_blocks(kind, all, tile_m, tile_n); ++block) {
                  const grouped_tile t = tile_of_block(kind, block, offsets.data(), all, tile_m, tile_n, 2);
                  REQUIRE((t.m <= tile_m && t.n <= tile_n));
                  for (std::int64_t i = 0; i < t.m; ++i)
                    for (std::int64_t j = 0; j < t.n; ++j) {
                      REQUIRE((t.c + i * t.ldc + j >= 0 && t.c + i * t.ldc + j < size_c));
                      ++made[std::size_t(t.c + i * t.ldc + j)];
                      for (std::int64_t k = 0; k < t.k; ++k) {
                        const std::int64_t a = t.a + (by_weight ? k * t.lda + i : i * t.lda + k),
                                           b = t.b + (kind == grouped_kind::nt ? j * t.ldb + k : k * t.ldb + j);
                        REQUIRE((a >= 0 && a < size_a && b >= 0 && b < size_b));
                        c[std::size_t(t.c + i * t.ldc + j)] += value_a(a) * value_b(b);
                      }
                    }
                }
                std::vector<double> expected(std::size_t(size_c), 0);
                std::vector<int> once(std::size_t(size_c), 0);
                for (std::int64_t g = 0; g < groups; ++g)
                  for (std::int64_t r = offsets[std::size_t(g)]; r < offsets[std::size_t(g) + 1]; ++r)
                    for (std::int64_t o = 0; o < out; ++o)
                      for (std::int64_t i = 0; i < in; ++i) {
                        const std::int64_t w = (g * out + o) * in + i;
                        const std::int64_t at = by_weight ? w : kind == grouped_kind::nt ? r * out + o : r * in + i;
                        const double left = value_a(kind == grouped_kind::nt ? r * in + i : r * out + o),
                                     right = value_b(by_weight ? r * in + i : w);
                        expected[std::size_t(at)] += left * right, once[std::size_t(at)] = 1;
                      }
                REQUIRE(c == expected);
                REQUIRE(made == once);
              }
          });
  }
  TEST_CASE("offsets that are wrong lead no tile out of the matrix") {
    const grouped_extents all{3, 8, 2, 2};
    for (std::int64_t a = -9; a <= 20; ++a)
      for (std::int64_t b = -9; b <= 20; ++b)
        for (std::int64_t end = -9; end <= 20; end += 3) {
          const std::int64_t offsets[] = {0, a, b, end};
          for (const grouped_kind kind : {grouped_kind::nt, grouped_kind::tn})
            for (std::int64_t block = 0; block < grouped_blocks(kind, all, 4, 4); ++block) {
              const grouped_tile t = tile_of_block(kind, block, offsets, all, 4, 4, 2);
              if (t.m == 0) continue;
              const std::int64_t last = t.a + (kind == grouped_kind::tn ? (t.k - 1) * t.lda + t.m - 1 : (t.m - 1) * t.lda + t.k - 1);
              REQUIRE((t.a >= 0 && last < 16));
            }
        }
  }
}
