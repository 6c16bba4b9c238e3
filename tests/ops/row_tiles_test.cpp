#include <moefold/ops/row_tiles.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

TEST_SUITE("ops/row_tiles") {
  TEST_CASE("the threads of all blocks take every unit of every row once") {
    for (const int threads : {32, 256})
      for (const int each : {1, 3, 8})
        for (const extent_t rows : {1, 2, 7, 33})
          for (const extent_t units : {1, 2, 3, 5, 16, 31, 32, 33, 64, 257, 600}) {
            const row_tiles tiles(rows, units, each);
            std::vector<int> taken(std::size_t(rows * units), 0);
            int begins = 0;
            const extent_t blocks = (rows + tiles.rows_per_block(threads) - 1) / tiles.rows_per_block(threads);
            for (unsigned x = 0; x < unsigned(blocks); ++x)
              for (unsigned y = 0; y < unsigned(tiles.chunks()); ++y)
                for (int i = 0; i < threads; ++i) {
                  const row_tiles::place p = tiles.at(x, y, i, threads);
                  if (p.row >= rows) continue;
                  begins += p.first == 0;
                  extent_t count = 0;
                  for (extent_t u = p.first; u < p.last; u += tiles.lanes(), ++count) ++taken[std::size_t(p.row * units + u)];
                  CHECK(count <= each);
                }
            CHECK(std::count(taken.begin(), taken.end(), 1) == rows * units);
            CHECK(begins == rows);  // one thread speaks for a row
          }
  }
  TEST_CASE("a row of no units still has one thread that begins it, in one chunk") {
    const row_tiles tiles(3, 0, 8);
    CHECK(tiles.chunks() == 0);
    CHECK(tiles.lanes() == 1);
    CHECK(tiles.at(0, 0, 2, 32).row == 2);
    CHECK(tiles.at(0, 0, 2, 32).first == 0);
  }
  TEST_CASE("blocks take the slots in order, each once, and none of two sources") {
    for (const extent_t sources : {1, 2, 3})
      for (const extent_t each : {0, 1, 4, 5, 9, 64})
        for (const extent_t per_block : {1, 4, 32}) {
          const slot_blocks blocks(sources * each, sources, per_block);
          extent_t next = 0;
          for (extent_t b = 0; b < sources * blocks.per_source; ++b) {
            CHECK(blocks.first(b) == next);
            CHECK(blocks.last(b) >= blocks.first(b));
            CHECK(blocks.last(b) - blocks.first(b) <= per_block);
            if (blocks.last(b) > blocks.first(b)) {
              CHECK(blocks.first(b) / each == blocks.source(b));
              CHECK((blocks.last(b) - 1) / each == blocks.source(b));
            }
            next = blocks.last(b);
          }
          CHECK(next == sources * each);
        }
  }
}
