#pragma once
// The CUDA runtime, as far as moefold uses it, for a machine without a GPU: what nvcc would compile for a device is compiled by the host compiler
// (-x c++ -DMOEFOLD_EMULATED -I tests/emulator) and runs there, thread by thread. Slow, but every kernel, every index, every barrier and every event
// of the library is exercised by every test run. What it cannot show: PTX, the compiler for the device, memory ordering between blocks, speed.
//
//   grid.h     blocks, threads, barriers, shuffles          stream.h   streams that are lazy on purpose, events
//   memory.h   device memory that the host cannot read      here       the runtime's functions, and the functions a kernel calls
#include "grid.h"
#include "memory.h"
#include "stream.h"

#include <cmath>
#include <tuple>
#include <utility>

#define __global__ inline
#define __device__
#define __host__
#define __shared__ static thread_local
#define __launch_bounds__(...)
#define __forceinline__ __attribute__((always_inline))
#define __align__(n) alignas(n)
#define __grid_constant__
#define CUDART_VERSION 13000

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorNotReady = 600,
  cudaErrorPeerAccessAlreadyEnabled = 704
};
enum cudaMemcpyKind { cudaMemcpyHostToHost, cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice, cudaMemcpyDefault };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8, cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrPageableMemoryAccess = 88
};
enum { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum { cudaEventDefault = 0, cudaEventBlockingSync = 1, cudaEventDisableTiming = 2 };
enum { cudaHostAllocDefault = 0, cudaHostAllocPortable = 1, cudaHostAllocMapped = 2 };

struct cudaDeviceProp {
  char name[256];
  std::size_t totalGlobalMem, sharedMemPerBlockOptin;
  int major, minor, multiProcessorCount;
};
struct cudaLaunchAttribute {
  int id;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace emulator {

/// A device like Grace Hopper's: what it copies from pageable memory is not staged.
inline std::atomic<bool>& reads_pageable_memory() {
  static std::atomic<bool> yes{false};
  return yes;
}
inline cudaError_t& last_error() {
  static thread_local cudaError_t last = cudaSuccess;
  return last;
}
inline cudaError_t result(cudaError_t r) {
  if (r != cudaSuccess && r != cudaErrorNotReady) last_error() = r;
  return r;
}
inline int devices() {
  static const char* const text = std::getenv("MOEFOLD_EMULATOR_DEVICES");
  return text ? std::atoi(text) : 2;
}
inline double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace emulator

inline const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorNotReady: return "cudaErrorNotReady";
    default: return "cudaErrorUnknown";
  }
}
inline const char* cudaGetErrorString(cudaError_t e) {
  switch (e) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorNotReady: return "device not ready";
    default: return "unknown error";
  }
}
inline cudaError_t cudaGetLastError() { return std::exchange(emulator::last_error(), cudaSuccess); }
inline cudaError_t cudaPeekAtLastError() { return emulator::last_error(); }

// Devices.
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulator::devices();
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = emulator::device_of_thread();
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= emulator::devices()) return emulator::result(cudaErrorInvalidDevice);
  emulator::device_of_thread() = device;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = int(emulator::most_shared); break;
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrPageableMemoryAccess: *value = emulator::reads_pageable_memory(); break;
    default: *value = 0;
  }
  return cudaSuccess;
}
inline cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"emulated device", emulator::device_heap::limit(), emulator::most_shared, 9, 0, 4};
  return cudaSuccess;
}
inline cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) {
  *can = 1;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
inline cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *total = emulator::device_heap::limit();
  *free = *total - emulator::device_heap::get().used();
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() {
  ++emulator::counted().synchronisations;
  emulator::stream_list::get().advance();
  return cudaSuccess;
}

// Memory.
inline cudaError_t cudaMalloc(void** block, std::size_t bytes) {
  ++emulator::counted().allocations;
  *block = emulator::device_heap::get().allocate(bytes);
  return emulator::result(*block ? cudaSuccess : cudaErrorMemoryAllocation);
}
template <class T>
cudaError_t cudaMalloc(T** block, std::size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(block), bytes);
}
inline cudaError_t cudaFree(void* block) {
  if (block == nullptr) return cudaSuccess;
  emulator::stream_list::get().advance();  // work that uses it may still be waiting
  return emulator::result(emulator::device_heap::get().release(block) ? cudaSuccess : cudaErrorInvalidValue);
}
inline cudaError_t cudaHostAlloc(void** block, std::size_t bytes, unsigned) {
  *block = emulator::pinned_heap::get().allocate(bytes);
  return emulator::result(*block ? cudaSuccess : cudaErrorMemoryAllocation);
}
template <class T>
cudaError_t cudaHostAlloc(T** block, std::size_t bytes, unsigned flags) {
  return cudaHostAlloc(reinterpret_cast<void**>(block), bytes, flags);
}
template <class T>
cudaError_t cudaMallocHost(T** block, std::size_t bytes) {
  return cudaHostAlloc(reinterpret_cast<void**>(block), bytes, 0);
}
inline cudaError_t cudaFreeHost(void* block) {
  if (block == nullptr) return cudaSuccess;
  emulator::stream_list::get().advance();
  return emulator::result(emulator::pinned_heap::get().release(block) ? cudaSuccess : cudaErrorInvalidValue);
}
inline cudaError_t cudaHostGetDevicePointer(void** device, void* host, unsigned) {
  *device = host;
  return cudaSuccess;
}

namespace emulator {
/// Whether a copy's ends are where its kind says.
inline bool fits(const void* to, const void* from, cudaMemcpyKind kind) {
  const device_heap& heap = device_heap::get();
  const bool to_device = heap.holds(to) || pinned_heap::get().holds(to), from_device = heap.holds(from) || pinned_heap::get().holds(from);
  switch (kind) {
    case cudaMemcpyHostToHost: return !heap.holds(to) && !heap.holds(from);
    case cudaMemcpyHostToDevice: return to_device && !heap.holds(from);
    case cudaMemcpyDeviceToHost: return !heap.holds(to) && from_device;
    case cudaMemcpyDeviceToDevice: return to_device && from_device;
    default: return true;
  }
}
inline void copy_now(void* to, const void* from, std::size_t bytes) {
  const device_heap::opened here;
  std::memmove(to, from, bytes);
}
inline bool pageable(const void* p) { return !device_heap::get().holds(p) && !pinned_heap::get().holds(p); }
}  // namespace emulator

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream = nullptr) {
  using namespace emulator;
  if (bytes == 0) return cudaSuccess;
  if (!fits(to, from, kind)) return result(cudaErrorInvalidValue);
  ++counted().copies;
  if (pageable(from) && !reads_pageable_memory()) {  // staged before the call returns
    auto staged =
        std::make_shared<std::vector<std::byte>>(static_cast<const std::byte*>(from), static_cast<const std::byte*>(from) + bytes);
    issue(stream, [=] { copy_now(to, staged->data(), bytes); });
  } else {
    issue(stream, [=] { copy_now(to, from, bytes); });
  }
  if (pageable(to)) state_of(stream).advance(state_of(stream).place());
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  using namespace emulator;
  if (bytes == 0) return cudaSuccess;
  if (!fits(to, from, kind)) return result(cudaErrorInvalidValue);
  ++counted().synchronisations;
  if (pageable(from) && !pageable(to) && bytes <= 64 * 1024) return cudaMemcpyAsync(to, from, bytes, kind);  // returns when it is staged
  ++counted().copies;
  state_of(nullptr).advance(state_of(nullptr).place());
  copy_now(to, from, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, std::size_t bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream);
}
inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch, std::size_t width,
                                     std::size_t height, cudaMemcpyKind kind, cudaStream_t stream) {
  using namespace emulator;
  if (width == 0 || height == 0) return cudaSuccess;
  if (!fits(to, from, kind) || width > to_pitch || width > from_pitch || pageable(to) || pageable(from))
    return result(cudaErrorInvalidValue);
  ++counted().copies;
  issue(stream, [=] {
    for (std::size_t r = 0; r < height; ++r)
      copy_now(static_cast<std::byte*>(to) + r * to_pitch, static_cast<const std::byte*>(from) + r * from_pitch, width);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream = nullptr) {
  using namespace emulator;
  if (bytes == 0) return cudaSuccess;
  if (pageable(to)) return result(cudaErrorInvalidValue);
  issue(stream, [=] {
    const device_heap::opened here;
    std::memset(to, value, bytes);
  });
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
  return cudaMemsetAsync(to, value, bytes, nullptr);  // does not wait, and streams that do not block do not wait for it
}

// Streams and events.
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
inline cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = *greatest = 0;
  return cudaSuccess;
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return emulator::result(cudaErrorInvalidResourceHandle);
  stream->state->advance(stream->state->place());
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  ++emulator::counted().synchronisations;
  emulator::stream_state& s = emulator::state_of(stream);
  s.advance(s.place());
  return cudaSuccess;
}
inline cudaError_t cudaStreamQuery(cudaStream_t stream) {
  emulator::stream_state& s = emulator::state_of(stream);
  const std::uint64_t place = s.place(), done = s.done.load();
  if (done < place) s.advance(done + 1);
  return s.done.load() >= place ? cudaSuccess : cudaErrorNotReady;
}
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return emulator::result(cudaErrorInvalidResourceHandle);
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = nullptr) {
  auto time = std::make_shared<std::atomic<double>>(0);
  emulator::issue(stream, [time] { *time = emulator::now(); });
  const std::lock_guard lock(event->guard);
  event->time = time;
  event->stream = (stream ? stream : &emulator::default_stream())->state;
  event->place = event->stream->place();
  return cudaSuccess;
}
namespace emulator {
inline std::pair<std::shared_ptr<stream_state>, std::uint64_t> recorded(cudaEvent_t event) {
  const std::lock_guard lock(event->guard);
  return {event->stream, event->place};
}
}  // namespace emulator
inline cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned = 0) {
  const auto [from, place] = emulator::recorded(event);
  if (from && from.get() != &emulator::state_of(stream)) emulator::issue(stream, [from = from, place = place] { from->advance(place); });
  return cudaSuccess;
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  ++emulator::counted().synchronisations;
  const auto [from, place] = emulator::recorded(event);
  if (from) from->advance(place);
  return cudaSuccess;
}
inline cudaError_t cudaEventQuery(cudaEvent_t event) {
  const auto [from, place] = emulator::recorded(event);
  if (!from) return cudaSuccess;
  if (const std::uint64_t done = from->done.load(); done < place) from->advance(done + 1);
  return from->done.load() >= place ? cudaSuccess : cudaErrorNotReady;
}
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = float((*end->time - *begin->time) * 1e3);
  return cudaSuccess;
}
inline cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*f)(void*), void* context) {
  emulator::issue(stream, [=] { f(context); });
  return cudaSuccess;
}

// Kernels.
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int value) {
  return emulator::result(value >= 0 && std::size_t(value) <= emulator::most_shared ? cudaSuccess : cudaErrorInvalidValue);
}
template <class... Expected, class... Given>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Expected...), Given&&... arguments) {
  const dim3 grid = config->gridDim, threads = config->blockDim;
  const std::size_t count = std::size_t(threads.x) * threads.y * threads.z, shared = config->dynamicSmemBytes;
  if (count == 0 || count > 1024 || grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu ||
      shared > emulator::most_shared)
    return emulator::result(cudaErrorInvalidValue);  // as CUDA 13.0 says
  ++emulator::counted().launches;
  emulator::issue(config->stream, [=, values = std::tuple<Expected...>(std::forward<Given>(arguments)...)] {
    const emulator::device_heap::opened here;
    auto body = [&] { std::apply(kernel, values); };
    emulator::run_grid(grid, threads, shared, body);
  });
  return cudaSuccess;
}

// What kernels call.
template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() {}
inline void __threadfence_system() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __trap() { emulator::block::current()->fail("__trap"); }

template <class T>
T atomicAdd(T* p, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*p).fetch_add(value);
}
template <class T>
T atomicSub(T* p, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*p).fetch_sub(value);
}
template <class T>
T atomicExch(T* p, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*p).exchange(value);
}
template <class T>
T atomicOr(T* p, std::type_identity_t<T> value) {
  return std::atomic_ref<T>(*p).fetch_or(value);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> expected, std::type_identity_t<T> value) {
  std::atomic_ref<T>(*p).compare_exchange_strong(expected, value);
  return expected;
}
template <class T>
T atomicMax(T* p, std::type_identity_t<T> value) {
  std::atomic_ref<T> at(*p);
  T now = at.load();
  while (now < value && !at.compare_exchange_weak(now, value)) {
  }
  return now;
}
template <class T>
T atomicMin(T* p, std::type_identity_t<T> value) {
  std::atomic_ref<T> at(*p);
  T now = at.load();
  while (value < now && !at.compare_exchange_weak(now, value)) {
  }
  return now;
}
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __popcll(unsigned long long x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(unsigned(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(unsigned(x)) + 1; }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline double rsqrt(double x) { return 1 / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
