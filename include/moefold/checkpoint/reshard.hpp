#pragma once
// From the pieces a tensor was saved in to the pieces that another mapping wants of it: index algebra on boxes, never a table of the tensor's size.
//
//   saved, columns over tp 2     wanted, rows over dp 3: row 1            shared runs {saved, first in saved, first in wanted, count}
//     | a a a . . . |              | . . . . . . |
//     | a a a b b b |              | w w w w w w |                          {a, 3, 0, 3}  {b, 0, 3, 3}
//     | a a a b b b |              | . . . . . . |
// Elements of a piece are counted from its range's begin, in row-major order of its box. Padding comes last there, so it never shifts a real element.
#include <moefold/mesh/slice.hpp>

#include <span>
#include <vector>

namespace moefold {

/// The same piece of the tensor without its padding, which is whole rows at the end of the outermost extent. Throws config_error where it is not.
inline tensor_piece unpadded(const tensor_piece& piece) {
  tensor_piece out = piece;
  const extent_t all = piece.where.global.size();
  if (piece.real == all) return out;
  const extent_t row = piece.where.global[0] == 0 ? 0 : all / piece.where.global[0];
  require<config_error>(piece.where.global.rank > 0 && row > 0 && piece.real >= 0 && piece.real < all && piece.real % row == 0,
                        "moefold: ", piece.real, " elements of a tensor ", piece.where.global.text(),
                        " are no whole number of rows; only rows at its end may pad");
  const extent_t rows = piece.real / row;
  box& b = out.where;
  b.global[0] = rows;
  b.offset[0] = std::min(b.offset[0], rows);
  b.extent[0] = std::min(b.extent[0], rows - b.offset[0]);
  const extent_t size = b.size();
  out.range = {std::min(piece.range.begin, size), std::min(piece.range.end, size)};
  return out;
}

namespace detail {

/// The runs of a piece without padding, one after the other.
class run_cursor {
 public:
  explicit run_cursor(const tensor_piece& piece)
      : piece_(piece), length_(piece.where.run()), row_(piece.range.begin / length_), rows_((piece.range.end + length_ - 1) / length_) {
    look();
  }
  bool done() const { return row_ == rows_; }
  extent_t begin() const { return global_; }  // in the whole tensor
  extent_t end() const { return global_ + count_; }
  extent_t place(extent_t global) const { return local_ - piece_.range.begin + global - global_; }  // in the piece
  void next() {
    ++row_;
    look();
  }
  /// To the first run that ends behind `global`.
  void skip_to(extent_t global) {
    next();
    if (done() || end() > global) return;
    extent_t low = row_, high = rows_;  // run low ends at or before global
    while (high - low > 1) {
      const extent_t middle = low + (high - low) / 2;
      (piece_.where.global_index(middle * length_) + length_ > global ? high : low) = middle;
    }
    row_ = high;
    look();
  }

 private:
  void look() {
    if (done()) return;
    local_ = std::max(row_ * length_, piece_.range.begin);
    count_ = std::min((row_ + 1) * length_, piece_.range.end) - local_;
    global_ = piece_.where.global_index(local_);
  }

  const tensor_piece& piece_;
  extent_t length_, row_, rows_;
  extent_t local_ = 0, count_ = 0, global_ = 0;
};

inline bool disjoint(const box& a, const box& b) {
  for (int i = 0; i < a.global.rank; ++i) {
    const std::size_t d = std::size_t(i);
    if (a.offset[d] + a.extent[i] <= b.offset[d] || b.offset[d] + b.extent[i] <= a.offset[d]) return true;
  }
  return false;
}

}  // namespace detail

/// Calls f(first in a, first in b, count) for what two pieces of one tensor share, in the order of the tensor. Both without padding, of one global shape.
template <class F>
void for_each_shared_run(const tensor_piece& a, const tensor_piece& b, F&& f) {
  if (a.range.empty() || b.range.empty() || detail::disjoint(a.where, b.where)) return;
  if (a.where == b.where) {  // two mappings that cut alike: one run
    const extent_t begin = std::max(a.range.begin, b.range.begin), end = std::min(a.range.end, b.range.end);
    if (begin < end) f(begin - a.range.begin, begin - b.range.begin, end - begin);
    return;
  }
  detail::run_cursor x(a), y(b);
  while (!x.done() && !y.done()) {
    if (x.end() <= y.begin()) {
      x.skip_to(y.begin());
    } else if (y.end() <= x.begin()) {
      y.skip_to(x.begin());
    } else {
      const extent_t begin = std::max(x.begin(), y.begin()), end = std::min(x.end(), y.end());
      f(x.place(begin), y.place(begin), end - begin);
      const bool x_ends = x.end() == end, y_ends = y.end() == end;
      if (x_ends) x.next();
      if (y_ends) y.next();
    }
  }
}

/// `count` elements of saved piece `saved` go into the wanted piece.
struct shared_run {
  std::size_t saved = 0;
  extent_t first_in_saved = 0, first_in_wanted = 0, count = 0;
  friend bool operator==(const shared_run&, const shared_run&) = default;
};

/// What a wanted piece takes of each saved one, saved piece by saved piece, neighbours joined. Where the saved pieces cover the tensor (cover_fault), the counts
/// add up to the wanted piece. All without padding, of one global shape.
inline std::vector<shared_run> reshard(std::span<const tensor_piece> saved, const tensor_piece& wanted) {
  std::vector<shared_run> runs;
  for (std::size_t i = 0; i < saved.size(); ++i)
    for_each_shared_run(saved[i], wanted, [&](extent_t from, extent_t to, extent_t count) {
      if (!runs.empty()) {
        shared_run& last = runs.back();
        if (last.saved == i && last.first_in_saved + last.count == from && last.first_in_wanted + last.count == to) {
          last.count += count;
          return;
        }
      }
      runs.push_back({i, from, to, count});
    });
  return runs;
}

namespace detail {

inline std::string corner_text(const box& b) {  // "[2, 0, 0]"
  std::string out = "[";
  for (int i = 0; i < b.global.rank; ++i) out += (i ? ", " : "") + std::to_string(b.offset[std::size_t(i)]);
  return out + "]";
}

inline std::string tile_fault(std::span<const tensor_piece> pieces, std::span<const std::size_t> order, const shape& global, int dim) {
  const bool by_range = dim == global.rank;  // one box: its ranges, end to end
  const auto from = [&](std::size_t i) { return by_range ? pieces[i].range.begin : pieces[i].where.offset[std::size_t(dim)]; };
  const auto to = [&](std::size_t i) { return by_range ? pieces[i].range.end : from(i) + pieces[i].where.extent[dim]; };
  const extent_t end = by_range ? pieces[order[0]].where.size() : global[dim];
  const auto said = [&](extent_t first, extent_t last, const char* how) {
    const std::string where = by_range ? sentence("elements ", first, " to ", last, " of the box at ", corner_text(pieces[order[0]].where))
                                       : sentence("places ", first, " to ", last, " of extent ", dim);
    return where + how;
  };
  extent_t next = 0;
  for (std::size_t at = 0; at < order.size();) {
    const std::size_t first = order[at];
    if (from(first) > next) return said(next, from(first), " lie in no piece");
    if (from(first) < next) return said(from(first), next, " lie in two pieces");
    std::size_t last = at + 1;
    if (!by_range) {
      while (last < order.size() && from(order[last]) == from(first) && to(order[last]) == to(first)) ++last;
      std::string fault = tile_fault(pieces, order.subspan(at, last - at), global, dim + 1);
      if (!fault.empty()) return fault;
    }
    next = to(first);
    at = last;
  }
  return next == end ? std::string() : said(next, end, " lie in no piece");
}

}  // namespace detail

/// Whether pieces hold each element of a tensor exactly once: empty, or what is wrong. They must cut it as placements do: its outermost extent into parts, each
/// of those along the next, and each box so made into ranges. Time n log n, whatever the tensor's size. All without padding, of the shape `global`.
inline std::string cover_fault(std::span<const tensor_piece> pieces, const shape& global) {
  if (global.size() == 0) return {};
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < pieces.size(); ++i)
    if (!pieces[i].range.empty()) order.push_back(i);
  if (order.empty()) return "no piece holds any of it";
  std::sort(order.begin(), order.end(), [&](std::size_t x, std::size_t y) {
    const tensor_piece &a = pieces[x], &b = pieces[y];
    for (int i = 0; i < global.rank; ++i) {
      const std::size_t d = std::size_t(i);
      if (a.where.offset[d] != b.where.offset[d]) return a.where.offset[d] < b.where.offset[d];
      if (a.where.extent[i] != b.where.extent[i]) return a.where.extent[i] < b.where.extent[i];
    }
    return a.range.begin < b.range.begin;
  });
  return detail::tile_fault(pieces, order, global, 0);
}

}  // namespace moefold
