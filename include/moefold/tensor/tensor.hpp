#pragma once
// A tensor that owns its elements: for parameters, inputs and tests. Everything else takes views.
#include <moefold/core/memory.hpp>
#include <moefold/tensor/view.hpp>

#include <algorithm>
#include <utility>

namespace moefold {

template <class T, class Memory = host_memory>
class tensor {
 public:
  tensor() = default;
  explicit tensor(const moefold::shape& shape)
      : data_(static_cast<T*>(Memory::allocate(std::max<std::size_t>(1, std::size_t(shape.size())) * sizeof(T)))), shape_(shape) {}
  tensor(const moefold::shape& shape, T value) : tensor(shape) { std::fill_n(data_, size(), value); }
  tensor(tensor&& other) noexcept : data_(std::exchange(other.data_, nullptr)), shape_(std::exchange(other.shape_, {0})) {}
  tensor& operator=(tensor&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(shape_, other.shape_);
    return *this;
  }
  ~tensor() { Memory::deallocate(data_); }

  T* data() { return data_; }
  const T* data() const { return data_; }
  const moefold::shape& shape() const { return shape_; }
  extent_t extent(int i) const { return shape_[i]; }
  std::size_t size() const { return std::size_t(shape_.size()); }
  moefold::view<T> view() { return {data_, shape_}; }
  moefold::view<const T> view() const { return {data_, shape_}; }
  operator moefold::view<T>() { return view(); }
  operator moefold::view<const T>() const { return view(); }
  T& operator[](std::size_t flat) { return data_[flat]; }
  const T& operator[](std::size_t flat) const { return data_[flat]; }
  T* begin() { return data_; }
  T* end() { return data_ + size(); }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size(); }

 private:
  T* data_ = nullptr;
  moefold::shape shape_{0};
};

}  // namespace moefold
