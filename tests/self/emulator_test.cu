// The emulator of tests/emulator shows the mistakes it is there for. On a GPU there is nothing to test here.
#include <moefold/core/warp.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

#if defined(MOEFOLD_EMULATED)
#include <sys/wait.h>
#include <unistd.h>
#include <csetjmp>
#include <csignal>

namespace {

namespace kernel {
__global__ void half_a_barrier() {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    warp_sum(1);
}
__global__ void without_barrier(int* out) {
  __shared__ int place[64];
  place[threadIdx.x] = int(threadIdx.x + 64 * blockIdx.x);
  out[threadIdx.x + 64 * blockIdx.x] = place[(threadIdx.x + 1) % 64];
}
__global__ void set(int* x, int to) { x[threadIdx.x] = to; }
__global__ void copy(const int* from, int* to) { *to = *from; }
}  // namespace kernel

/// Whether a child process that does this dies of a signal.
template <class F>
bool dies(F f) {
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGSEGV, SIG_DFL), std::signal(SIGABRT, SIG_DFL);
    (void)!freopen("/dev/null", "w", stderr);
    f();
    _exit(0);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0);  // sanitizers exit
}

}  // namespace

TEST_SUITE("self/emulator") {
  TEST_CASE("threads that can never meet are an error, not a hang") {
    test::both_execs on;
    launch(on.device, "half_a_barrier", kernel::half_a_barrier, 1, 32, 0);
    CHECK_THROWS_WITH(on.device.wait(), doctest::Contains("hangs: 16 threads wait in __syncthreads, 16 in a shuffle"));
  }
  TEST_CASE("what cudaMemset and a small cudaMemcpy begin is not there for another stream until the device has been waited for") {
    test::both_execs on;
    auto out = test::poisoned<int>({4});
    const auto seen = [&] {
      std::vector<int> now(4);
      (void)cudaMemcpyAsync(now.data(), out.data(), sizeof(int[4]), cudaMemcpyDeviceToHost, on.device.stream);
      on.device.wait();
      return now;
    };
    const std::vector<int> numbers{1, 2, 3, 4}, none(4, 0), poison(4, -1);
    (void)cudaMemset(out.data(), 0, sizeof(int[4]));
    CHECK(seen() == poison);
    (void)cudaDeviceSynchronize();
    CHECK(seen() == none);
    (void)cudaMemcpy(out.data(), numbers.data(), sizeof(int[4]), cudaMemcpyHostToDevice);
    CHECK(seen() == none);
    (void)cudaDeviceSynchronize();
    CHECK(seen() == numbers);
  }
  TEST_CASE("a missing barrier shows in the result") {
    test::both_execs on;
    auto out = test::poisoned<int>({128});
    launch(on.device, "without_barrier", kernel::without_barrier, 2, 64, 0, out.data());
    const auto h = test::to_host(on.device, out);
    int wrong = 0;
    for (int i = 0; i < 128; ++i) wrong += h[std::size_t(i)] != (i + 1) % 64 + i / 64 * 64;
    CHECK(wrong > 0);
  }
  TEST_CASE("a missing event shows: work is done at the latest moment") {
    test::both_execs on;
    const cuda_stream side;
    auto x = test::to_device(std::vector<int>{1}), y = test::to_device(std::vector<int>{0});
    launch(on.device.on(side), "set", kernel::set, 1, 1, 0, x.data(), 2);
    launch(on.device, "copy", kernel::copy, 1, 1, 0, x.data(), y.data());
    CHECK(test::to_host(on.device, y)[0] == 1);
    const cuda_event done;
    done.record(side);
    done.before(on.device.stream);
    launch(on.device, "copy", kernel::copy, 1, 1, 0, x.data(), y.data());
    CHECK(test::to_host(on.device, y)[0] == 2);
  }
  TEST_CASE("the host cannot read device memory, and a write past its end is seen") {
    auto x = test::poisoned<int>({1});
    int* const p = x.data();
    CHECK(dies([p] { *const_cast<volatile int*>(p) = 1; }));
    CHECK_FALSE(dies([] {}));
    CHECK(dies([] {
      test::both_execs on;
      auto y = test::poisoned<int>({2});
      launch(on.device, "set", kernel::set, 1, 4, 0, y.data(), 1);
      on.device.wait();
    }));
  }
}
#endif
