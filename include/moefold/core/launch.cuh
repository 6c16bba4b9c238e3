#pragma once
// Launching a kernel: checked, on the exec's stream, with an error that names the operation and the launch. Kernels are started by this function and not
// by <<<>>>, so that what compiles is plain C++ and can also run in the emulator of tests/emulator.
//
//   launch(e, "scale_rows", kernel::scale_rows<T, Tune.threads>, {blocks}, Tune.threads, 0, y.data(), x.data(), width);
#include <moefold/core/exec.cuh>

#include <limits>

namespace moefold {

/// Launches `kernel` with `blocks` blocks of `threads` threads and `shared` bytes of dynamic shared memory. No block: launches nothing.
template <class... Parameters, class... Arguments>
void launch(cuda_exec e, const char* op, void (*kernel)(Parameters...), dim3 blocks, unsigned threads, std::size_t shared,
            Arguments... arguments) {
  if (blocks.x == 0 || blocks.y == 0 || blocks.z == 0) return;
  if (shared > 48 * 1024)
    cuda_check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, int(shared)), op,
               ": ", shared, " bytes of shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared;
  config.stream = e.stream;
  cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), op, " (", blocks.x, " x ", blocks.y, " x ",
             blocks.z, " blocks of ", threads, " threads)");
}

/// Blocks of `each` that cover `count`; throws if that is more than one launch can have in x.
inline unsigned blocks_for(const char* op, std::int64_t count, std::int64_t each) {
  const std::int64_t blocks = (count + each - 1) / each;
  require(blocks <= std::numeric_limits<int>::max(), "moefold: ", op, " would launch ", blocks, " blocks, more than ",
          std::numeric_limits<int>::max(), "; use a smaller micro-batch");
  return unsigned(blocks);
}

/// The block's dynamic shared memory, 16-byte aligned.
template <class T>
__device__ inline T* dynamic_shared() {
#if defined(MOEFOLD_EMULATED)
  return static_cast<T*>(emulator::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char moefold_dynamic_shared[];
  return reinterpret_cast<T*>(moefold_dynamic_shared);
#endif
}

}  // namespace moefold
