#include <moefold/ops/flash.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <vector>

using namespace moefold;
using test::random_tensor;
using positions = std::vector<std::int32_t>;

namespace {

/// Positions of the two chunks that context-parallel rank r of cp owns in a sequence of length s.
positions zigzag(std::int32_t s, std::int32_t cp, std::int32_t r) {
  const std::int32_t chunk = s / (2 * cp);
  positions out;
  for (const std::int32_t c : {r, 2 * cp - 1 - r})
    for (std::int32_t i = 0; i < chunk; ++i) out.push_back(c * chunk + i);
  return out;
}
positions count_up(std::int32_t n) {
  positions out;
  for (std::int32_t i = 0; i < n; ++i) out.push_back(i);
  return out;
}

template <class T>
struct result {
  tensor<T> out, lse;
  result(const shape& q) : out(q, T(77)), lse({q[1], q[2], q[0]}, T(77)) {}
};

/// The definition: all scores of a query at once, in double.
template <class T>
result<T> naive(view<const T> q, view<const T> k, view<const T> v, const positions& q_at, const positions& k_at) {
  result<T> y(q.shape());
  const extent_t d = q.extent(3), group = q.extent(2) / k.extent(2);
  for (extent_t i = 0; i < q.extent(0); ++i)
    for (extent_t b = 0; b < q.extent(1); ++b)
      for (extent_t h = 0; h < q.extent(2); ++h) {
        std::vector<double> weight;
        double sum = 0, top = -1e300;
        for (int pass = 0; pass < 2; ++pass)  // the maximum first
          for (extent_t j = 0; j < k.extent(0); ++j) {
            double score = 0;
            for (extent_t c = 0; c < d; ++c) score += double(q(i, b, h, c)) * double(k(j, b, h / group, c));
            score /= std::sqrt(double(d));
            if (pass == 0 && k_at[std::size_t(j)] <= q_at[std::size_t(i)]) top = std::max(top, score);
            if (pass == 0) continue;
            weight.push_back(k_at[std::size_t(j)] <= q_at[std::size_t(i)] ? std::exp(score - top) : 0.0);
            sum += weight.back();
          }
        for (extent_t c = 0; c < d; ++c) {
          double value = 0;
          for (extent_t j = 0; j < k.extent(0); ++j) value += weight[std::size_t(j)] * double(v(j, b, h / group, c));
          y.out.view()(i, b, h, c) = sum > 0 ? T(value / sum) : T(0);
        }
        y.lse.view()(b, h, i) = sum > 0 ? T(top + std::log(sum)) : -std::numeric_limits<T>::infinity();
      }
  return y;
}

template <class T>
result<T> flash(host_exec e, view<const T> q, view<const T> k, view<const T> v, const positions& q_at, const positions& k_at) {
  result<T> y(q.shape());
  flash_forward(e, q, k, v, q_at, k_at, y.out.view(), y.lse);
  return y;
}

}  // namespace

TEST_SUITE("ops/flash") {
  TEST_CASE_TEMPLATE("forward equals softmax over all visible keys, for awkward lengths, groups and zigzag positions", T, float, double) {
    host_context context;
    const host_exec e(context);
    struct {
      extent_t batch, q_heads, k_heads, d;
      positions q_at, k_at;
    } cases[] = {
        {1, 1, 1, 4, count_up(1), count_up(1)},
        {2, 4, 2, 6, count_up(5), count_up(5)},
        {1, 6, 2, 16, count_up(130), count_up(130)},
        {1, 2, 2, 8, zigzag(256, 2, 0), count_up(256)},
        {2, 8, 1, 16, zigzag(256, 2, 1), zigzag(256, 2, 0)},
        {1, 4, 4, 10, {9, 3, 0, 7}, {8, 1, 5}},  // query 0 sees no key
        {1, 2, 1, 4, {}, count_up(3)},
        {1, 2, 1, 4, count_up(3), {}},
    };
    for (const auto& c : cases) {
      const auto q = random_tensor<T>({extent_t(c.q_at.size()), c.batch, c.q_heads, c.d}, 1, 2.0);
      const auto k = random_tensor<T>({extent_t(c.k_at.size()), c.batch, c.k_heads, c.d}, 2, 2.0);
      const auto v = random_tensor<T>({extent_t(c.k_at.size()), c.batch, c.k_heads, c.d}, 3);
      const auto expected = naive<T>(q, k, v, c.q_at, c.k_at), given = flash<T>(e, q, k, v, c.q_at, c.k_at);
      CAPTURE(c.q_at.size());
      CHECK(test::largest_error(given.out, expected.out) < test::rounding<T>);
      CHECK(test::largest_error(given.lse, expected.lse) < test::rounding<T>);
    }
  }
  TEST_CASE("all three gradients equal finite differences, also where a query sees no key") {
    host_context context;
    const host_exec e(context);
    const positions q_at = {4, 0, 9, 6}, k_at = {1, 6, 3};
    auto q = random_tensor<double>({4, 2, 4, 6}, 1), k = random_tensor<double>({3, 2, 2, 6}, 2), v = random_tensor<double>({3, 2, 2, 6}, 3);
    const auto dout = random_tensor<double>({4, 2, 4, 6}, 4);
    const auto loss = [&] { return test::dot(flash<double>(e, q, k, v, q_at, k_at).out, dout); };
    const auto y = flash<double>(e, q, k, v, q_at, k_at);
    tensor<double> dq({4, 2, 4, 6}, 9.0), dk({3, 2, 2, 6}, 9.0), dv({3, 2, 2, 6}, 9.0);
    flash_backward(e, dout, q, k, v, y.out, y.lse, q_at, k_at, dq.view(), dk, dv);
    CHECK(test::largest_error(dq, test::numerical_gradient(q, loss)) < 1e-9);
    CHECK(test::largest_error(dk, test::numerical_gradient(k, loss)) < 1e-9);
    CHECK(test::largest_error(dv, test::numerical_gradient(v, loss)) < 1e-9);
  }
  TEST_CASE("over several blocks the gradient along a random direction equals the loss's slope") {
    host_context context;
    const host_exec e(context);
    const positions q_at = zigzag(192, 2, 1), k_at = count_up(192);
    tensor<double> x[] = {random_tensor<double>({96, 1, 4, 8}, 1), random_tensor<double>({192, 1, 2, 8}, 2),
                          random_tensor<double>({192, 1, 2, 8}, 3)};
    const auto dout = random_tensor<double>({96, 1, 4, 8}, 4);
    const auto y = flash<double>(e, x[0], x[1], x[2], q_at, k_at);
    tensor<double> grad[] = {tensor<double>(x[0].shape()), tensor<double>(x[1].shape()), tensor<double>(x[2].shape())};
    flash_backward(e, dout, x[0], x[1], x[2], y.out, y.lse, q_at, k_at, grad[0].view(), grad[1], grad[2]);
    for (int which = 0; which < 3; ++which) {
      const auto way = random_tensor<double>(x[which].shape(), 5);
      const auto start = test::copy_of(x[which].view());
      tensor<double> step({1}, 0.0);
      const auto slope = test::numerical_gradient(step.view(), [&] {
        for (std::size_t i = 0; i < way.size(); ++i) x[which][i] = start[i] + step[0] * way[i];
        return test::dot(flash<double>(e, x[0], x[1], x[2], q_at, k_at).out, dout);
      });
      std::copy(start.begin(), start.end(), x[which].begin());
      CHECK(test::dot(grad[which], way) == doctest::Approx(slope[0]).epsilon(1e-9));
    }
  }
  TEST_CASE_TEMPLATE("two halves of the keys merge into the whole, forward and backward", T, float, double) {
    host_context context;
    const host_exec e(context);
    const positions whole = count_up(128);
    const auto q = random_tensor<T>({128, 1, 4, 8}, 1), k = random_tensor<T>({128, 1, 2, 8}, 2), v = random_tensor<T>({128, 1, 2, 8}, 3);
    const auto expected = flash<T>(e, q, k, v, whole, whole);
    const positions low(whole.begin(), whole.begin() + 50), high(whole.begin() + 50, whole.end());
    auto merged = flash<T>(e, q, k.view().rows(50, 78), v.view().rows(50, 78), whole, high);  // queries 0..49 see none of these
    const auto other = flash<T>(e, q, k.view().rows(0, 50), v.view().rows(0, 50), whole, low);
    flash_merge(e, merged.out.view(), merged.lse, other.out, other.lse);
    CHECK(test::largest_error(merged.out, expected.out) < test::rounding<T>);
    CHECK(test::largest_error(merged.lse, expected.lse) < test::rounding<T>);

    const auto dout = random_tensor<T>({128, 1, 4, 8}, 4);
    tensor<T> dq({128, 1, 4, 8}), dk({128, 1, 2, 8}), dv({128, 1, 2, 8});
    tensor<T> part({128, 1, 4, 8}), more({128, 1, 4, 8}), dk_parts({128, 1, 2, 8}), dv_parts({128, 1, 2, 8});
    flash_backward(e, dout, q, k, v, expected.out, expected.lse, whole, whole, dq.view(), dk, dv);
    flash_backward(e, dout, q, k.view().rows(0, 50), v.view().rows(0, 50), merged.out, merged.lse, whole, low, part.view(),
                   dk_parts.view().rows(0, 50), dv_parts.view().rows(0, 50));
    flash_backward(e, dout, q, k.view().rows(50, 78), v.view().rows(50, 78), merged.out, merged.lse, whole, high, more.view(),
                   dk_parts.view().rows(50, 78), dv_parts.view().rows(50, 78));
    for (std::size_t i = 0; i < part.size(); ++i) part[i] += more[i];
    CHECK(test::largest_error(part, dq) < 4 * test::rounding<T>);
    CHECK(test::largest_error(dk_parts, dk) < 4 * test::rounding<T>);
    CHECK(test::largest_error(dv_parts, dv) < 4 * test::rounding<T>);
  }
  TEST_CASE("scores far beyond the range of exp stay finite") {
    host_context context;
    const host_exec e(context);
    const auto q = random_tensor<float>({70, 1, 2, 4}, 1, 100.0), k = random_tensor<float>({70, 1, 1, 4}, 2, 100.0),
               v = random_tensor<float>({70, 1, 1, 4}, 3);
    const auto expected = naive<float>(q, k, v, count_up(70), count_up(70)), given = flash<float>(e, q, k, v, count_up(70), count_up(70));
    CHECK(test::largest_error(given.out, expected.out) < 1e-2);  // the scores themselves carry 1e-3
    CHECK(test::largest_error(given.lse, expected.lse) < 1e-5);
  }
  TEST_CASE("whether a block of queries sees a block of keys is what its pairs say, for all small ranges") {
    using detail::flash_seen;
    int kinds[3] = {};
    for (std::int32_t q = 0; q < 4; ++q)
      for (std::int32_t q_high = q; q_high < 4; ++q_high)
        for (std::int32_t k = 0; k < 4; ++k)
          for (std::int32_t k_high = k; k_high < 4; ++k_high)
            for (std::int32_t first = 0; first < 4; ++first)
              for (std::int32_t first_high = first; first_high < 4; ++first_high) {
                int pairs = 0, visible = 0;
                for (std::int32_t i = q; i <= q_high; ++i)
                  for (std::int32_t j = k; j <= k_high; ++j)
                    for (std::int32_t from = first; from <= first_high; ++from) ++pairs, visible += from <= j && j <= i;
                const flash_seen given = detail::flash_visible({q, q_high}, {k, k_high}, {first, first_high});
                ++kinds[int(given)];
                if (given == flash_seen::none) CHECK(visible == 0);
                if (given == flash_seen::all) CHECK(visible == pairs);
                if (visible == pairs) CHECK(given == flash_seen::all);
              }
    for (const int count : kinds) CHECK(count > 0);
  }
  TEST_CASE("every block of a launch has work of its own, the last block of every head first; offsets are those of the tensors") {
    const detail::flash_shape s("test", {5, 3, 4, 2}, {7, 3, 2, 2}, {7, 3, 2, 2}, 5, 7, 0);
    const unsigned blocks = 4;
    for (unsigned index = 0; index < blocks * 6; ++index) {
      const auto at = s.place_of(index, blocks);
      CHECK(at.block == blocks - 1 - index % blocks);
      CHECK(at.b * 2 + at.head == index / blocks);
      CHECK(at.head < 2);
    }
    const tensor<float> q({5, 3, 4, 2}, 0.0f), k({7, 3, 2, 2}, 0.0f), lse({3, 4, 5}, 0.0f);
    for (extent_t b = 0; b < 3; ++b)
      for (extent_t head = 0; head < 2; ++head) {
        for (int r = 0; r < s.rows(); ++r) {
          CHECK(q.data() + s.row_offset(r, b, head) == &q.view()(r / 2, b, head * 2 + r % 2, 0));
          CHECK(lse.data() + s.lse_offset(r, b, head) == &lse.view()(b, head * 2 + r % 2, r / 2));
        }
        for (extent_t j = 0; j < 7; ++j) CHECK(k.data() + s.k_offset(j, b, head) == &k.view()(j, b, head, 0));
      }
  }
  TEST_CASE("scratch does not grow with the number of keys, and shapes that do not fit are named") {
    host_context context;
    const host_exec e(context);
    const auto q = random_tensor<float>({8, 1, 2, 4}, 1), k = random_tensor<float>({4096, 1, 1, 4}, 2);
    (void)flash<float>(e, q, k, k, count_up(8), count_up(4096));
    CHECK(context.scratch.peak() < 128 * 1024);  // all scores at once would be 256 KiB
    result<float> y(q.shape());
    CHECK_THROWS_AS(flash_forward(e, q, k, k, count_up(7), count_up(4096), y.out.view(), y.lse), error);
    const auto odd = random_tensor<float>({8, 1, 3, 4}, 1), two = random_tensor<float>({8, 1, 2, 4}, 1);
    result<float> z(odd.shape());
    CHECK_THROWS_AS(flash_forward(e, odd, two, two, count_up(8), count_up(8), z.out.view(), z.lse), error);
  }
}
