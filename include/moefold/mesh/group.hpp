#pragma once
// Groups of ranks: those that differ only along the given axes of a mesh. Groups and lists of groups are lazy: a few numbers
// and arithmetic, no tables, so that one rank of a million asks for its group in a microsecond, at compile time too.
//
//   mesh<tp<2>, cp<2>, dp<2>>              groups over cp x dp (in whatever order they are asked for)
//   rank = tp + 2 * (cp + 2 * dp)          {0 2 4 6}   inside a group the first axis of the mesh varies fastest: ascending ranks
//                                          {1 3 5 7}   groups are enumerated by the remaining axes in the same way
#include <moefold/mesh/extents.hpp>

#include <compare>
#include <cstddef>
#include <iterator>
#include <span>  // enable_borrowed_range: <ranges> itself takes a compiler 0.1 s

namespace moefold {

namespace detail {

/// The offsets 0 <= sum digit_i * stride_i reached along some axes of a mesh, ascending. Canonical: axes of one rank are left out and
/// neighbours that continue each other are merged, so equal lattices are equal values.
struct lattice {
  struct digit {
    extent_t count = 1, stride = 0;
    friend constexpr bool operator==(const digit&, const digit&) = default;
  };
  std::array<digit, axis_count> digits{};
  int used = 0;

  constexpr lattice() = default;
  constexpr lattice(const extents& mesh, axis_set axes) {
    extent_t stride = 1;
    for (const axis_extent& a : mesh.list()) {
      if (axes.contains(a.axis) && a.ranks > 1) {
        digit* last = used ? &digits[std::size_t(used - 1)] : nullptr;
        if (last && last->stride * last->count == stride)
          last->count *= a.ranks;
        else
          digits[std::size_t(used++)] = {a.ranks, stride};
      }
      stride *= a.ranks;
    }
  }

  constexpr extent_t size() const {
    extent_t product = 1;
    for (int i = 0; i < used; ++i) product *= digits[std::size_t(i)].count;
    return product;
  }
  constexpr extent_t operator[](extent_t index) const {
    extent_t offset = 0;
    for (int i = 0; i < used; ++i) {
      offset += index % digits[std::size_t(i)].count * digits[std::size_t(i)].stride;
      index /= digits[std::size_t(i)].count;
    }
    return offset;
  }
  /// What the rank's coordinates along these axes contribute to the rank, and their position in the enumeration.
  constexpr extent_t offset_of(extent_t rank) const {
    extent_t offset = 0;
    for (int i = 0; i < used; ++i) {
      const digit& d = digits[std::size_t(i)];
      offset += rank / d.stride % d.count * d.stride;
    }
    return offset;
  }
  constexpr extent_t index_of(extent_t rank) const {
    extent_t index = 0, weight = 1;
    for (int i = 0; i < used; ++i) {
      const digit& d = digits[std::size_t(i)];
      index += rank / d.stride % d.count * weight;
      weight *= d.count;
    }
    return index;
  }
  friend constexpr bool operator==(const lattice&, const lattice&) = default;
};

/// A random-access iterator over whatever has operator[](extent_t). It owns its small range: nothing dangles.
template <class Range>
class index_iterator {
 public:
  using value_type = decltype(std::declval<const Range&>()[extent_t{}]);
  using difference_type = std::ptrdiff_t;
  using reference = value_type;
  using pointer = void;
  using iterator_category = std::input_iterator_tag;  // elements are computed, hence no references to them (as in std::views::iota)
  using iterator_concept = std::random_access_iterator_tag;

  constexpr index_iterator() = default;
  constexpr index_iterator(const Range& range, extent_t at) : range_(range), at_(at) {}

  constexpr value_type operator*() const { return range_[at_]; }
  constexpr value_type operator[](difference_type n) const { return range_[at_ + n]; }
  constexpr index_iterator& operator+=(difference_type n) {
    at_ += n;
    return *this;
  }
  constexpr index_iterator& operator-=(difference_type n) {
    at_ -= n;
    return *this;
  }
  constexpr index_iterator& operator++() { return *this += 1; }
  constexpr index_iterator& operator--() { return *this -= 1; }
  constexpr index_iterator operator++(int) {
    index_iterator old = *this;
    ++*this;
    return old;
  }
  constexpr index_iterator operator--(int) {
    index_iterator old = *this;
    --*this;
    return old;
  }
  friend constexpr index_iterator operator+(index_iterator i, difference_type n) { return i += n; }
  friend constexpr index_iterator operator+(difference_type n, index_iterator i) { return i += n; }
  friend constexpr index_iterator operator-(index_iterator i, difference_type n) { return i -= n; }
  friend constexpr difference_type operator-(const index_iterator& a, const index_iterator& b) { return a.at_ - b.at_; }
  friend constexpr bool operator==(const index_iterator& a, const index_iterator& b) { return a.at_ == b.at_; }
  friend constexpr auto operator<=>(const index_iterator& a, const index_iterator& b) { return a.at_ <=> b.at_; }

 private:
  Range range_{};
  extent_t at_ = 0;
};

}  // namespace detail

/// The ranks of one group, ascending. Equal groups hold the same ranks, whichever mesh they came from.
class group {
 public:
  using value_type = extent_t;
  using iterator = detail::index_iterator<group>;

  constexpr group() = default;  // rank 0 alone
  constexpr group(extent_t first, const detail::lattice& inside) : first_(first), inside_(inside) {}

  constexpr extent_t size() const { return inside_.size(); }
  constexpr extent_t operator[](extent_t index) const { return first_ + inside_[index]; }
  constexpr bool contains(extent_t rank) const { return rank >= 0 && rank - inside_.offset_of(rank) == first_; }
  /// The position of a rank in this group. Throws moefold::error if it is no member.
  constexpr extent_t index_of(extent_t rank) const {
    require(contains(rank), "moefold: rank ", rank, " is no member of the group of rank ", first_, " (", size(),
            " ranks); ask for the group with group_of(mesh, axes, rank)");
    return inside_.index_of(rank);
  }
  constexpr iterator begin() const { return {*this, 0}; }
  constexpr iterator end() const { return {*this, size()}; }
  friend constexpr bool operator==(const group&, const group&) = default;

 private:
  extent_t first_ = 0;
  detail::lattice inside_{};
};

/// All groups of a mesh over some axes. Every rank of the world is in exactly one.
class group_list {
 public:
  using value_type = group;
  using iterator = detail::index_iterator<group_list>;

  constexpr group_list() = default;
  constexpr group_list(const extents& mesh, axis_set axes)
      : inside_(mesh, axes), outside_(mesh, mesh.axes().without(axes)), ranks_(mesh.ranks()) {}

  constexpr extent_t size() const { return outside_.size(); }
  constexpr extent_t ranks() const { return ranks_; }
  constexpr group operator[](extent_t index) const { return {outside_[index], inside_}; }
  /// Which group of the enumeration a rank is in, and that group. Throws config_error outside the world.
  constexpr extent_t index_of(extent_t rank) const { return outside_.index_of(checked(rank)); }
  constexpr group of(extent_t rank) const { return {outside_.offset_of(checked(rank)), inside_}; }
  constexpr iterator begin() const { return {*this, 0}; }
  constexpr iterator end() const { return {*this, size()}; }
  friend constexpr bool operator==(const group_list&, const group_list&) = default;

 private:
  constexpr extent_t checked(extent_t rank) const {
    require<config_error>(rank >= 0 && rank < ranks_, "moefold: rank ", rank, " is outside this mesh of ", ranks_,
                          " ranks; ranks count from 0");
    return rank;
  }
  detail::lattice inside_{}, outside_{};
  extent_t ranks_ = 1;
};

/// The value form: all groups of ranks that differ only along `axes`. Axes the mesh does not name count as one rank.
constexpr group_list groups(const extents& mesh, axis_set axes) { return {mesh, axes}; }

/// groups<Mesh, tag::tp, tag::cp>() for a mesh whose extents are all known, groups<Mesh, ...>(world) for any mesh.
template <class Mesh, class... Tags>
constexpr group_list groups() {
  return groups(extents_of<Mesh>(), set_of<Tags...>);
}
template <class Mesh, class... Tags>
constexpr group_list groups(extent_t world) {
  return groups(extents_of<Mesh>(world), set_of<Tags...>);
}

/// The group of one rank, and that group's position in groups(mesh, axes). Microseconds at any world size.
constexpr group group_of(const extents& mesh, axis_set axes, extent_t rank) { return groups(mesh, axes).of(rank); }
constexpr extent_t group_index(const extents& mesh, axis_set axes, extent_t rank) { return groups(mesh, axes).index_of(rank); }

}  // namespace moefold

template <>
inline constexpr bool std::ranges::enable_borrowed_range<moefold::group> = true;
template <>
inline constexpr bool std::ranges::enable_borrowed_range<moefold::group_list> = true;
