#include <moefold/core/launch.cuh>
#include <moefold/core/pack.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

namespace {

namespace kernel {
__global__ void places(int* out, int per_block) {
  int* const shared = dynamic_shared<int>();
  shared[threadIdx.x] = int(blockIdx.x);
  __syncthreads();
  out[blockIdx.x * unsigned(per_block) + threadIdx.x] = 1000 * shared[(threadIdx.x + 1) % blockDim.x] + int(threadIdx.x);
}
template <class T, int Lanes>
__global__ void doubled(const T* in, T* out) {
  auto p = load_pack<Lanes>(in + threadIdx.x * Lanes);
  for (T& x : p.lane) x = T(accumulate_t<T>(x) * 2);
  store_pack(out + threadIdx.x * Lanes, p);
}
}  // namespace kernel

template <class T>
void packs_move() {
  test::both_execs on;
  constexpr int lanes = whole_pack<T>;
  const auto in = test::random_tensor<T>({32 * lanes}, 3);
  const auto in_d = test::to_device(in);
  auto out = test::poisoned<T>({32 * lanes});
  CHECK(packs(lanes, in_d.data(), out.data()));
  CHECK_FALSE(packs(lanes, in_d.data() + 1, out.data()));
  CHECK_FALSE(packs(lanes + 1, in_d.data(), out.data()));
  launch(on.device, "doubled", kernel::doubled<T, lanes>, 1, 32, 0, in_d.data(), out.data());
  const auto out_h = test::to_host(on.device, out);
  for (std::size_t i = 0; i < in.size(); ++i) CHECK(accumulate_t<T>(out_h[i]) == 2 * accumulate_t<T>(in[i]));
}

}  // namespace

TEST_SUITE("core/launch") {
  TEST_CASE("blocks, threads and dynamic shared memory arrive at the kernel") {
    test::both_execs on;
    for (const std::size_t shared : {std::size_t{256}, std::size_t{60} << 10}) {
      auto out = test::poisoned<int>({3 * 64});
      launch(on.device, "places", kernel::places, 3, 64, shared, out.data(), 64);
      const auto h = test::to_host(on.device, out);
      for (int b = 0; b < 3; ++b)
        for (int t = 0; t < 64; ++t) CHECK(h[std::size_t(b * 64 + t)] == 1000 * b + t);
    }
  }
  TEST_CASE("no block launches nothing; what cannot be launched names the operation and the launch") {
    test::both_execs on;
    launch(on.device, "places", kernel::places, 0, 64, 0, static_cast<int*>(nullptr), 64);
    on.device.wait();
    CHECK_THROWS_WITH_AS(launch(on.device, "places", kernel::places, 1, 2048, 0, static_cast<int*>(nullptr), 64),
                         "moefold: CUDA failed in places (1 x 1 x 1 blocks of 2048 threads): cudaErrorInvalidValue, invalid argument",
                         cuda_error);
    CHECK_THROWS_AS(blocks_for("big", std::int64_t{1} << 40, 1), error);
    CHECK(blocks_for("some", 65, 32) == 3);
    CHECK(blocks_for("none", 0, 32) == 0);
  }
  TEST_CASE("packs of 16 bytes move whole, and only where pointers and widths allow") {
    packs_move<float>();
    packs_move<bf16>();
    packs_move<double>();
  }
}
