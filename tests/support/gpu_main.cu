// The main function of a test that needs a GPU. Where there is none it ends with 77, which CTest shows as skipped.
#define DOCTEST_CONFIG_IMPLEMENT
#include <cuda_runtime.h>
#include <doctest/doctest.h>

#include <cstdio>

int main(int argc, char** argv) {
  int devices = 0;
  const cudaError_t found = cudaGetDeviceCount(&devices);
  if (found != cudaSuccess || devices == 0) {
    std::printf("skipped: no GPU (%s)\n", found == cudaSuccess ? "no device" : cudaGetErrorString(found));
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
