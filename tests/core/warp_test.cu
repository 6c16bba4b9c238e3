#include <moefold/core/warp.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

namespace {

namespace kernel {
template <class A, int Threads>
__global__ void __launch_bounds__(Threads) sums(const A* in, A* sum, A* most, A* of_warp) {
  const A x = in[threadIdx.x];
  sum[threadIdx.x] = block_sum<Threads>(x);
  most[threadIdx.x] = block_max<Threads>(x);
  of_warp[threadIdx.x] = warp_sum(x);
}
}  // namespace kernel

template <class A, int Threads>
void every_thread_has_it() {
  test::both_execs on;
  const auto in = test::random_tensor<A>({Threads}, 7);
  const auto in_d = test::to_device(in);
  auto sum = test::poisoned<A>({Threads}), most = test::poisoned<A>({Threads}), of_warp = test::poisoned<A>({Threads});
  launch(on.device, "sums", kernel::sums<A, Threads>, 1, Threads, 0, in_d.data(), sum.data(), most.data(), of_warp.data());
  const auto sum_h = test::to_host(on.device, sum), most_h = test::to_host(on.device, most), of_warp_h = test::to_host(on.device, of_warp);
  A all = 0, largest = in[0];
  for (int i = 0; i < Threads; ++i) all += in[std::size_t(i)], largest = std::max(largest, in[std::size_t(i)]);
  for (int i = 0; i < Threads; ++i) {
    CHECK(std::abs(sum_h[std::size_t(i)] - all) < A(1e-4));
    CHECK(most_h[std::size_t(i)] == largest);
    A mine = 0;
    for (int l = i / 32 * 32; l < i / 32 * 32 + 32; ++l) mine += in[std::size_t(l)];
    CHECK(std::abs(of_warp_h[std::size_t(i)] - mine) < A(1e-4));
  }
}

}  // namespace

TEST_SUITE("core/warp") {
  TEST_CASE("every thread has the sum and the maximum of its block and of its warp") {
    every_thread_has_it<float, 32>();
    every_thread_has_it<float, 256>();
    every_thread_has_it<double, 1024>();
  }
}
