#pragma once
// How long a matrix product takes on a GPU, from its shape: by its tiles, the waves they come in, the length of the inner dimension, and the bytes it must
// move. One model for the three products of a layer, so that small and ragged products of fine-grained experts cost what they cost.
//
//   C [G][rows, columns] = A [G][rows, depth] * B [G][depth, columns]      G groups: the experts of a rank
//   tiles = G * ceil(rows / 128) * ceil(columns / 256);  waves = ceil(tiles / SMs)
//   t = max(2 G rows columns depth / (peak * gemm * filled * depth / (depth + half_depth)), bytes / (hbm * share))
#include <moefold/plan/cluster.hpp>

namespace moefold {

struct product_shape {
  double rows = 0, columns = 0, depth = 0;
  double groups = 1;
  bool ragged = false;     // the groups' rows differ: half a tile of each is wasted on average
  bool grouped = false;    // one kernel makes all groups, where a cluster says what such a one reaches
  double extra_bytes = 0;  // besides inputs and output of 2 bytes an element: a sum read and written in fp32

  constexpr double flops() const { return 2 * rows * columns * depth * groups; }
  /// The products of its backward: of the input, of the weight (whose depth is the rows, and which adds to an fp32 sum).
  constexpr product_shape of_input() const { return {rows, depth, columns, groups, ragged, grouped}; }
  constexpr product_shape of_weight() const { return {columns, depth, rows, groups, false, grouped, 6 * columns * depth * groups}; }
};

namespace detail {

constexpr double whole(double x) { return double(extent_t(x)) == x ? x : double(extent_t(x) + 1); }  // ceil, for x >= 0

}  // namespace detail

/// The share of the GPU's processors that a product keeps busy, over its waves of tiles.
constexpr double filled_share(const product_shape& p, const cluster_spec& c) {
  const double height =
      std::min(double(c.efficiency.tile_rows), 16 * detail::whole(p.rows / 16));  // libraries have tiles for narrow outputs
  const double width = std::min(double(c.efficiency.tile_columns), 16 * detail::whole(p.columns / 16));
  const double at_once = double(c.gpu.processors);
  const double high = detail::whole(p.rows / height) + (p.ragged ? 0.5 : 0), wide = detail::whole(p.columns / width);
  const double tiles = p.groups * high * wide;
  const double waves = detail::whole(tiles / at_once);
  return p.groups * p.rows * p.columns / (waves * at_once * height * width);
}

/// Seconds on the GPU, the launch not counted. eighths: of 8-bit inputs, at the fp8 peak where the GPU has one.
constexpr double seconds_of(const product_shape& p, const cluster_spec& c, bool eighths = false) {
  if (p.flops() <= 0) return 0;
  const efficiency_spec& e = c.efficiency;
  const bool narrow = eighths && c.gpu.fp8_flops > 0;
  const double kernel = p.grouped ? e.grouped : 1;
  const double peak = kernel * (narrow ? c.gpu.fp8_flops * e.gemm8 : c.gpu.bf16_flops * e.gemm), half = e.half_depth * (narrow ? 2 : 1);
  const double work = p.flops() / (peak * filled_share(p, c) * p.depth / (p.depth + half));
  const double bytes =
      p.groups * (p.rows * p.depth + p.depth * p.columns) * (narrow ? 1 : 2) + p.groups * p.rows * p.columns * 2 + p.extra_bytes;
  return std::max(work, bytes / (c.gpu.hbm_bytes * e.hbm));
}

/// Seconds of a kernel that only streams `bytes`, read and written.
constexpr double streaming_seconds(double bytes, const cluster_spec& c) { return bytes / (c.gpu.hbm_bytes * c.efficiency.hbm); }

}  // namespace moefold
