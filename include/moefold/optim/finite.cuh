#pragma once
// The CUDA twin of optim/finite.hpp: one pass over the elements, first index and count by blocks, merged in order; nothing is read back.
#include <moefold/ops/elementwise.cuh>
#include <moefold/optim/finite.hpp>

namespace moefold {

namespace detail {

struct bad_elements {
  struct value {
    std::int64_t first, count;
  };
  value nothing;
  template <class T>
  MOEFOLD_HD value of(T x, std::int64_t i) const {
    return is_bounded(x) ? nothing : value{i, 1};
  }
  MOEFOLD_HD static value merge(value a, value b) { return {a.first < b.first ? a.first : b.first, a.count + b.count}; }
  template <int Threads>
  __device__ value of_block(value v) const {
    v.first = block_merge<Threads>(v.first, nothing.first, [](std::int64_t a, std::int64_t b) { return a < b ? a : b; });
    v.count = block_sum<Threads>(v.count);
    return v;
  }
};

template <class T>
struct zero_bad_elements {
  T* x;
  template <int Lanes>
  MOEFOLD_HD void at(std::int64_t i) const {
    pack<T, Lanes> y = load_pack<Lanes>(x + i);
    bool any = false;
    for (int l = 0; l < Lanes; ++l)
      if (!is_bounded(y.lane[l])) y.lane[l] = T(0.0f), any = true;
    if (any) store_pack(x + i, y);
  }
};

}  // namespace detail

template <element_tuning Tune = element_tuning{}, class T>
void find_bad(cuda_exec e, std::span<T> x, view<std::int64_t> out) {
  require_bad_out(out);
  const detail::bad_elements body{{std::int64_t(x.size()), 0}};
  detail::merge_elements<Tune, std::remove_const_t<T>>(e, "find_bad", x.data(), extent_t(x.size()), body,
                                                       reinterpret_cast<detail::bad_elements::value*>(out.data()));
}
template <element_tuning Tune = element_tuning{}, class T>
void find_bad(cuda_exec e, view<T> x, view<std::int64_t> out) {
  find_bad<Tune>(e, x.span(), out);
}

template <element_tuning Tune = element_tuning{}, class T>
void zero_bad(cuda_exec e, std::span<T> x) {
  detail::each_element<Tune>(e, "zero_bad", extent_t(x.size()), detail::zero_bad_elements<T>{x.data()}, x.data());
}

}  // namespace moefold
