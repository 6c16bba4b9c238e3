#pragma once
// How the kernels that move rows and sort slots share their work out among blocks and threads: index arithmetic alone, the same on host and device.
//
//   row_tiles    a row of `units` packs, 2^log_lanes threads side by side on it, `each` packs for a thread; wide rows are cut into chunks
//                block (x, y), thread i:   row x * rows_per_block + i / lanes,  packs of chunk y: first, first + lanes, ..
//   slot_blocks  the slots of every source in equal runs, in order; a block has slots of one source alone
#include <moefold/core/error.hpp>

#include <algorithm>
#include <cstdint>

namespace moefold {

struct row_tiles {
  std::int64_t rows = 0, units = 0;
  int log_lanes = 0;  // threads side by side on one row: at most a warp
  int each = 1;       // units of one thread

  struct place {
    std::int64_t row, first, last;  // no such row: row >= rows. Units first, first + lanes, .. below last
  };

  row_tiles() = default;
  constexpr row_tiles(std::int64_t rows_, std::int64_t units_, int each_) : rows(rows_), units(units_), each(each_) {
    while (log_lanes < 5 && (std::int64_t{1} << log_lanes) < units) ++log_lanes;
  }
  MOEFOLD_HD constexpr int lanes() const { return 1 << log_lanes; }
  constexpr int rows_per_block(int threads) const { return threads >> log_lanes; }
  constexpr std::int64_t chunks() const { return (units + lanes() * each - 1) / (lanes() * each); }

  MOEFOLD_HD constexpr place at(unsigned block_x, unsigned block_y, int thread, int threads) const {
    const std::int64_t chunk = std::int64_t(lanes()) * each, end = (std::int64_t(block_y) + 1) * chunk;
    return {std::int64_t(block_x) * (threads >> log_lanes) + (thread >> log_lanes),
            std::int64_t(block_y) * chunk + (thread & (lanes() - 1)), end < units ? end : units};
  }
};

struct slot_blocks {
  std::int64_t each = 0;        // slots of one source
  std::int64_t per_block = 1;   // slots of one block, the last of a source may have fewer
  std::int64_t per_source = 1;  // blocks of one source; one even without slots

  slot_blocks() = default;
  constexpr slot_blocks(std::int64_t slots, std::int64_t sources, std::int64_t per_block_)
      : each(slots / sources), per_block(per_block_), per_source(std::max<std::int64_t>(1, (each + per_block - 1) / per_block)) {}
  MOEFOLD_HD constexpr std::int64_t source(std::int64_t block) const { return block / per_source; }
  MOEFOLD_HD constexpr std::int64_t first(std::int64_t block) const { return source(block) * each + block % per_source * per_block; }
  MOEFOLD_HD constexpr std::int64_t last(std::int64_t block) const {
    const std::int64_t end = first(block) + per_block, of_source = (source(block) + 1) * each;
    return end < of_source ? end : of_source;
  }
};

}  // namespace moefold
