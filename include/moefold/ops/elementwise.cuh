#pragma once
// The CUDA twin of ops/elementwise.hpp: what happens to the elements of a pack is a small function object, and one kernel runs them all. A thread has
// one pack of 16 bytes of the widest type; nothing is read or written twice.
//
//   body.at<Lanes>(i)   elements i .. i + Lanes - 1           the last pack of a range, if it is not whole: body.at<1> for each of its elements
//   sum_of_squares      block b sums packs b, b + blocks, .. in double -> share [blocks] -> one block adds the shares in order
#include <moefold/core/pack.cuh>
#include <moefold/core/warp.cuh>
#include <moefold/ops/elementwise.hpp>

namespace moefold {

struct element_tuning {
  int threads = 256;
  int blocks = 528;  // of a sum over all elements: four per multiprocessor of the largest device
};

namespace kernel {

template <int Lanes, int Threads, class Body>
__global__ void __launch_bounds__(Threads) each_element(std::int64_t count, Body body) {
  const std::int64_t i = (std::int64_t(blockIdx.x) * Threads + int(threadIdx.x)) * Lanes;
  if (i + Lanes <= count)
    body.template at<Lanes>(i);
  else
    for (std::int64_t j = i; j < count; ++j) body.template at<1>(j);
}

/// share[b] = what body.of(element, index) gives of block b's packs, merged: of a thread by body.merge, of the block by body.of_block.
template <int Lanes, int Threads, class T, class Body>
__global__ void __launch_bounds__(Threads)
    merge_elements(const T* __restrict__ x, std::int64_t count, Body body, typename Body::value* __restrict__ share) {
  typename Body::value all = body.nothing;
  for (std::int64_t i = (std::int64_t(blockIdx.x) * Threads + int(threadIdx.x)) * Lanes; i < count;
       i += std::int64_t(gridDim.x) * Threads * Lanes) {
    if (i + Lanes <= count) {
      const pack<T, Lanes> in = load_pack<Lanes>(x + i);
      for (int l = 0; l < Lanes; ++l) all = Body::merge(all, body.of(in.lane[l], i + l));
    } else {
      for (std::int64_t j = i; j < count; ++j) all = Body::merge(all, body.of(x[j], j));
    }
  }
  all = body.template of_block<Threads>(all);
  if (threadIdx.x == 0) share[blockIdx.x] = all;
}
/// *out = the shares, merged; one block.
template <int Threads, class Body>
__global__ void __launch_bounds__(Threads)
    merge_shares(const typename Body::value* __restrict__ share, int shares, Body body, typename Body::value* __restrict__ out) {
  typename Body::value all = body.nothing;
  for (int s = int(threadIdx.x); s < shares; s += Threads) all = Body::merge(all, share[s]);
  all = body.template of_block<Threads>(all);
  if (threadIdx.x == 0) *out = all;
}

}  // namespace kernel

namespace detail {

/// Runs body over `count` elements. used: every pointer of the body; they say how many elements a pack may have, and whether there may be packs at all.
template <element_tuning Tune, class Body, class... Types>
void each_element(cuda_exec e, const char* op, extent_t count, Body body, const Types*... used) {
  constexpr int lanes = std::min({whole_pack<Types>...});
  if (packs(0, used...))
    launch(e, op, kernel::each_element<lanes, Tune.threads, Body>, {blocks_for(op, count, lanes * Tune.threads)}, Tune.threads, 0, count,
           body);
  else
    launch(e, op, kernel::each_element<1, Tune.threads, Body>, {blocks_for(op, count, Tune.threads)}, Tune.threads, 0, count, body);
}

/// *out = all body.of(x[i], i), merged in an order that depends on count and alignment alone; body.nothing where x is empty.
template <element_tuning Tune, class T, class Body>
void merge_elements(cuda_exec e, const char* op, const T* x, extent_t count, Body body, typename Body::value* out) {
  scratch<cuda_exec> local(e);
  const auto run = [&](auto lanes) {
    const unsigned blocks = unsigned(std::min<extent_t>(Tune.blocks, (count + lanes * Tune.threads - 1) / (lanes * Tune.threads)));
    typename Body::value* const share = local.take<typename Body::value>(Tune.blocks).data();
    launch(e, op, kernel::merge_elements<lanes, Tune.threads, T, Body>, {blocks}, Tune.threads, 0, x, count, body, share);
    launch(e, op, kernel::merge_shares<Tune.threads, Body>, {1}, Tune.threads, 0, share, int(blocks), body, out);
  };
  if (packs(0, x))
    run(std::integral_constant<int, whole_pack<T>>{});
  else
    run(std::integral_constant<int, 1>{});
}

template <class T>
struct add_elements {
  const T *a, *b;
  T* out;
  template <int Lanes>
  MOEFOLD_HD void at(std::int64_t i) const {
    using A = accumulate_t<T>;
    pack<T, Lanes> x = load_pack<Lanes>(a + i);
    const pack<T, Lanes> y = load_pack<Lanes>(b + i);
    for (int l = 0; l < Lanes; ++l) x.lane[l] = T(A(x.lane[l]) + A(y.lane[l]));
    store_pack(out + i, x);
  }
};
template <class T, class U>
struct accumulate_elements {
  const T* in;
  U* out;
  template <int Lanes>
  MOEFOLD_HD void at(std::int64_t i) const {
    using A = accumulate_t<U>;
    const pack<T, Lanes> x = load_pack<Lanes>(in + i);
    pack<U, Lanes> y = load_pack<Lanes>(out + i);
    for (int l = 0; l < Lanes; ++l) y.lane[l] = U(A(y.lane[l]) + A(x.lane[l]));
    store_pack(out + i, y);
  }
};
template <class T>
struct scale_elements {
  T* x;
  accumulate_t<T> s;
  template <int Lanes>
  MOEFOLD_HD void at(std::int64_t i) const {
    pack<T, Lanes> y = load_pack<Lanes>(x + i);
    for (int l = 0; l < Lanes; ++l) y.lane[l] = T(accumulate_t<T>(y.lane[l]) * s);
    store_pack(x + i, y);
  }
};
template <class T>
struct fill_elements {
  T* x;
  T value;
  template <int Lanes>
  MOEFOLD_HD void at(std::int64_t i) const {
    pack<T, Lanes> y;
    for (int l = 0; l < Lanes; ++l) y.lane[l] = value;
    store_pack(x + i, y);
  }
};
template <class T, class U>
struct cast_elements {
  const T* in;
  U* out;
  template <int Lanes>
  MOEFOLD_HD void at(std::int64_t i) const {
    const pack<T, Lanes> x = load_pack<Lanes>(in + i);
    pack<U, Lanes> y;
    for (int l = 0; l < Lanes; ++l) y.lane[l] = U(accumulate_t<T>(x.lane[l]));
    store_pack(out + i, y);
  }
};
struct square_elements {
  using value = double;
  double nothing = 0;
  template <class T>
  MOEFOLD_HD double of(T x, std::int64_t) const {
    return double(x) * double(x);
  }
  MOEFOLD_HD static double merge(double a, double b) { return a + b; }
  template <int Threads>
  __device__ double of_block(double of_thread) const {
    return block_sum<Threads>(of_thread);
  }
};

}  // namespace detail

template <element_tuning Tune = element_tuning{}, class T>
void add(cuda_exec e, input<T> a, input<T> b, view<T> out) {
  const extent_t n = extent_t(out.size());
  require_count("add", "a", a.size(), n);
  require_count("add", "b", b.size(), n);
  detail::each_element<Tune>(e, "add", n, detail::add_elements<T>{a.data(), b.data(), out.data()}, a.data(), b.data(), out.data());
}

template <element_tuning Tune = element_tuning{}, class T, class U>
void accumulate(cuda_exec e, view<T> in, view<U> out) {
  using V = std::remove_const_t<T>;
  const extent_t n = extent_t(out.size());
  require_count("accumulate", "in", in.size(), n);
  detail::each_element<Tune>(e, "accumulate", n, detail::accumulate_elements<V, U>{in.data(), out.data()}, in.data(), out.data());
}

template <element_tuning Tune = element_tuning{}, class T>
void scale(cuda_exec e, view<T> x, accumulate_t<T> s) {
  detail::each_element<Tune>(e, "scale", extent_t(x.size()), detail::scale_elements<T>{x.data(), s}, x.data());
}

template <element_tuning Tune = element_tuning{}, class T>
void fill(cuda_exec e, view<T> x, std::type_identity_t<T> value) {
  detail::each_element<Tune>(e, "fill", extent_t(x.size()), detail::fill_elements<T>{x.data(), value}, x.data());
}

/// The device's own copy; in and out are one memory or two that do not overlap.
template <class T>
void copy(cuda_exec e, input<T> in, view<T> out) {
  require_count("copy", "in", in.size(), extent_t(out.size()));
  if (in.empty() || in.data() == out.data()) return;
  cuda_check(cudaMemcpyAsync(out.data(), in.data(), in.bytes(), cudaMemcpyDeviceToDevice, e.stream), "copy of ", in.bytes(), " bytes");
}
template <class T>
void copy(cuda_exec e, std::type_identity_t<std::span<const T>> in, std::span<T> out) {
  copy(e, view<const T>(in), view<T>(out));
}

/// in and out are one memory only where T and U have one size.
template <element_tuning Tune = element_tuning{}, class T, class U>
void cast(cuda_exec e, view<T> in, view<U> out) {
  using V = std::remove_const_t<T>;
  const extent_t n = extent_t(out.size());
  require_count("cast", "in", in.size(), n);
  detail::each_element<Tune>(e, "cast", n, detail::cast_elements<V, U>{in.data(), out.data()}, in.data(), out.data());
}

template <element_tuning Tune = element_tuning{}, class T>
void sum_of_squares(cuda_exec e, std::span<T> x, view<double> out) {
  require_count("sum_of_squares", "out", out.size(), 1);
  detail::merge_elements<Tune, std::remove_const_t<T>>(e, "sum_of_squares", x.data(), extent_t(x.size()), detail::square_elements{},
                                                       out.data());
}
template <element_tuning Tune = element_tuning{}, class T>
void sum_of_squares(cuda_exec e, view<T> x, view<double> out) {
  sum_of_squares<Tune>(e, x.span(), out);
}

}  // namespace moefold
