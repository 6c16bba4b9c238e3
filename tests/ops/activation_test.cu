#include <moefold/ops/activation.cuh>

#include "../support/close.hpp"
#include "../support/random.hpp"

#include <cstdio>

// Compares swiglu on the device with its host twin. Its own main: it ends with 77, CTest's skip code, where no device is present.

using namespace moefold;

namespace {

constexpr int skipped = 77;
int failures = 0;

template <class T>
tensor<T, device_memory> to_device(const tensor<T>& x) {
  tensor<T, device_memory> out(x.shape());
  cuda_check(cudaMemcpy(out.data(), x.data(), x.size() * sizeof(T), cudaMemcpyHostToDevice), "copying a test input");
  return out;
}
template <class T>
tensor<T> to_host(const tensor<T, device_memory>& x) {
  tensor<T> out(x.shape());
  cuda_check(cudaMemcpy(out.data(), x.data(), x.size() * sizeof(T), cudaMemcpyDeviceToHost), "copying a test result");
  return out;
}

void check(double error, double limit, const char* type, const char* what, extent_t rows, extent_t width) {
  if (error <= limit) return;
  ++failures;
  std::printf("FAILED: %s %s [%lld, %lld] differs from the host by %.3g (limit %.3g)\n", type, what, (long long)rows, (long long)width,
              error, limit);
}

template <class T>
void twins_agree(const char* type, double limit, extent_t rows, extent_t width) {
  using A = accumulate_t<T>;
  host_context here;
  cuda_context there;
  const host_exec host(here);
  const cuda_exec device(there);
  const auto gate = test::random_tensor<T>({rows, width}, 1, 3.0), up = test::random_tensor<T>({rows, width}, 2),
             dout = test::random_tensor<T>({rows, width}, 3);
  const auto p = test::random_tensor<A>({rows}, 4);
  const auto gate_d = to_device(gate), up_d = to_device(up), dout_d = to_device(dout);
  const auto p_d = to_device(p);

  tensor<T> out({rows, width}), dgate({rows, width}), dup({rows, width});
  tensor<A> dp({rows});
  swiglu_forward(host, gate, up, p, out.view());
  swiglu_backward(host, dout, gate, up, p, dgate.view(), dup, dp);

  tensor<T, device_memory> out_d({rows, width}), dgate_d({rows, width}), dup_d({rows, width});
  tensor<A, device_memory> dp_d({rows});
  swiglu_forward(device, gate_d, up_d, p_d, out_d.view());
  swiglu_backward(device, dout_d, gate_d, up_d, p_d, dgate_d.view(), dup_d, dp_d);
  device.wait();

  check(test::largest_error(to_host(out_d), out), limit, type, "out", rows, width);
  check(test::largest_error(to_host(dgate_d), dgate), limit, type, "dgate", rows, width);
  check(test::largest_error(to_host(dup_d), dup), limit, type, "dup", rows, width);
  check(test::largest_error(to_host(dp_d), dp), 1e4 * double(std::numeric_limits<A>::epsilon()), type, "dp", rows, width);
}

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("skipped: no CUDA device is present, swiglu on the device was not compared with the host\n");
    return skipped;
  }
  const extent_t shapes[][2] = {{0, 8}, {1, 1}, {3, 127}, {5, 144}, {33, 1000}, {7, 4096}};
  for (const auto& s : shapes) {
    twins_agree<double>("fp64", 1e-13, s[0], s[1]);
    twins_agree<float>("fp32", 1e-5, s[0], s[1]);
    twins_agree<bf16>("bf16", 1e-2, s[0], s[1]);  // one rounding to 8 bits may go the other way
  }
  std::printf(failures ? "%d comparisons failed\n" : "device and host agree\n", failures);
  return failures ? 1 : 0;
}
