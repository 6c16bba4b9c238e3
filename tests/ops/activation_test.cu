#include <moefold/ops/activation.cuh>

#include <doctest/doctest.h>
#include "../support/shifted.hpp"

using namespace moefold;
using test::poisoned;
using test::random_tensor;
using test::same_bits;
using test::shifted;
using test::to_device;
using test::to_host;

namespace {

template <class T>
void twins_agree(double limit, extent_t rows, extent_t width, extent_t skip) {
  CAPTURE(rows);
  CAPTURE(width);
  CAPTURE(skip);
  using A = accumulate_t<T>;
  const test::both_execs on;
  const shape s{rows, width};
  const auto gate = random_tensor<T>(s, 1, 3.0), up = random_tensor<T>(s, 2), dout = random_tensor<T>(s, 3);
  const auto p = random_tensor<A>({rows}, 4);
  shifted gate_d(gate, skip), up_d(up, skip), dout_d(dout, skip);
  const auto p_d = to_device(p);
  const double sums = 1e4 * double(std::numeric_limits<A>::epsilon());

  tensor<T> out(s), dgate(s), dup(s);
  tensor<A> dp({rows});
  swiglu_forward(on.host, gate, up, p, out.view());
  swiglu_backward(on.host, dout, gate, up, p, dgate.view(), dup, dp);
  shifted<T> out_d(s, skip), dgate_d(s, skip), dup_d(s, skip);
  auto dp_d = poisoned<A>({rows});
  swiglu_forward(on.device, gate_d, up_d, p_d, out_d.view());
  swiglu_backward(on.device, dout_d, gate_d, up_d, p_d, dgate_d.view(), dup_d, dp_d);
  CHECK(test::largest_error(to_host(on.device, out_d), out) <= limit);
  CHECK(test::largest_error(to_host(on.device, dgate_d), dgate) <= limit);
  CHECK(test::largest_error(to_host(on.device, dup_d), dup) <= limit);
  CHECK(test::largest_error(to_host(on.device, dp_d), dp) <= sums);

  gelu_forward(on.host, up, p, out.view());
  gelu_backward(on.host, dout, up, p, dup.view(), dp);
  shifted<T> gelu_d(s, skip), dgelu_d(s, skip);
  auto dp_gelu_d = poisoned<A>({rows});
  gelu_forward(on.device, up_d, p_d, gelu_d.view());
  gelu_backward(on.device, dout_d, up_d, p_d, dgelu_d.view(), dp_gelu_d);
  CHECK(test::largest_error(to_host(on.device, gelu_d), out) <= limit);
  CHECK(test::largest_error(to_host(on.device, dgelu_d), dup) <= limit);
  CHECK(test::largest_error(to_host(on.device, dp_gelu_d), dp) <= sums);

  // In place: the same bits, the sums too.
  auto again_d = poisoned<A>({rows});
  shifted alone_d(up, skip);
  swiglu_backward(on.device, dout_d, gate_d, up_d, p_d, gate_d.view(), up_d, again_d);
  CHECK(same_bits(to_host(on.device, gate_d), to_host(on.device, dgate_d)));
  CHECK(same_bits(to_host(on.device, up_d), to_host(on.device, dup_d)));
  CHECK(same_bits(to_host(on.device, again_d), to_host(on.device, dp_d)));
  gelu_backward(on.device, dout_d, alone_d, p_d, alone_d.view(), again_d);
  CHECK(same_bits(to_host(on.device, alone_d), to_host(on.device, dgelu_d)));
  CHECK(same_bits(to_host(on.device, again_d), to_host(on.device, dp_gelu_d)));
}

// A warp per row, a block per row; rows that packs divide and rows that they do not; no column, no row.
constexpr extent_t shapes[][2] = {{0, 8}, {3, 0}, {1, 1}, {3, 127}, {5, 144}, {33, 1000}, {3, 4096}};

}  // namespace

TEST_SUITE("ops/activation") {
  TEST_CASE("swiglu and gelu on the device agree with their host twins, forward and backward") {
    for (const auto& s : shapes)
      for (const extent_t skip : {0, 1}) {
        twins_agree<double>(1e-13, s[0], s[1], skip);
        twins_agree<float>(1e-5, s[0], s[1], skip);
        twins_agree<bf16>(1e-2, s[0], s[1], skip);  // one rounding to 8 bits may go the other way
      }
  }
}
