#pragma once
// Device work beside a twin that says what the device can do: a copy of as many bytes, or cuBLAS at as many operations. Both run in turn, in pairs, in one
// process; the cache is flushed before each, events on the stream take the time, and the median of the pairs' ratios is the result. A ratio below its
// gate fails the program. Where there is no device the program ends with 77, which CTest shows as skipped.
//
//   flush | ours | flush | twin | flush | ours | ...     ratio = time of the twin / time of ours
#include <moefold/core/rng.hpp>
#include <moefold/ops/rows.hpp>
#include <moefold/tensor/copy.cuh>

#include "paired.hpp"

#include <functional>
#include <memory>
#include <string>

namespace moefold::bench {

#if defined(MOEFOLD_EMULATED)
inline constexpr extent_t shrunk = 64;  // extents are divided by it: to see that a benchmark runs, not how fast
#else
inline constexpr extent_t shrunk = 1;
#endif
constexpr extent_t sized(extent_t n) { return std::max<extent_t>(8, n / shrunk); }

namespace kernel {
template <class T>
__global__ void fill_random(T* to, std::int64_t count, std::uint32_t seed, float scale) {
  const std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const auto bits = philox({std::uint32_t(i), std::uint32_t(i >> 32), 0, 0}, seed, 0);
  to[i] = T(scale * (float(bits[0]) * 0x1p-31f - 1.0f));
}
template <class T>
__global__ void fill_with(T* to, std::int64_t count, T value) {
  const std::int64_t i = std::int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) to[i] = value;
}
}  // namespace kernel

template <class T>
using device_tensor = tensor<T, device_memory>;

/// Uniform in (-scale, scale): zeros would cost less power and run faster than numbers do.
template <class T>
device_tensor<T> numbers(cuda_exec e, const shape& extents, std::uint32_t seed = 1, float scale = 1) {
  device_tensor<T> out(extents);
  launch(e, "fill_random", kernel::fill_random<T>, blocks_for("fill_random", extents.size(), 256), 256, 0, out.data(), extents.size(), seed,
         scale);
  return out;
}
template <class T>
device_tensor<T> filled(cuda_exec e, const shape& extents, T value) {
  device_tensor<T> out(extents);
  launch(e, "fill_with", kernel::fill_with<T>, blocks_for("fill_with", extents.size(), 256), 256, 0, out.data(), extents.size(), value);
  return out;
}
template <class T>
device_tensor<T> uploaded(cuda_exec e, const std::vector<T>& from) {
  device_tensor<T> out({extent_t(from.size())});
  upload(e, view<const T>(from.data(), out.shape()), out.view());
  e.wait();
  return out;
}

/// A function on the device beside its twin, and what one call of it does.
struct device_pair {
  std::function<void()> ours, twin;
  double bytes = 0, flops = 0;
};

/// The twin of what is bound by memory: a copy that reads and writes `bytes` bytes together.
inline std::function<void()> copy_twin(cuda_exec e, double bytes) {
  const auto half = extent_t(bytes / 2);
  auto from = std::make_shared<device_tensor<std::uint8_t>>(shape{half}), to = std::make_shared<device_tensor<std::uint8_t>>(shape{half});
  cuda_check(cudaMemsetAsync(from->data(), 0x3c, std::size_t(half), e.stream), "writing what a twin copies");
  return [=] {
    cuda_check(cudaMemcpyAsync(to->data(), from->data(), std::size_t(half), cudaMemcpyDeviceToDevice, e.stream), "a twin's copy");
  };
}
inline device_pair beside_copy(cuda_exec e, double bytes, std::function<void()> ours) {
  return {std::move(ours), copy_twin(e, bytes), bytes, 0};
}

/// Takes the time between two places of a stream.
class stream_clock {
 public:
  explicit stream_clock(cuda_exec e) : e_(e), flush_({sized(extent_t{128} << 20)}) {
    cuda_check(cudaEventCreate(&begin_), "cudaEventCreate");
    cuda_check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~stream_clock() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
  }
  stream_clock(const stream_clock&) = delete;
  stream_clock& operator=(const stream_clock&) = delete;

  /// Seconds of f's work with a cold cache. While the flush runs the host issues f, so launches are not part of it.
  double seconds(const std::function<void()>& f) {
    cuda_check(cudaMemsetAsync(flush_.data(), 0x55, flush_.size(), e_.stream), "flushing the cache");
    cuda_check(cudaEventRecord(begin_, e_.stream), "cudaEventRecord");
    f();
    cuda_check(cudaEventRecord(end_, e_.stream), "cudaEventRecord");
    e_.wait();
    float milliseconds = 0;
    cuda_check(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
    return 1e-3 * double(milliseconds);
  }

 private:
  cuda_exec e_;
  device_tensor<std::uint8_t> flush_;  // twice the cache of an H200 and more
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// Runs `pairs` pairs of make(exec) after half a second to warm up.
template <class Make>
std::pair<paired_times, device_pair> run_device_pairs(int pairs, const Make& make) {
  cuda_context context;
  const cuda_exec e(context);
  device_pair pair = make(e);
  e.wait();
  stream_clock clock(e);
  paired_times times;
  for (double warm = 0; warm < (shrunk == 1 ? 0.5 : 0);) warm += clock.seconds(pair.ours) + clock.seconds(pair.twin);
  for (int i = 0; i < pairs; ++i) times.ours.push_back(clock.seconds(pair.ours)), times.twin.push_back(clock.seconds(pair.twin));
  pair.ours = pair.twin = nullptr;  // their memory goes before the context
  return {times, pair};
}

/// Registers a benchmark whose iterations are the pairs: reports our time, the twin's, the ratio and what was moved or multiplied per second; holds the
/// gate (0: none).
template <class Make>
void add_device_pair(const std::string& name, double least, Make make, int pairs = shrunk == 1 ? 31 : 1) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 const auto [times, pair] = run_device_pairs(pairs, make);
                                 auto next = times.ours.begin();
                                 for (auto _ : state) state.SetIterationTime(*next++);
                                 const double each = median(times.ours);
                                 state.counters["ratio"] = times.ratio();
                                 state.counters["twin_us"] = 1e6 * median(times.twin);
                                 state.counters["median_us"] = 1e6 * each;
                                 if (pair.bytes > 0) state.counters["GB/s"] = 1e-9 * pair.bytes / each;
                                 if (pair.flops > 0) state.counters["TFLOP/s"] = 1e-12 * pair.flops / each;
                                 if (shrunk == 1)
                                   fail_unless(times.ratio() >= least,
                                               sentence(name, " reaches ", times.ratio(), " of its reference, needed is ", least), 1);
                               })
      ->UseManualTime()
      ->Iterations(pairs)
      ->Unit(benchmark::kMicrosecond);
}

/// main(): what `add` registers, on the first device.
template <class Add>
int run_on_device(int argc, char** argv, Add add) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU\n");
    return 77;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  add();
  return run_all();
}

}  // namespace moefold::bench
