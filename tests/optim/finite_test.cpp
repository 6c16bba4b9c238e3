#include <moefold/optim/finite.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

using namespace moefold;

namespace {

template <class T>
std::vector<T> bad_numbers() {
  using limits = std::numeric_limits<accumulate_t<T>>;
  return {T(limits::infinity()), T(-limits::infinity()), T(limits::quiet_NaN()), T(-limits::quiet_NaN()), T(1e30f), T(-0x1p64f)};
}

}  // namespace

TEST_SUITE("optim/finite") {
  TEST_CASE_TEMPLATE("a number is finite unless it is an infinity or a NaN", T, float, double, bf16) {
    using limits = std::numeric_limits<accumulate_t<T>>;
    for (const T x : bad_numbers<T>()) CHECK(is_finite(x) == std::isfinite(double(x)));
    const float largest_bf16 = std::bit_cast<float>(0x7f7f0000u);
    for (const T x : {T(0.0f), T(-0.0f), T(1.0f), T(-1e30f), T(largest_bf16), T(-largest_bf16), T(limits::denorm_min())})
      CHECK(is_finite(x));
    if constexpr (!std::is_same_v<T, bf16>) CHECK(is_finite(T(limits::max())));
    if constexpr (!std::is_same_v<T, bf16>) CHECK_FALSE(is_finite(limits::signaling_NaN()));
  }
  TEST_CASE_TEMPLATE("a number is bounded if its magnitude is smaller than 2^64", T, float, double, bf16) {
    for (const T x : bad_numbers<T>()) CHECK_FALSE(is_bounded(x));
    for (const T x : {T(0.0f), T(-0.0f), T(1.0f), T(0x1.fp63f), T(-0x1.fp63f), T(std::numeric_limits<accumulate_t<T>>::denorm_min())})
      CHECK(is_bounded(x));
  }
  TEST_CASE("every bf16 is judged as its float") {
    bool same = true;
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
      bf16 x;
      x.bits = std::uint16_t(bits);
      same = same && is_finite(x) == std::isfinite(float(x)) && is_bounded(x) == (std::abs(float(x)) < 0x1p64f);
    }
    CHECK(same);
  }
  TEST_CASE_TEMPLATE("the first bad element is found wherever it is, all are counted, and zeroing leaves the others", T, float, double,
                     bf16) {
    host_context context;
    const host_exec e(context);
    for (const std::size_t size : {0u, 1u, 7u, 1023u, 1024u, 1025u, 5000u}) {
      CAPTURE(size);
      std::vector<T> x(size, T(-1.5f));
      CHECK(first_bad(e, std::span<const T>(x)) == size);
      CHECK(count_bad(e, std::span<const T>(x)) == 0);
      for (const T bad : bad_numbers<T>())
        for (const std::size_t at : {std::size_t{0}, size / 2, size - 1, std::size_t{1024}, std::size_t{1023}}) {
          if (size == 0 || at >= size) continue;
          x[at] = bad, x[size - 1] = bad;
          CHECK(first_bad(e, std::span<const T>(x)) == at);
          CHECK(count_bad(e, std::span<const T>(x)) == (at == size - 1 ? 1 : 2));
          std::int64_t found[2] = {-7, -7};
          find_bad(e, std::span<const T>(x), view<std::int64_t>(found));
          CHECK(found[0] == std::int64_t(at));
          CHECK(found[1] == (at == size - 1 ? 1 : 2));
          zero_bad(e, std::span<T>(x));
          CHECK(x[at] == T(0.0f));
          CHECK(first_bad(e, std::span<const T>(x)) == size);
          if (size > 2) CHECK(x[at == 1 ? 0 : 1] == T(size == 2 ? 0.0f : -1.5f));
          x[at] = T(-1.5f), x[size - 1] = T(-1.5f);
        }
    }
  }
}
