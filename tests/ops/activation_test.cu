#include <moefold/ops/activation.cuh>

#include "../support/close.hpp"
#include "../support/random.hpp"

#include <doctest/doctest.h>

using namespace moefold;

namespace {

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

template <class T>
void twins_agree(double limit, extent_t rows, extent_t width) {
  CAPTURE(rows);
  CAPTURE(width);
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

  CHECK(test::largest_error(to_host(out_d), out) <= limit);
  CHECK(test::largest_error(to_host(dgate_d), dgate) <= limit);
  CHECK(test::largest_error(to_host(dup_d), dup) <= limit);
  CHECK(test::largest_error(to_host(dp_d), dp) <= 1e4 * double(std::numeric_limits<A>::epsilon()));

  gelu_forward(host, up, p, out.view());
  gelu_backward(host, dout, up, p, dup.view(), dp);
  gelu_forward(device, up_d, p_d, out_d.view());
  gelu_backward(device, dout_d, up_d, p_d, dup_d.view(), dp_d);
  device.wait();
  CHECK(test::largest_error(to_host(out_d), out) <= limit);
  CHECK(test::largest_error(to_host(dup_d), dup) <= limit);
  CHECK(test::largest_error(to_host(dp_d), dp) <= 1e4 * double(std::numeric_limits<A>::epsilon()));
}

constexpr extent_t shapes[][2] = {{0, 8}, {1, 1}, {3, 127}, {5, 144}, {33, 1000}, {7, 4096}};

}  // namespace

TEST_SUITE("ops/activation") {
  TEST_CASE("swiglu and gelu on the device agree with their host twins, forward and backward") {
    for (const auto& s : shapes) {
      twins_agree<double>(1e-13, s[0], s[1]);
      twins_agree<float>(1e-5, s[0], s[1]);
      twins_agree<bf16>(1e-2, s[0], s[1]);  // one rounding to 8 bits may go the other way
    }
  }
}
