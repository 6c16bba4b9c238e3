#pragma once
// The extents of a row-major tensor: up to four of them, outermost first, known at run time, cheap to copy. Meshes cut them, views carry them.
#include <moefold/core/error.hpp>

#include <array>
#include <initializer_list>
#include <string>

namespace moefold {

struct shape {
  static constexpr int max_rank = 4;
  std::array<extent_t, max_rank> extent{};
  int rank = 0;

  constexpr shape() = default;
  constexpr shape(std::initializer_list<extent_t> extents) {
    require<config_error>(extents.size() <= max_rank, "moefold: a tensor has at most ", max_rank, " extents, given ", extents.size());
    for (extent_t e : extents) {
      require<config_error>(e >= 0, "moefold: a tensor extent is at least 0, given ", e);
      extent[std::size_t(rank++)] = e;
    }
  }

  constexpr extent_t size() const {  // elements; a shape without extents is one scalar
    extent_t product = 1;
    for (int i = 0; i < rank; ++i) product *= extent[std::size_t(i)];
    return product;
  }
  constexpr extent_t operator[](int i) const { return extent[std::size_t(i)]; }
  constexpr extent_t& operator[](int i) { return extent[std::size_t(i)]; }
  friend constexpr bool operator==(const shape&, const shape&) = default;

  std::string text() const {  // "[4, 8]"
    std::string out = "[";
    for (int i = 0; i < rank; ++i) out += (i ? ", " : "") + std::to_string(extent[std::size_t(i)]);
    return out + "]";
  }
};

}  // namespace moefold
