#include <moefold/ops/flash.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

#include <vector>

using namespace moefold;
using positions = std::vector<std::int32_t>;

namespace {

positions count_up(std::int32_t n, std::int32_t from = 0) {
  positions out;
  for (std::int32_t i = 0; i < n; ++i) out.push_back(from + i);
  return out;
}
/// Positions of the two chunks that context-parallel rank r of cp owns in a sequence of length s.
positions zigzag(std::int32_t s, std::int32_t cp, std::int32_t r) {
  const std::int32_t chunk = s / (2 * cp);
  positions out = count_up(chunk, r * chunk);
  for (const std::int32_t p : count_up(chunk, (2 * cp - 1 - r) * chunk)) out.push_back(p);
  return out;
}
/// Documents of these lengths, one after the other, again and again; every sequence b begins b places later in them.
positions documents(const positions& at, extent_t batch, const positions& lengths) {
  positions out;
  for (const std::int32_t p : at)
    for (extent_t b = 0; b < batch; ++b) {
      std::int32_t begin = 0;
      for (std::size_t i = 0;; ++i) {
        const std::int32_t end = begin + lengths[i % lengths.size()] + std::int32_t(i == 0 ? b : 0);
        if (p < end) break;
        begin = end;
      }
      out.push_back(begin);
    }
  return out;
}

struct attention_case {
  const char* what;
  extent_t batch, q_heads, k_heads, d;
  positions q_at, k_at, lengths = {};  // lengths of documents; none: one document
  bool misaligned = false;
  float away = 0;  // added to every element of q, and taken from every element of k
};

/// A copy of x on the device whose first element stands one element behind 16 bytes, where that is asked for.
template <class T>
struct placed {
  test::device_tensor<T> room;
  view<const T> x;
  placed(const tensor<T>& from, bool misaligned) : room({extent_t(from.size()) + 1}), x(room.data() + misaligned, from.shape()) {
    if (from.size() > 0)
      test::settle(cudaMemcpy(room.data() + misaligned, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice),
                   "copying a test input");
  }
};

/// Forward and backward of one case on both execs.
template <class T, class Out, flash_tuning Tune = flash_tuning{}>
void twins_agree(const attention_case& x, double limit) {
  INFO(x.what);
  using A = accumulate_t<T>;
  test::both_execs execs;
  const extent_t sq = extent_t(x.q_at.size()), sk = extent_t(x.k_at.size());
  const shape wide{sq, x.batch, x.q_heads, x.d}, narrow{sk, x.batch, x.k_heads, x.d}, per_row{x.batch, x.q_heads, sq};
  auto q = test::random_tensor<T>(wide, 1), k = test::random_tensor<T>(narrow, 2);
  for (T& one : q) one = T(A(one) + A(x.away));
  for (T& one : k) one = T(A(one) - A(x.away));
  const auto v = test::random_tensor<T>(narrow, 3), dout = test::random_tensor<T>(wide, 4);
  const positions first = x.lengths.empty() ? positions{} : documents(x.q_at, x.batch, x.lengths);

  tensor<Out> out(wide), dq(wide), dk(narrow), dv(narrow);
  tensor<A> lse(per_row), mean(per_row);
  const auto in = [](const auto& t) { return t.view(); };
  flash_forward_to<T>(execs.host, in(q), in(k), in(v), x.q_at, x.k_at, first, out.view(), lse.view());
  const auto rounded = test::converted<T>(out);
  flash_mean<T>(execs.host, in(dout), in(rounded), mean.view());
  flash_backward_to<T, Out>(execs.host, in(dout), in(q), in(k), in(v), view<const A>(lse), view<const A>(mean), x.q_at, x.k_at, first,
                            dq.view(), dk.view(), dv.view());

  const placed<T> q_d(q, x.misaligned), k_d(k, x.misaligned), v_d(v, x.misaligned), dout_d(dout, x.misaligned),
      rounded_d(rounded, x.misaligned);
  const auto q_at = test::to_device(x.q_at), k_at = test::to_device(x.k_at), first_at = test::to_device(first);
  const std::span<const std::int32_t> q_span = q_at.view(), k_span = k_at.view(), first_span = first_at.view();
  auto out_d = test::poisoned<Out>(wide), dq_d = test::poisoned<Out>(wide), dk_d = test::poisoned<Out>(narrow),
       dv_d = test::poisoned<Out>(narrow);
  auto lse_d = test::poisoned<A>(per_row), mean_d = test::poisoned<A>(per_row);
  flash_forward_to<T, Out, Tune>(execs.device, q_d.x, k_d.x, v_d.x, q_span, k_span, first_span, out_d.view(), lse_d.view());
  CHECK(test::norm_error(test::to_host(execs.device, out_d), out) < limit);
  CHECK(test::norm_error(test::to_host(execs.device, lse_d), lse) < limit);
  flash_mean<T>(execs.device, dout_d.x, rounded_d.x, mean_d.view());
  CHECK(test::norm_error(test::to_host(execs.device, mean_d), mean) < limit);
  flash_backward_to<T, Out, Tune>(execs.device, dout_d.x, q_d.x, k_d.x, v_d.x, view<const A>(lse_d), view<const A>(mean_d), q_span, k_span,
                                  first_span, dq_d.view(), dk_d.view(), dv_d.view());
  CHECK(test::norm_error(test::to_host(execs.device, dq_d), dq) < limit);
  CHECK(test::norm_error(test::to_host(execs.device, dk_d), dk) < limit);
  CHECK(test::norm_error(test::to_host(execs.device, dv_d), dv) < limit);
}

constexpr double close_to_host(float) { return 1e-5; }
constexpr double close_to_host(double) { return 1e-12; }
constexpr double close_to_host(bf16) { return 2e-2; }

const attention_case awkward[] = {
    {"one query, one key", 1, 1, 1, 8, count_up(1), count_up(1)},
    {"an odd head_dim, groups of two, two sequences", 2, 4, 2, 5, count_up(37), count_up(37)},
    {"a head_dim of whole packs, groups of three, many blocks", 1, 6, 2, 24, count_up(70), count_up(70)},
    {"zigzag queries over zigzag keys of another rank", 2, 2, 1, 16, zigzag(152, 2, 1), zigzag(152, 2, 0)},
    {"positions in no order; a query without keys", 1, 4, 4, 40, {9, 3, 0, 7}, {8, 1, 5}},
    {"packed documents, other ones in every sequence", 3, 2, 2, 16, count_up(90), count_up(90), {7, 40, 1}},
    {"packed documents of zigzag queries", 2, 4, 1, 8, zigzag(96, 2, 0), count_up(96), {11, 30}},
    {"no query", 1, 2, 1, 8, {}, count_up(3)},
    {"no key", 1, 2, 1, 8, count_up(3), {}},
    {"tensors that begin between 16 bytes", 1, 2, 1, 16, count_up(20), count_up(20), {}, true},
};

}  // namespace

TEST_SUITE("ops/flash") {
  TEST_CASE_TEMPLATE("forward and backward on the device agree with their host twins", T, float, double, bf16) {
    for (const attention_case& x : awkward) twins_agree<T, T>(x, close_to_host(T{}));
  }
  TEST_CASE("results of bf16 can be left in float, for whoever merges them") {
    twins_agree<bf16, float>(awkward[2], 1e-2);
    twins_agree<bf16, float>(awkward[1], 1e-5);  // odd: the plain kernels
  }
  TEST_CASE("every width of the kernels, up to a head_dim of 256") {
    for (const extent_t d : {72, 128, 256}) {
      CAPTURE(d);
      twins_agree<bf16, bf16>({"width", 1, 2, 1, d, count_up(70), count_up(70)}, 2e-2);
    }
    for (const extent_t d : {33, 100, 255}) {
      CAPTURE(d);
      twins_agree<float, float>({"width", 1, 2, 1, d, count_up(40), count_up(40)}, 1e-5);
      twins_agree<double, double>({"width", 1, 2, 1, d, count_up(20), count_up(20)}, 1e-12);
    }
    test::both_execs x;
    test::device_tensor<float> wide({1, 1, 1, 257}), lse({1, 1, 1});
    const auto at = test::to_device(count_up(1));
    const view<const float> in = wide.view();
    CHECK_THROWS_WITH_AS(flash_forward_to<float>(x.device, in, in, in, at.view().span(), at.view().span(), {}, wide.view(), lse.view()),
                         "moefold: flash_forward has kernels for a head_dim of up to 256, given 257", error);
  }
  TEST_CASE("scores far below zero, in a last block that every query sees: the keys that are not there stay out of it") {
    const attention_case x{"ragged", 1, 2, 1, 16, count_up(20, 100), count_up(20), {}, false, 8.0f};
    twins_agree<bf16, bf16>(x, 2e-2);
    twins_agree<float, float>(x, 1e-3);  // the scores themselves carry 1e-5
  }
  TEST_CASE("other tunings give the same numbers") {
    twins_agree<bf16, bf16, flash_tuning{.warps = 2, .tiles = 1, .step = 32}>(awkward[3], 2e-2);
    twins_agree<bf16, bf16, flash_tuning{.warps = 1, .tiles = 2, .step = 64}>(awkward[5], 2e-2);
  }
  TEST_CASE_TEMPLATE("two halves of the keys merge into the whole, where a half is seen by no query too", T, float, double, bf16) {
    using A = accumulate_t<T>;
    for (const extent_t d : {8, 9}) {
      CAPTURE(d);
      test::both_execs x;
      const shape wide{33, 2, 2, d}, per_row{2, 2, 33};
      auto out_a = test::random_tensor<T>(wide, 1);
      auto lse_a = test::random_tensor<A>(per_row, 2);
      const auto out_b = test::random_tensor<T>(wide, 3);
      auto lse_b = test::random_tensor<A>(per_row, 4);
      constexpr A none = -std::numeric_limits<A>::infinity();
      lse_a[0] = lse_b[1] = lse_a[2] = lse_b[2] = none;
      auto out_d = test::to_device(out_a);
      auto lse_d = test::to_device(lse_a);
      const auto out_b_d = test::to_device(out_b);
      const auto lse_b_d = test::to_device(lse_b);
      flash_merge(x.host, out_a.view(), lse_a, out_b, lse_b);
      flash_merge(x.device, out_d.view(), lse_d, out_b_d, lse_b_d);
      CHECK(test::norm_error(test::to_host(x.device, out_d), out_a) < close_to_host(T{}));
      CHECK(test::norm_error(test::to_host(x.device, lse_d), lse_a) < close_to_host(A{}));
    }
  }
  TEST_CASE("every launch gives the same bits") {
    test::both_execs x;
    const auto q = test::to_device(test::random_tensor<bf16>({70, 1, 4, 16}, 1)),
               k = test::to_device(test::random_tensor<bf16>({70, 1, 2, 16}, 2));
    const auto at = test::to_device(count_up(70));
    const std::span<const std::int32_t> places = at.view();
    const auto once = [&] {
      auto out = test::poisoned<float>(q.shape()), lse = test::poisoned<float>({1, 4, 70}), dq = test::poisoned<float>(q.shape()),
           dk = test::poisoned<float>(k.shape()), dv = test::poisoned<float>(k.shape());
      flash_forward_to<bf16>(x.device, q.view(), k.view(), k.view(), places, places, {}, out.view(), lse.view());
      flash_backward_to<bf16>(x.device, q.view(), q.view(), k.view(), k.view(), view<const float>(lse), view<const float>(lse), places,
                              places, {}, dq.view(), dk.view(), dv.view());
      std::vector<float> all;
      for (const auto* t : {&out, &lse, &dq, &dk, &dv})
        for (const float value : test::to_host(x.device, *t)) all.push_back(value);
      return all;
    };
    CHECK(once() == once());
  }
}
