#include <moefold/ops/elementwise.cuh>

#include <doctest/doctest.h>
#include "../support/shifted.hpp"

using namespace moefold;
using test::poisoned;
using test::random_tensor;
using test::same_bits;
using test::shifted;
using test::to_host;

namespace {

template <class T>
tensor<T> numbers(extent_t n, std::uint64_t seed) {
  if constexpr (std::is_integral_v<T>) {
    tensor<T> out({n});
    const random_stream drawn(seed, "numbers");
    for (extent_t i = 0; i < n; ++i) out[std::size_t(i)] = T(100 * drawn.uniform(std::uint64_t(i)));
    return out;
  } else {
    return random_tensor<T>({n}, seed);
  }
}
constexpr extent_t sizes[] = {0, 1, 3, 8, 17, 2048, 5003};

}  // namespace

TEST_SUITE("ops/elementwise") {
  TEST_CASE_TEMPLATE("each verb gives the bits of its host twin, in packs and from any address", T, float, double, bf16, std::int64_t,
                     std::int32_t, std::uint8_t) {
    using A = accumulate_t<T>;
    const test::both_execs on;
    for (const extent_t n : sizes)
      for (const extent_t skip : {0, 1}) {
        CAPTURE(n);
        CAPTURE(skip);
        const auto a = numbers<T>(n, 1), b = numbers<T>(n, 2);
        tensor<T> sum({n}), total = test::copy_of(a.view()), filled({n});
        add(on.host, a, b, sum.view());
        accumulate(on.host, b.view(), total.view());
        scale(on.host, total.view(), A(3));
        fill(on.host, filled.view(), T(A(7)));
        shifted<T> a_d(a, skip), b_d(b, skip), sum_d({n}, skip), total_d(a, skip), filled_d({n}, skip), copy_d({n}, skip), second_d({n}, 0);
        add(on.device, a_d, b_d, sum_d.view());
        accumulate(on.device, b_d.view(), total_d.view());
        scale(on.device, total_d.view(), A(3));
        fill(on.device, filled_d.view(), T(A(7)));
        copy(on.device, sum_d, copy_d.view());
        copy(on.device, view<const T>(copy_d.view()).span(), second_d.view().span());
        CHECK(same_bits(to_host(on.device, sum_d), sum));
        CHECK(same_bits(to_host(on.device, total_d), total));
        CHECK(same_bits(to_host(on.device, filled_d), filled));
        CHECK(same_bits(to_host(on.device, copy_d), sum));
        CHECK(same_bits(to_host(on.device, second_d), sum));
        add(on.device, a_d, b_d, a_d.view());  // in place
        CHECK(same_bits(to_host(on.device, a_d), sum));
      }
  }
  TEST_CASE("casts and sums across types give the bits of their host twins") {
    const test::both_execs on;
    const auto check = [&]<class T, class U>(T, U) {
      for (const extent_t n : sizes)
        for (const extent_t skip : {0, 1}) {
          const auto x = numbers<T>(n, 3);
          const auto start = numbers<U>(n, 4);
          tensor<U> y({n}), total = test::copy_of(start.view());
          cast(on.host, x.view(), y.view());
          accumulate(on.host, x.view(), total.view());
          shifted<T> x_d(x, skip);
          shifted<U> y_d({n}, 0), total_d(start, skip);
          cast(on.device, x_d.view(), y_d.view());
          accumulate(on.device, x_d.view(), total_d.view());
          CHECK(same_bits(to_host(on.device, y_d), y));
          CHECK(same_bits(to_host(on.device, total_d), total));
        }
    };
    check(float{}, bf16{});
    check(bf16{}, float{});
    check(double{}, bf16{});
    check(bf16{}, double{});
    check(float{}, double{});
    check(double{}, float{});
  }
  TEST_CASE_TEMPLATE("the sum of squares stays on the device, is made in double and has the same bits every time", T, float, double, bf16) {
    const test::both_execs on;
    for (const extent_t n : {0, 1, 5, 2049, test::emulated ? 300001 : 5000001})
      for (const extent_t skip : {0, 1}) {
        CAPTURE(n);
        const auto x = numbers<T>(n, 5);
        tensor<double> expected({1});
        sum_of_squares(on.host, x.view(), expected.view());
        shifted<T> x_d(x, skip);
        auto out_d = poisoned<double>({1}), again_d = poisoned<double>({1});
        sum_of_squares(on.device, x_d.view(), out_d.view());
        sum_of_squares(on.device, view<const T>(x_d.view()).span(), again_d.view());
        const auto out = to_host(on.device, out_d);
        CHECK(test::norm_error(out, expected) < 1e-12);
        CHECK(same_bits(to_host(on.device, again_d), out));
      }
  }
  TEST_CASE("different sizes are refused on the host, before anything is launched") {
    const test::both_execs on;
    test::device_tensor<float> three({3}), four({4});
    tensor<double> two({2});
    CHECK_THROWS_AS(accumulate(on.device, three.view(), four.view()), error);
    CHECK_THROWS_AS(copy(on.device, three, four.view()), error);
    CHECK_THROWS_AS(sum_of_squares(on.device, three.view(), two.view()), error);
  }
}
