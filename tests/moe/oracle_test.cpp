#include "../support/oracle_moe.hpp"

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/dense_moe.hpp"
#include "../support/gradient.hpp"

using namespace moefold;
using namespace moefold::test;

namespace {

constexpr double infinite = std::numeric_limits<double>::infinity();
using bits = std::vector<std::uint8_t>;
using counts = std::vector<std::int64_t>;
using ids = std::vector<std::int32_t>;

double sigma(double a) { return 1 / (1 + std::exp(-a)); }

tensor<double> rows(extent_t width, std::initializer_list<double> elements) {
  tensor<double> out({extent_t(elements.size()) / width, width});
  std::copy(elements.begin(), elements.end(), out.begin());
  return out;
}

model_shape small(extent_t experts, extent_t k, extent_t hidden, score_function score = score_function::softmax_before) {
  model_shape m;
  m.experts = experts, m.top_k = k, m.hidden = hidden, m.ffn = 2, m.score = score;
  return m;
}

/// As many experts as elements of x, and the logits are x.
struct by_hand {
  oracle_options o;
  oracle_weights w;
  explicit by_hand(const model_shape& m) : o{}, w(m) {
    o.model = m;
    for (extent_t e = 0; e < m.experts; ++e)
      for (extent_t h = 0; h < m.hidden; ++h) w.router.view()(e, h) = e == h ? 1 : 0;
  }
  oracle_result run(const tensor<double>& x, double dy = 0) const { return run_oracle(o, w, x, tensor<double>(x.shape(), dy)); }
};

double scalar(const oracle_options& o, const oracle_weights& w, view<const double> x, view<const double> dy) {
  const oracle_result r = run_oracle(o, w, x, dy);
  return dot(r.y, dy) + o.weight * (r.micro_batch + r.sequence + r.global + r.global_running + r.z);
}

/// All gradients against finite differences, on the first weights and tokens that are away from every decision's boundary.
void check_gradients(const oracle_options& o, extent_t tokens) {
  for (std::uint64_t seed = 1;; seed += 100) {
    REQUIRE(seed < 100000);
    oracle_weights w(o.model, seed);
    auto x = random_tensor<double>({tokens, o.model.hidden}, seed + 20);
    const auto dy = random_tensor<double>({tokens, o.model.hidden}, seed + 21);
    const oracle_result r = run_oracle(o, w, x, dy);
    if (r.margin < 3e-3) continue;
    const auto check_one = [&](tensor<double>& at, const tensor<double>& gradient) {
      CHECK(largest_error(gradient, numerical_gradient(
                                        at, [&] { return scalar(o, w, x, dy); }, 1e-4)) < 1e-8);
    };
    check_one(x, r.dx), check_one(w.router, r.drouter), check_one(w.gate, r.dgate), check_one(w.up, r.dup), check_one(w.down, r.ddown);
    check_one(w.shared_gate, r.dshared_gate), check_one(w.shared_up, r.dshared_up), check_one(w.shared_down, r.dshared_down);
    check_one(w.shared_switch, r.dshared_switch);
    if (!o.forced.empty()) CHECK(r.expert == o.forced);
    if (o.tokens.drops()) CHECK(std::count(r.kept.begin(), r.kept.end(), 0) > 0);
    return;
  }
}

constexpr score_function scores[] = {score_function::softmax_after, score_function::softmax_before, score_function::sigmoid};

}  // namespace

TEST_SUITE("support/tape") {
  TEST_CASE("every operation's gradient equals finite differences") {
    auto x = random_tensor<double>({4}, 1);
    const auto formula = [](const auto& a) {
      using std::erf, std::exp, std::log;
      auto y = a[0] * a[1] - a[2] / a[3] + exp(a[0]) * erf(a[1] * 0.7) - log(a[2] * a[2] + 1.5);
      y += -a[3] * sigmoid(a[0] * 3 - a[2]) + 2 / (1 + a[1] * a[1]) - (1 - a[3]);
      return y;
    };
    const auto plain = [&] { return formula(std::vector<var>(x.begin(), x.end())).value(); };  // constants: no tape
    tape t;
    std::vector<var> leaves;
    for (const double value : x) leaves.push_back(t.leaf(value));
    const var y = formula(leaves);
    t.backward(y);
    tensor<double> gradient({4});
    for (std::size_t i = 0; i < 4; ++i) gradient[i] = t.gradient(leaves[i]);
    CHECK(y.value() == plain());
    CHECK(largest_error(gradient, numerical_gradient(x, plain)) < 1e-9);
  }
  TEST_CASE("a leaf used twice gets both slopes, an unused one and a constant none, and a second root starts anew") {
    tape t;
    const var a = t.leaf(3), unused = t.leaf(5), y = a * a + 7, z = 2 * a;
    t.backward(y);
    CHECK(t.gradient(a) == 6);
    CHECK(t.gradient(unused) == 0);
    CHECK(t.gradient(7) == 0);
    t.backward(z);
    CHECK(t.gradient(a) == 2);
  }
  TEST_CASE("comparisons are by value, and constants among themselves need no tape") {
    tape t;
    const var a = t.leaf(1), b = t.leaf(1), c = t.leaf(2);
    CHECK((a == b && a != c && a < c && c >= b && a == 1));
    const std::size_t before = t.size();
    CHECK((var(2) * 3 + 1).value() == 7);
    CHECK(t.size() == before);
  }
  TEST_CASE("sigmoid of large numbers is finite, and so is its slope") {
    for (const double at : {-700.0, -40.0, 40.0, 700.0}) {
      tape t;
      const var a = t.leaf(at), s = sigmoid(a);
      t.backward(s);
      CHECK(s.value() / (at < 0 ? std::exp(at) : 1) == doctest::Approx(1));
      CHECK(t.gradient(a) / std::exp(-std::abs(at)) == doctest::Approx(1));
    }
  }
}

TEST_SUITE("moe/oracle") {
  TEST_CASE("without anything special it is the plain MoE layer, also with forced choices") {
    model_shape m = small(5, 2, 6, score_function::softmax_after);
    m.ffn = 7;
    dense_moe dense(m, 3);
    const oracle_weights w(m, 3);
    const auto x = random_tensor<double>({9, 6}, 10), dy = random_tensor<double>({9, 6}, 11);
    tensor<double> y(x.shape()), dx(x.shape());
    CHECK(largest_error(w.down, dense.down) == 0);
    for (const bool forced : {false, true}) {
      for (auto* gradient : {&dense.drouter, &dense.dgate, &dense.dup, &dense.ddown}) std::fill(gradient->begin(), gradient->end(), 0.0);
      dense.run(x, dy, y, dx, forced ? ids{4, 1} : ids{});
      oracle_options o;
      o.model = m;
      for (int t = 0; forced && t < 9; ++t) o.forced.insert(o.forced.end(), {4, 1});
      const oracle_result r = run_oracle(o, w, x, dy);
      CHECK(largest_error(r.y, y) < 1e-12);
      CHECK(largest_error(r.dx, dx) < 1e-12);
      CHECK(largest_error(r.drouter, dense.drouter) < 1e-12);
      CHECK(largest_error(r.dgate, dense.dgate) < 1e-12);
      CHECK(largest_error(r.dup, dense.dup) < 1e-12);
      CHECK(largest_error(r.ddown, dense.ddown) < 1e-12);
      for (extent_t t = 0; t < 9; ++t) {
        const ids own = forced ? ids{4, 1} : dense.choose(x.data() + t * 6);
        CHECK(std::equal(own.begin(), own.end(), r.expert.begin() + t * 2));
      }
      CHECK((r.margin == infinite) == forced);  // what is forced was not decided here
    }
  }

  TEST_CASE("gradients equal finite differences: score x activation x shared expert x balance x capacity") {
    for (const score_function score : scores)
      for (const auto activation : {activation_function::swiglu, activation_function::gelu})
        for (const int shared : {0, 1, 2})
          for (const bool balanced : {false, true})
            for (const extent_t percent : {0, 50}) {
              oracle_options o;
              o.model = small(4, 2, 3, score);
              o.model.activation = activation;
              o.model.shared_ffn = shared > 0 ? 3 : 0;
              o.model.shared_gate = shared == 2;
              if (balanced) o.balance = {0.3, 0.4, 0.5, 0.6, 0.07};
              o.tokens.percent = percent;
              o.batch = 2;
              o.weight = 0.7;
              CAPTURE(int(score));
              CAPTURE(int(activation));
              CAPTURE(shared);
              CAPTURE(balanced);
              CAPTURE(percent);
              check_gradients(o, 6);
            }
  }
  TEST_CASE("gradients equal finite differences: groups, bias, scale, padding, jitter, forced choices, drop sets, one choice") {
    for (const score_function score : scores)
      for (const bool forced : {false, true}) {
        oracle_options o;
        o.model = small(6, 2, 3, score);
        o.model.expert_groups = 3, o.model.chosen_groups = 2;
        o.model.expert_bias = score == score_function::sigmoid;
        o.model.weight_scale = 1.7;
        o.tokens.percent = 50, o.tokens.by_position = forced;
        o.balance = {0.3, 0.4, 0.5, 0.6, 0.07};
        o.previous_share = {0.1, 0.7, 0.2, 0.5, 0.3, 0.2};
        o.running_share = {0.5, 0.2, 0.3, 0.1, 0.4, 0.5};
        o.batch = 2;
        o.padding = {0, 1, 0, 0, 0, 1, 0, 0};
        o.drop_sets = {{0, 1, 2, 7}, {3, 4, 5, 6}};
        const auto factors = random_tensor<double>({8 * 3}, 5, 0.1);
        for (const double f : factors) o.jitter.push_back(1 + f);
        if (forced) o.forced = {0, 5, 1, 2, 0, 3, 4, 2, 1, 0, 3, 0, 2, 0, 5, 1};
        check_gradients(o, 8);
      }
    for (const score_function score : {score_function::softmax_before, score_function::sigmoid}) {
      oracle_options o;
      o.model = small(4, 1, 3, score);
      o.balance.micro_batch = 0.3;
      check_gradients(o, 6);
    }
  }

  TEST_CASE("the three score functions weigh three logits as by hand, and the scale multiplies") {
    const auto x = rows(3, {1, 3, 2});
    const double all = std::exp(1) + std::exp(2) + std::exp(3), s1 = sigma(3), s2 = sigma(2);
    const double expected[3][2] = {{sigma(1), 1 - sigma(1)}, {std::exp(3) / all, std::exp(2) / all}, {s1 / (s1 + s2), s2 / (s1 + s2)}};
    for (std::size_t i = 0; i < 3; ++i) {
      model_shape m = small(3, 2, 3, scores[i]);
      m.weight_scale = 2.5;
      const oracle_result r = by_hand(m).run(x);
      CHECK(r.expert == ids{1, 2});
      CHECK(r.p[0] == doctest::Approx(2.5 * expected[i][0]).epsilon(1e-14));
      CHECK(r.p[1] == doctest::Approx(2.5 * expected[i][1]).epsilon(1e-14));
      CHECK(r.margin == doctest::Approx(i == 2 ? sigma(2) - sigma(1) : 1).epsilon(1e-12));
    }
  }
  TEST_CASE("one choice is weighed by its share of the softmax over all, or by its sigmoid") {
    const auto x = rows(2, {1, 3});
    CHECK(by_hand(small(2, 1, 2)).run(x).p[0] == doctest::Approx(sigma(2)).epsilon(1e-14));
    CHECK(by_hand(small(2, 1, 2, score_function::sigmoid)).run(x).p[0] == doctest::Approx(sigma(3)).epsilon(1e-14));
    CHECK_THROWS_AS(by_hand(small(2, 1, 2, score_function::softmax_after)).run(x), config_error);
  }
  TEST_CASE("softmax chooses by logits where probabilities underflow; ties go to the lowest expert; all experts leave no margin") {
    CHECK(by_hand(small(3, 2, 3)).run(rows(3, {-2000, 0, -1000})).expert == ids{1, 2});
    CHECK(by_hand(small(3, 2, 3)).run(rows(3, {1, 2, 1})).expert == ids{1, 0});
    CHECK(by_hand(small(3, 2, 3)).run(rows(3, {1, 2, 1})).margin == 0);
    CHECK(by_hand(small(3, 3, 3)).run(rows(3, {1, 2, 1})).margin == infinite);
  }
  TEST_CASE("the bias chooses and does not weigh, and the counts of the balance losses do not see it") {
    model_shape m = small(3, 1, 3, score_function::sigmoid);
    m.expert_bias = true;
    by_hand one(m);
    one.w.bias = {0, 0.3, 0};
    const oracle_result r = one.run(rows(3, {1, 0.5, -1}));
    CHECK(r.expert == ids{1});
    CHECK(r.p[0] == doctest::Approx(sigma(0.5)).epsilon(1e-14));
    CHECK(r.load == counts{0, 1, 0});
    CHECK(r.aux_count == counts{1, 0, 0});
    CHECK(r.margin == doctest::Approx(sigma(0.5) + 0.3 - sigma(1)).epsilon(1e-12));
    one.o.balance.micro_batch = 1;
    CHECK(one.run(rows(3, {1, 0.5, -1})).margin < r.margin + 1e-15);
    one.w.bias = {0.1, 0.1 + sigma(1) - sigma(0.5) + 0.5, 0};
    CHECK(one.run(rows(3, {1, 0.5, -1})).margin == doctest::Approx(sigma(1) - sigma(0.5)));  // the counts' own decision
    one.o.balance.micro_batch = 0;
    CHECK(one.run(rows(3, {1, 0.5, -1})).margin == doctest::Approx(0.5));
  }
  TEST_CASE("a group counts as much as its best k/g experts together; only the best g groups may be used") {
    model_shape m = small(4, 2, 4);
    m.expert_groups = 2;
    const oracle_result r = by_hand(m).run(rows(4, {3, 0, 2, 2}));  // 3 against 4
    CHECK(r.expert == ids{2, 3});
    CHECK(r.margin == 1);
    CHECK(r.aux_count == counts{1, 0, 1, 0});                          // plain top-k: 3, then 2 of the lower expert
    CHECK(by_hand(m).run(rows(4, {1, 2, 2, 1})).expert == ids{1, 0});  // equal groups: the lower
    CHECK(by_hand(m).run(rows(4, {1, 2, 2, 1})).margin == 0);
    m = small(6, 2, 6);
    m.expert_groups = 3, m.chosen_groups = 2;
    const oracle_result two = by_hand(m).run(rows(6, {1, 0, 5, 4, 3, 2}));  // groups 1 and 2, judged by 5 and 3
    CHECK(two.expert == ids{2, 3});
    CHECK(two.margin == 1);                                                  // 4 against 3; the groups 3 against 1
    CHECK(by_hand(m).run(rows(6, {3, 0, 5, 1, 2, 2})).expert == ids{2, 0});  // 3 beats 2, though 3 + 0 does not beat 2 + 2
    m.score = score_function::sigmoid, m.expert_bias = true;
    by_hand biased(m);
    biased.w.bias = {0, 0, 0, 0, 0, 2};  // lifts group 2 over group 0
    CHECK(biased.run(rows(6, {1, 0, 5, 4, -3, -2})).expert == ids{5, 2});
  }

  TEST_CASE("capacity by hand: by probability, by position, ties, rounding up, drop sets") {
    by_hand one(small(2, 1, 2));
    const auto x = rows(2, {1, 0, 3, 0, 2, 0, -1, 0});  // three tokens choose expert 0 with p = sigma(1), sigma(3), sigma(2)
    const auto kept = [&](extent_t percent, bool by_position, const tensor<double>& tokens) {
      one.o.tokens.percent = percent, one.o.tokens.by_position = by_position;
      return one.run(tokens).kept;
    };
    CHECK(kept(0, false, x) == bits{1, 1, 1, 1});
    CHECK(kept(100, false, x) == bits{0, 1, 1, 1});  // C = 2
    CHECK(one.run(x).margin == doctest::Approx(sigma(2) - sigma(1)).epsilon(1e-12));
    CHECK(kept(100, true, x) == bits{1, 1, 0, 1});
    CHECK(one.run(x).margin == 1);                 // nothing but the choice of expert was decided by a score: |-1 - 0|
    CHECK(kept(51, true, x) == bits{1, 1, 0, 1});  // 1.02 is rounded up to 2
    CHECK(kept(50, true, x) == bits{1, 0, 0, 1});
    CHECK(kept(50, false, x) == bits{0, 1, 0, 1});
    CHECK(kept(1, false, x) == bits{0, 1, 0, 1});
    const auto equal = rows(2, {2, 0, 2, 0, 2, 0, 1, 0});
    CHECK(kept(50, false, equal) == bits{1, 0, 0, 0});
    CHECK(one.run(equal).margin == 0);
    one.o.drop_sets = {{2, 0}, {3, 1}};
    CHECK(kept(100, false, x) == bits{0, 1, 1, 1});  // C = 1 in each
    CHECK(kept(100, true, x) == bits{1, 1, 0, 1});   // token order, not the order of the list
    one.o.drop_sets = {{0}, {1, 2, 3}};
    CHECK(kept(60, false, x) == bits{1, 1, 0, 1});   // C = 1 of 0.3 and of 0.9
    CHECK(kept(100, false, x) == bits{1, 1, 1, 1});  // C = 1 of 0.5 and 2 of 1.5
    one.o.tokens.full_sequence = true;
    CHECK(kept(100, false, x) == bits{0, 1, 1, 1});  // one set of all, whatever the ranks hold
    one.o.tokens.full_sequence = false;
    one.o.drop_sets = {{0, 1}, {1, 2, 3}};
    CHECK_THROWS_WITH_AS(one.run(x), "moefold: the oracle's drop_sets must name each of 4 tokens once", error);
  }
  TEST_CASE("a dropped pair contributes nothing, and the token's other weights stay") {
    by_hand one(small(3, 2, 3, score_function::softmax_after));
    one.o.tokens.percent = 50;                   // C = ceil(50 * 2 * 2 / 300) = 1
    const auto x = rows(3, {3, 1, 0, 2, 0, 1});  // choose 0 1 and 0 2; expert 0 keeps the first (sigma(2) over sigma(1))
    const oracle_result r = one.run(x, 1);
    CHECK(r.kept == bits{1, 1, 0, 1});
    CHECK(r.p[3] == doctest::Approx(1 - sigma(1)).epsilon(1e-14));
    CHECK(r.load == counts{2, 1, 1});
    by_hand zero(small(3, 2, 3, score_function::softmax_after));
    for (std::size_t i = 0; i < 6; ++i) zero.w.down[i] = 0;  // without expert 0 nothing else is left of token 1
    const oracle_result other = zero.run(x);
    for (extent_t h = 0; h < 3; ++h) CHECK(r.y.view()(1, h) == doctest::Approx(other.y.view()(1, h)).epsilon(1e-13));
  }
  TEST_CASE("padding is routed and uses capacity, but is in no load") {
    by_hand one(small(2, 1, 2));
    one.o.tokens.percent = 100;
    one.o.padding = {0, 1, 0, 0};
    const oracle_result r = one.run(rows(2, {1, 0, 3, 0, 2, 0, -1, 0}));
    CHECK(r.kept == bits{0, 1, 1, 1});  // C = 2 of 4 tokens, and the padding takes a place
    CHECK(r.load == counts{2, 1});
    CHECK(r.aux_count == counts{2, 1});
    CHECK(r.y.view()(1, 0) != 0);
  }

  TEST_CASE("perfect balance gives every load-balancing loss exactly its coefficient") {
    for (const score_function score : {score_function::softmax_before, score_function::sigmoid}) {
      by_hand one(small(4, 1, 4, score));
      one.o.balance = {0.3, 0.4, 0.5, 0.6, 0};
      one.o.batch = 2;
      tensor<double> x({8, 4}, 0.0);  // token t of each sequence prefers expert t
      for (extent_t t = 0; t < 8; ++t) x.view()(t, t / 2) = 5;
      const oracle_result r = one.run(x);
      CHECK(r.micro_batch / 8 == doctest::Approx(0.3).epsilon(1e-14));
      CHECK(r.sequence / 8 == doctest::Approx(0.4).epsilon(1e-14));
      CHECK(r.global / 8 == doctest::Approx(0.5).epsilon(1e-14));
      CHECK(r.global_running / 8 == doctest::Approx(0.6).epsilon(1e-14));
      CHECK(r.z == 0);
      CHECK(r.aux_count == counts{2, 2, 2, 2});
    }
    by_hand two(small(4, 2, 4));
    two.o.balance = {0.3, 0.4, 0.5, 0.6, 0};
    const oracle_result r = two.run(rows(4, {2, 2, 0, 0, 0, 0, 2, 2}));
    for (const double loss : {r.micro_batch / 0.3, r.sequence / 0.4, r.global / 0.5, r.global_running / 0.6})
      CHECK(loss / 2 == doctest::Approx(1).epsilon(1e-14));
  }
  TEST_CASE("imbalance by hand: the sets differ, the shares are those given, z is the squared logsumexp") {
    by_hand one(small(2, 1, 2));
    one.o.balance = {0.3, 0.4, 0.5, 0.6, 0.7};
    one.o.batch = 2;
    one.o.previous_share = {1, 0};
    one.o.running_share = {0.25, 0.75};
    const double a = 1.5, s = sigma(a);
    const auto x = rows(2, {a, 0, 0, a, a, 0, 0, a});  // sequence 0 to expert 0, sequence 1 to expert 1
    const oracle_result r = one.run(x);
    CHECK(r.micro_batch == doctest::Approx(4 * 0.3).epsilon(1e-14));       // N = 2, 2 and P = 2, 2
    CHECK(r.sequence == doctest::Approx(4 * 0.4 * 2 * s).epsilon(1e-14));  // N = 2, 0 and P = 2 s, 2 (1 - s)
    CHECK(r.global == doctest::Approx(0.5 * 2 * 2).epsilon(1e-14));        // P_0 = 2
    CHECK(r.global_running == doctest::Approx(0.6 * 2 * 2).epsilon(1e-14));
    CHECK(r.z == doctest::Approx(0.7 * 4 * std::pow(std::log(std::exp(a) + 1), 2)).epsilon(1e-14));
    one.o.running_share = {};
    CHECK(one.run(x).global_running == doctest::Approx(4 * 0.6).epsilon(1e-14));  // its own counts: like micro_batch

    one.o.running_share = {0.25, 0.75};
    const oracle_result uneven = one.run(rows(2, {a, 0, a, 0}));  // P = 2 s, 2 (1 - s)
    CHECK(uneven.global == doctest::Approx(0.5 * 2 * 2 * s).epsilon(1e-14));
    CHECK(uneven.global_running == doctest::Approx(0.6 * 2 * (0.5 * s + 1.5 * (1 - s))).epsilon(1e-14));

    by_hand sigmoids(small(2, 1, 2, score_function::sigmoid));  // aux scores normalised over all experts
    sigmoids.o.balance.micro_batch = 0.3;
    CHECK(sigmoids.run(rows(2, {a, 0, a, 0})).micro_batch == doctest::Approx(2 * 0.3 * 2 * s / (s + 0.5)).epsilon(1e-14));
    sigmoids.o.balance = {0, 0, 0, 0, 1};
    CHECK(sigmoids.run(rows(2, {a, 0})).z == doctest::Approx(std::pow(std::log(std::exp(a) + 1), 2)).epsilon(1e-14));
  }
  TEST_CASE("padding counts in no loss: without those tokens everything but T is the same") {
    by_hand padded(small(3, 2, 3)), without(small(3, 2, 3));
    padded.o.balance = without.o.balance = {0.3, 0.4, 0.5, 0.6, 0.07};
    padded.o.batch = without.o.batch = 2;
    padded.o.padding = {0, 0, 0, 0, 1, 1};
    const auto x = random_tensor<double>({6, 3}, 4);
    const oracle_result a = padded.run(x), b = without.run(copy_of(x.view().rows(0, 4)));
    CHECK(a.micro_batch == doctest::Approx(b.micro_batch).epsilon(1e-14));
    CHECK(a.sequence == doctest::Approx(b.sequence).epsilon(1e-14));
    CHECK(a.global == doctest::Approx(b.global).epsilon(1e-14));
    CHECK(a.global_running == doctest::Approx(b.global_running).epsilon(1e-14));
    CHECK(a.z == doctest::Approx(b.z).epsilon(1e-14));
    CHECK(a.load == b.load);
    CHECK(a.aux_count == b.aux_count);
    CHECK(largest_error(a.drouter, b.drouter) < 1e-13);
    for (std::size_t i = 12; i < 18; ++i) CHECK(a.dx[i] == 0);
    padded.o.padding.assign(6, 1);
    const oracle_result nothing = padded.run(x);
    for (const double loss : {nothing.micro_batch, nothing.sequence, nothing.global, nothing.global_running, nothing.z}) CHECK(loss == 0);
    CHECK(largest_error(nothing.drouter, tensor<double>({3, 3}, 0.0)) == 0);
  }
  TEST_CASE("the weight multiplies the losses' gradients, not the losses") {
    by_hand one(small(3, 2, 3));
    one.o.balance = {0.3, 0.4, 0.5, 0.6, 0.07};
    const auto x = random_tensor<double>({6, 3}, 4);
    const oracle_result a = one.run(x);
    one.o.weight = 2;
    const oracle_result b = one.run(x);
    tensor<double> twice = copy_of(a.drouter.view());
    for (double& g : twice) g *= 2;
    CHECK(a.micro_batch == b.micro_batch);
    CHECK(largest_error(b.drouter, twice) < 1e-14);
    CHECK(std::any_of(a.drouter.begin(), a.drouter.end(), [](double g) { return g != 0; }));
  }

  TEST_CASE("the shared expert is added for every token, padding too, and its switch multiplies it") {
    for (const auto activation : {activation_function::swiglu, activation_function::gelu}) {
      model_shape m = small(2, 1, 1);
      m.activation = activation, m.shared_ffn = 1;
      by_hand plain(m);
      m.shared_gate = true;
      by_hand switched(m);
      for (by_hand* one : {&plain, &switched}) {
        std::fill(one->w.down.begin(), one->w.down.end(), 0.0);
        if (activation == activation_function::swiglu) one->w.shared_gate[0] = 1.5;
        one->w.shared_up[0] = 0.5, one->w.shared_down[0] = 3;
        one->o.padding = {0, 1};
      }
      switched.w.shared_switch[0] = 0.25;
      const oracle_result y = plain.run(rows(1, {2, -1})), on = switched.run(rows(1, {2, -1}));
      for (std::size_t t = 0; t < 2; ++t) {
        const double x = t == 0 ? 2 : -1, u = 0.5 * x;
        const double act =
            activation == activation_function::swiglu ? 1.5 * x * sigma(1.5 * x) * u : u * 0.5 * (1 + std::erf(u / std::sqrt(2.0)));
        CHECK(y.y[t] == doctest::Approx(3 * act).epsilon(1e-14));
        CHECK(on.y[t] == doctest::Approx(sigma(0.25 * x) * 3 * act).epsilon(1e-14));
      }
    }
  }
  TEST_CASE("one expert by hand, with both activations: p is inside, once") {
    for (const auto activation : {activation_function::swiglu, activation_function::gelu}) {
      model_shape m = small(2, 1, 2, score_function::sigmoid);
      m.activation = activation, m.ffn = 1;
      by_hand one(m);
      const auto x = rows(2, {0.5, 2});  // expert 1, p = sigma(2)
      const double* const up = one.w.up.data() + 2;
      const double u = up[0] * 0.5 + up[1] * 2;
      double act = u * 0.5 * (1 + std::erf(u / std::sqrt(2.0)));
      if (activation == activation_function::swiglu) {
        const double g = one.w.gate[2] * 0.5 + one.w.gate[3] * 2;
        act = g * sigma(g) * u;
      }
      const oracle_result r = one.run(x);
      CHECK(r.y[0] == doctest::Approx(sigma(2) * one.w.down[2] * act).epsilon(1e-14));
      CHECK(r.y[1] == doctest::Approx(sigma(2) * one.w.down[3] * act).epsilon(1e-14));
    }
  }
  TEST_CASE("jitter changes what the router sees and nothing else") {
    by_hand jittered(small(3, 2, 3)), scaled(small(3, 2, 3));
    jittered.o.balance.z = scaled.o.balance.z = 0.1;
    jittered.o.jitter.assign(12, 1.5);
    for (double& weight : scaled.w.router) weight *= 1.5;
    const auto x = random_tensor<double>({4, 3}, 4);
    const oracle_result a = jittered.run(x, 1), b = scaled.run(x, 1);
    CHECK(largest_error(a.y, b.y) < 1e-14);
    CHECK(largest_error(a.dx, b.dx) < 1e-13);
    CHECK(a.z == doctest::Approx(b.z).epsilon(1e-14));
  }
  TEST_CASE("no tokens are no trouble, and options of another shape are refused") {
    by_hand one(small(3, 2, 3));
    one.o.balance = {0.3, 0.4, 0.5, 0.6, 0.07};
    one.o.tokens.percent = 100;
    CHECK(one.run(tensor<double>({0, 3})).load == counts{0, 0, 0});
    one.o.padding = {1};
    CHECK_THROWS_AS(one.run(rows(3, {1, 2, 3, 4, 5, 6})), error);
    one.o.padding = {};
    one.o.forced = {0, 3};
    CHECK_THROWS_WITH_AS(one.run(rows(3, {1, 2, 3})), "moefold: a forced choice of expert 3 of 3", error);
  }
}
