#pragma once
// The CUDA twin of ops/rope.hpp: positions lie on the device, and a negative one is complained of when the host next waits (its rows stay as they are).
// A block makes the angles of a few tokens in double, once, and turns all their heads by them. Bound by memory: reads and writes every element once.
//
//   block    frequency [d/2] -> cosine, sine [tokens, d/2] in shared memory -> pairs of packs (i, i + d/2) of tokens x B x heads rows
#include <moefold/core/launch.cuh>
#include <moefold/core/pack.cuh>
#include <moefold/ops/rope.hpp>

namespace moefold {

struct rope_tuning {
  int threads = 256;
  int tokens = 4;                  // of a block: one power of theta per pair of elements serves them all
  std::size_t shared = 32 * 1024;  // bytes; fewer tokens where their angles need more
};

namespace kernel {

template <class T, int Lanes, int Threads>
__global__ void __launch_bounds__(Threads)
    rope(T* __restrict__ x, const std::int32_t* __restrict__ position, double theta, double direction, std::int64_t tokens, int copies,
         int half, int each, device_fault* faults) {
  using A = accumulate_t<T>;
  double* const frequency = dynamic_shared<double>();
  A* const cosine = reinterpret_cast<A*>(frequency + half);  // [each, half]
  A* const sine = cosine + each * half;
  const std::int64_t first = std::int64_t(blockIdx.x) * each;
  const int own = int(tokens - first < each ? tokens - first : each);
  for (int i = int(threadIdx.x); i < half; i += Threads) frequency[i] = rope_frequency(i, 2 * half, theta);
  __syncthreads();
  for (int i = int(threadIdx.x); i < own * half; i += Threads) {
    std::int32_t p = position[first + i / half];
    if (p < 0) {
      if (i % half == 0) report(faults, fault_kind::position, first + i / half, p, 0);
      p = 0;
    }
    const double angle = double(p) * frequency[i % half];
    cosine[i] = A(std::cos(angle));
    sine[i] = A(direction) * A(std::sin(angle));
  }
  __syncthreads();
  const int across = half / Lanes, count = own * copies * across;
  T* const from = x + first * copies * 2 * half;
  for (int k = int(threadIdx.x); k < count; k += Threads) {
    const int row = k / across, i = k % across * Lanes, angle = row / copies * half + i;
    T* const low = from + row * 2 * half + i;
    pack<T, Lanes> a = load_pack<Lanes>(low), b = load_pack<Lanes>(low + half);
    for (int l = 0; l < Lanes; ++l) {
      const rope_pair<A> turned = rope_turned(A(a.lane[l]), A(b.lane[l]), cosine[angle + l], sine[angle + l]);
      a.lane[l] = T(turned.low), b.lane[l] = T(turned.high);
    }
    store_pack(low, a);
    store_pack(low + half, b);
  }
}

}  // namespace kernel

namespace detail {

template <rope_tuning Tune, class T>
void rope_turn(cuda_exec e, view<T> x, std::span<const std::int32_t> position, double theta, double direction) {
  static_assert(Tune.tokens <= 4, "moefold: elements are counted in 32 bits");
  using A = accumulate_t<T>;
  require(x.rank() == 4, "moefold: rope needs x [S, B, heads, d], given ", x.rank(), " extents");
  require_count("rope", "position", position.size(), x.extent(0));
  const extent_t width = x.extent(3), half = width / 2, copies = x.extent(1) * x.extent(2);
  require(width % 2 == 0, "moefold: rope turns pairs; head_dim must be even, given ", width);
  if (x.empty()) return;
  const std::size_t frequencies = std::size_t(half) * sizeof(double), angles = std::size_t(half) * 2 * sizeof(A);
  require(frequencies + angles <= 160 * 1024, "moefold: rope on a device keeps the angles of a token in shared memory; a head_dim of ",
          width, " is too large for it");
  require(copies * width <= (1 << 28), "moefold: rope on a device counts the elements of a few tokens in 32 bits; ", copies, " heads of ",
          width, " elements per position are too many, use a smaller micro-batch");
  const int each = int(std::clamp<std::size_t>((Tune.shared - std::min(Tune.shared, frequencies)) / angles, 1, std::size_t(Tune.tokens)));
  const auto run = [&](auto lanes) {
    launch(e, "rope", kernel::rope<T, lanes, Tune.threads>, {blocks_for("rope", x.extent(0), each)}, Tune.threads,
           frequencies + std::size_t(each) * angles, x.data(), position.data(), theta, direction, x.extent(0), copies, half, each,
           e.context->faults.device());
  };
  if (packs(half, x.data()))
    run(std::integral_constant<int, whole_pack<T>>{});
  else
    run(std::integral_constant<int, 1>{});
}

}  // namespace detail

template <rope_tuning Tune = rope_tuning{}, class T>
void rope_forward(cuda_exec e, view<T> x, std::span<const std::int32_t> position, double theta) {
  detail::rope_turn<Tune>(e, x, position, theta, 1.0);
}

template <rope_tuning Tune = rope_tuning{}, class T>
void rope_backward(cuda_exec e, view<T> dx, std::span<const std::int32_t> position, double theta) {
  detail::rope_turn<Tune>(e, dx, position, theta, -1.0);
}

}  // namespace moefold
