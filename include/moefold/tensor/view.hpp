#pragma once
// A non-owning, contiguous, row-major view of elements somebody else keeps: a pointer and a shape. (g++ 12 has no <mdspan>.)
#include <moefold/core/scalar.hpp>
#include <moefold/core/shape.hpp>

#include <span>
#include <type_traits>

namespace moefold {

template <class T>
class view {
 public:
  using value_type = std::remove_const_t<T>;

  constexpr view() = default;
  constexpr view(T* data, const moefold::shape& shape) : data_(data), shape_(shape) {}
  constexpr view(std::span<T> elements) : data_(elements.data()), shape_{extent_t(elements.size())} {}
  template <class U>
    requires(std::is_same_v<T, const U>)
  constexpr view(const view<U>& other) : data_(other.data()), shape_(other.shape()) {}

  constexpr T* data() const { return data_; }
  constexpr const moefold::shape& shape() const { return shape_; }
  constexpr int rank() const { return shape_.rank; }
  constexpr extent_t extent(int i) const { return shape_[i]; }
  constexpr std::size_t size() const { return std::size_t(shape_.size()); }
  constexpr std::size_t bytes() const { return size() * sizeof(T); }
  constexpr bool empty() const { return size() == 0; }
  constexpr std::span<T> span() const { return {data_, size()}; }
  constexpr operator std::span<T>() const { return span(); }
  constexpr T* begin() const { return data_; }
  constexpr T* end() const { return data_ + size(); }

  constexpr T& operator[](std::size_t flat) const { return data_[flat]; }
  constexpr T& operator()(extent_t i) const { return data_[i]; }
  constexpr T& operator()(extent_t i, extent_t j) const { return data_[i * shape_[1] + j]; }
  constexpr T& operator()(extent_t i, extent_t j, extent_t k) const { return data_[(i * shape_[1] + j) * shape_[2] + k]; }
  constexpr T& operator()(extent_t i, extent_t j, extent_t k, extent_t l) const {
    return data_[((i * shape_[1] + j) * shape_[2] + k) * shape_[3] + l];
  }

  /// Elements behind one step of the first extent, also where there are no rows.
  constexpr extent_t row_size() const {
    extent_t product = 1;
    for (int i = 1; i < shape_.rank; ++i) product *= shape_[i];
    return product;
  }
  /// Rows first .. first + count of the first extent, same trailing extents.
  constexpr view rows(extent_t first, extent_t count) const {
    require(first >= 0 && count >= 0 && first + count <= shape_[0], "moefold: rows ", first, " to ", first + count, " of a view with ",
            shape_[0]);
    moefold::shape part = shape_;
    part.extent[0] = count;
    return {data_ + first * row_size(), part};
  }
  /// The same elements under another shape.
  constexpr view as(const moefold::shape& other) const {
    require(other.size() == shape_.size(), "moefold: a view of ", shape_.size(), " elements cannot become one of ", other.size());
    return {data_, other};
  }

 private:
  T* data_ = nullptr;
  moefold::shape shape_{0};
};

template <class T>
view(T*, shape) -> view<T>;

}  // namespace moefold
