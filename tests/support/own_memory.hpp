#pragma once
// Weights and activations in the user's own memory: std::vectors, cut by hand from whole tensors and put back together.
// What proves that layers need no store of ours, and that the ranks together compute what one rank does.
//
//   own_parameter<P, rows_over_tp> w(whole, rank, 4);    linear<...> layer{w.get()};    w.add_gradient_to(sum)
//   take_rows(whole, part)   the rows of a rank          put_rows(result, whole, part)
#include <moefold/core/sequence_part.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/tensor/tensor.hpp>

#include <mutex>
#include <vector>

namespace moefold::test {

/// Slice `part` of `parts` of a matrix or vector, along the dimension on which the placement cuts it.
template <class Precision, class Placement>
class own_parameter {
 public:
  using storage = typename Precision::storage;
  using reduce = typename Precision::reduce;

  template <class T>
  own_parameter(const tensor<T>& whole, extent_t part, extent_t parts) : part_(part), whole_(whole.shape()), own_(whole.shape()) {
    constexpr placement_value where = value_of<Placement>;
    if (where.count > 0) own_.extent[std::size_t(cut_ = where.cuts[0].dim)] /= parts;
    value.resize(std::size_t(own_.size()));
    gradient.resize(value.size());
    for (std::size_t i = 0; i < value.size(); ++i) value[i] = storage(whole[global(i)]);
  }
  parameter<Precision, Placement> get() { return {{value.data(), own_}, {gradient.data(), own_}}; }

  /// The sum over the ranks that hold a replica, each slice in its place.
  template <class T>
  void add_gradient_to(tensor<T>& sum) const {
    static std::mutex one_rank_at_a_time;
    std::scoped_lock lock(one_rank_at_a_time);
    for (std::size_t i = 0; i < gradient.size(); ++i) sum[global(i)] += T(gradient[i]);
  }

  std::vector<storage> value;
  std::vector<reduce> gradient;

 private:
  std::size_t global(std::size_t i) const {  // a vector is one column
    const extent_t columns = own_.rank > 1 ? own_[1] : 1, row = extent_t(i) / columns, column = extent_t(i) % columns;
    const extent_t first_row = cut_ == 0 ? part_ * own_[0] : 0, first_column = cut_ == 1 ? part_ * columns : 0;
    return std::size_t((first_row + row) * (own_.rank > 1 ? whole_[1] : 1) + first_column + column);
  }
  extent_t part_ = 0;
  int cut_ = -1;
  shape whole_, own_;
};

/// The tokens of a rank, batch after batch inside a position: row i of `whole` [S * B, width] is (position i / B, sequence i % B).
template <class F>
void for_each_row(const sequence_part& part, extent_t batch, F&& f) {
  for (extent_t i = 0; i < part.local_tokens(); ++i)
    for (extent_t b = 0; b < batch; ++b) f(i * batch + b, part.local_position(i) * batch + b);
}
template <class T, class U = T>
std::vector<U> take_rows(const tensor<T>& whole, const sequence_part& part) {
  const extent_t batch = whole.extent(0) / part.sequence, width = whole.view().row_size();
  std::vector<U> own(std::size_t(part.local_tokens() * batch * width));
  for_each_row(part, batch, [&](extent_t local, extent_t global) {
    for (extent_t c = 0; c < width; ++c) own[std::size_t(local * width + c)] = U(whole[std::size_t(global * width + c)]);
  });
  return own;
}
/// Ranks write disjoint rows: no lock.
template <class T, class U>
void put_rows(const std::vector<U>& own, tensor<T>& whole, const sequence_part& part) {
  const extent_t batch = whole.extent(0) / part.sequence, width = whole.view().row_size();
  for_each_row(part, batch, [&](extent_t local, extent_t global) {
    for (extent_t c = 0; c < width; ++c) whole[std::size_t(global * width + c)] = T(own[std::size_t(local * width + c)]);
  });
}

/// A matrix of the user's: [rows, as many columns as there are].
template <class T>
view<T> matrix(std::vector<T>& elements, extent_t columns) {
  return {elements.data(), {extent_t(elements.size()) / columns, columns}};
}

}  // namespace moefold::test
