#pragma once
// What a rank owns of a global tensor: a box, by the tensor's placement, and of the box's elements, counted flat, the even
// range whose optimizer state is its own (ZeRO-1).
//
//   experts W1 [E 8, F 144, H 128] on ep 4, etp 1, edp 2        rank with ep 1:   box  offset [2, 0, 0]   extent [2, 144, 128]
//   its 36864 elements over the 2 replicas along edp            edp 0: [0, 18432)      edp 1: [18432, 36864)
#include <moefold/mesh/coordinate.hpp>
#include <moefold/mesh/placement.hpp>

#include <algorithm>

namespace moefold {

/// A box of a row-major tensor.
struct box {
  shape global;                                    // the whole tensor
  std::array<extent_t, shape::max_rank> offset{};  // where the box begins
  shape extent;                                    // the box

  constexpr extent_t size() const { return extent.size(); }

  /// Where the box's element `local` (flat, row-major in the box) lies in the whole tensor (flat, row-major).
  constexpr extent_t global_index(extent_t local) const {
    extent_t index = 0, stride = 1;
    for (int i = global.rank - 1; i >= 0; --i) {
      index += (offset[std::size_t(i)] + local % extent[i]) * stride;
      local /= extent[i];
      stride *= global[i];
    }
    return index;
  }
  /// So many neighbours of the box are neighbours in the whole tensor too: copy runs of this length. Divides size().
  constexpr extent_t run() const {
    extent_t length = 1;
    for (int i = global.rank - 1; i >= 0; --i) {
      length *= extent[i];
      if (extent[i] != global[i]) break;
    }
    return length;
  }
  friend constexpr bool operator==(const box&, const box&) = default;
};

/// The box of a tensor that a rank holds. Throws config_error if a cut does not come out even or the rank is outside the world.
constexpr box box_of(const placement_value& where, const shape& global, const folding_extents& fold, extent_t rank) {
  box b{global, {}, where.local(global, fold)};
  const coordinate at = coordinate_of(where.mesh_of(fold), rank);
  for (int i = 0; i < where.count; ++i) {
    const cut& c = where.cuts[std::size_t(i)];
    b.offset[std::size_t(c.dim)] = at[c.axis] * b.extent[c.dim];
  }
  return b;
}

struct flat_range {  // [begin, end) of a flat buffer
  extent_t begin = 0, end = 0;

  constexpr extent_t size() const { return end - begin; }
  constexpr bool empty() const { return begin == end; }
  friend constexpr bool operator==(const flat_range&, const flat_range&) = default;
};

/// What one rank owns of a tensor: a flat range of a box of it. Elements whose index in the whole tensor is `real` or above only pad (they come last: rows
/// behind the vocabulary) and belong to no file.
struct tensor_piece {
  box where;
  flat_range range;   // of the box, row-major
  extent_t real = 0;  // elements of the whole tensor that are no padding

  /// Calls f(first in the whole tensor, first in the piece, count) for every run of neighbours, in order, padding left out.
  template <class F>
  constexpr void for_each_run(F&& f) const {
    const extent_t length = where.size() == 0 ? 1 : where.run();
    for (extent_t at = range.begin; at < range.end;) {
      const extent_t end = std::min(range.end, (at / length + 1) * length);
      const extent_t global = where.global_index(at), count = std::min(end - at, real - global);
      if (count > 0) f(global, at - range.begin, count);
      at = end;
    }
  }
  /// Elements that are no padding.
  constexpr extent_t size() const {
    extent_t total = 0;
    for_each_run([&](extent_t, extent_t, extent_t count) { total += count; });
    return total;
  }
  friend constexpr bool operator==(const tensor_piece&, const tensor_piece&) = default;
};

/// Piece `index` of `count` elements over `ranks` ranks: ceil(count / ranks) each, the last pieces shorter or empty.
constexpr flat_range shard_of(extent_t count, extent_t ranks, extent_t index) {
  require(count >= 0 && ranks >= 1 && index >= 0 && index < ranks, "moefold: piece ", index, " of ", count, " elements over ", ranks,
          " ranks does not exist; needed are count >= 0 and 0 <= index < ranks");
  const extent_t piece = count / ranks + (count % ranks != 0);
  return {std::min(index * piece, count), std::min((index + 1) * piece, count)};
}

}  // namespace moefold
