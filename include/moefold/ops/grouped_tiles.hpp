#pragma once
// Which block of a grouped matrix product on a device makes which tile of which group, found from offsets that only the device knows. The host
// launches as many blocks as any offsets could need; what is left over finds nothing to do.
//
//   offsets  0    5 5      9      row tiles of 4 rows: group g's begin at number offsets[g] / 4 + g
//   group    0    1 2             group 0: numbers 0, 1     group 1: 2 (no rows)     group 2: 3, 4     in all rows / 4 + groups = 5
#include <moefold/core/shape.hpp>

#include <cstdint>

namespace moefold {

/// The three products of ops/grouped_gemm.hpp: y = x w^T, dx = dy w, dw += dy^T x.
enum class grouped_kind { nt, nn, tn };

/// How many numbers row tiles of all groups have, some of them without rows: enough for any offsets from 0 to `rows`.
MOEFOLD_HD constexpr std::int64_t row_tile_numbers(std::int64_t rows, std::int64_t groups, std::int64_t tile) {
  return rows / tile + groups;
}

/// The group to which row tile `number` belongs. The first number of group g, offsets[g] / tile + g, ascends strictly and leaves a group of
/// `count` rows at least ceil(count / tile) numbers, so a search by halves finds it without anybody having counted tiles.
MOEFOLD_HD constexpr std::int64_t group_of_row_tile(const std::int64_t* offsets, std::int64_t groups, std::int64_t tile,
                                                    std::int64_t number) {
  std::int64_t low = 0, high = groups;  // first(low) <= number < first(high)
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    (offsets[middle] / tile + middle <= number ? low : high) = middle;
  }
  return low;
}

struct tile_place {
  std::int64_t row, column;
};
/// Tile `number` of rows x columns tiles, in bands of `band` rows of tiles, down each column of a band: blocks that run together share tiles
/// of both operands in the device's cache.
MOEFOLD_HD constexpr tile_place in_bands(std::int64_t number, std::int64_t rows, std::int64_t columns, std::int64_t band) {
  const std::int64_t first = number / (band * columns) * band, height = rows - first < band ? rows - first : band;
  const std::int64_t inside = number - first * columns;
  return {first + inside % height, inside / height};
}

/// What one block multiplies: c [m, n] (+)= a b over k. Places are in elements from the beginning of the three operands; extents are those of
/// the tile, cut off at the end of its group or matrix. m = 0: nothing to do.
struct grouped_tile {
  std::int64_t m = 0, n = 0, k = 0;
  std::int64_t a = 0, b = 0, c = 0;        // where the tile's rows of a, columns of b and elements of c begin
  std::int64_t lda = 0, ldb = 0, ldc = 0;  // a is [m, k], for tn stored [k, m]; b is [k, n], for nt stored [n, k]
};

/// Extents of the whole product: x [rows, in], w [groups, out, in].
struct grouped_extents {
  std::int64_t groups, rows, out, in;
};

MOEFOLD_HD constexpr std::int64_t tiles_over(std::int64_t extent, std::int64_t tile) { return (extent + tile - 1) / tile; }

/// How many blocks to launch: known without offsets.
constexpr std::int64_t grouped_blocks(grouped_kind kind, const grouped_extents& all, std::int64_t tile_m, std::int64_t tile_n) {
  if (all.rows == 0) return 0;  // a group without rows is left as it was
  if (kind == grouped_kind::tn) return all.groups * tiles_over(all.out, tile_m) * tiles_over(all.in, tile_n);
  return row_tile_numbers(all.rows, all.groups, tile_m) * tiles_over(kind == grouped_kind::nt ? all.out : all.in, tile_n);
}

/// Row of a group, kept inside the matrix whatever offsets say: wrong ones are reported elsewhere.
MOEFOLD_HD constexpr std::int64_t row_within(std::int64_t offset, std::int64_t least, std::int64_t most) {
  return offset < least ? least : most < offset ? most : offset;
}

/// The tile of block `number`.
MOEFOLD_HD constexpr grouped_tile tile_of_block(grouped_kind kind, std::int64_t number, const std::int64_t* offsets,
                                                const grouped_extents& all, std::int64_t tile_m, std::int64_t tile_n, std::int64_t band) {
  const std::int64_t columns = kind == grouped_kind::nt ? all.out : all.in, across = tiles_over(columns, tile_n);
  const bool by_weight = kind == grouped_kind::tn;
  const std::int64_t down = by_weight ? tiles_over(all.out, tile_m) : row_tile_numbers(all.rows, all.groups, tile_m);
  const tile_place at = in_bands(by_weight ? number % (down * across) : number, down, across, band);
  const std::int64_t g = by_weight ? number / (down * across) : group_of_row_tile(offsets, all.groups, tile_m, at.row);
  const std::int64_t begin = row_within(offsets[g], 0, all.rows), end = row_within(offsets[g + 1], begin, all.rows);
  const std::int64_t i = (by_weight ? at.row : at.row - (offsets[g] / tile_m + g)) * tile_m, j = at.column * tile_n;
  const std::int64_t left = (by_weight ? all.out : end - begin) - i, weight = g * all.out * all.in;
  grouped_tile t;
  if (left <= 0 || i < 0 || begin == end) return t;
  t.m = left < tile_m ? left : tile_m;
  t.n = columns - j < tile_n ? columns - j : tile_n;
  switch (kind) {
    case grouped_kind::nt:
      t.k = t.lda = t.ldb = all.in, t.ldc = all.out;
      t.a = (begin + i) * all.in, t.b = weight + j * all.in, t.c = (begin + i) * all.out + j;
      break;
    case grouped_kind::nn:
      t.k = t.lda = all.out, t.ldb = t.ldc = all.in;
      t.a = (begin + i) * all.out, t.b = weight + j, t.c = (begin + i) * all.in + j;
      break;
    case grouped_kind::tn:
      t.k = end - begin, t.lda = all.out, t.ldb = t.ldc = all.in;
      t.a = begin * all.out + i, t.b = begin * all.in + j, t.c = weight + i * all.in + j;
      break;
  }
  return t;
}

}  // namespace moefold
