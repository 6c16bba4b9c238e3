#include <moefold/layers/loss.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/own_memory.hpp"
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

#include <numeric>

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t tokens = 12, hidden = 5;
const std::vector<std::int32_t> labels = {3,  0,  -1, 4, 4, 1,
                                          -1, -1, 2,  0, 3, -100};  // some ignored, the first and the last column among them

/// Head and loss for a vocabulary padded to a multiple of 4: whole tensors, and what the ranks of tp make of them.
struct measured {
  extent_t vocabulary, padded;
  tensor<double> x = random_tensor<double>({tokens, hidden}, 1), head;
  std::vector<std::int32_t> labels_now = labels;
  std::vector<double> losses;  // of each rank
  tensor<double> dx{{tokens, hidden}, 0.0}, dhead;

  explicit measured(extent_t v)
      : vocabulary(v), padded((v + 3) / 4 * 4), head(random_tensor<double>({padded, hidden}, 2)), dhead({padded, hidden}, 0.0) {
    for (extent_t row = vocabulary; row < padded; ++row)
      for (extent_t c = 0; c < hidden; ++c) head.view()(row, c) = 1e3;  // padding rows must not matter, whatever they hold
  }
  double total() const { return std::accumulate(losses.begin(), losses.end(), 0.0); }

  template <class Precision = fp64, class Comm>
  void run(Comm& tp) {
    using T = typename Precision::storage;
    host_context context;
    const host_exec e(context);
    arena keep;
    test::own_parameter<Precision, rows_over_tp> own(head, tp.rank(), tp.size());
    const loss_layer<Precision, Comm> layer{{own.get()}, &tp, vocabulary};
    const sequence_part part{tokens, 1, 0, tp.size(), tp.rank()};
    auto own_x = test::take_rows<double, T>(x, part), own_dx = own_x;
    typename loss_layer<Precision, Comm>::saved s;
    losses[std::size_t(tp.rank())] = 0;
    layer.forward(e, test::matrix(own_x, hidden), labels_now, keep, s, view<double>(&losses[std::size_t(tp.rank())], {1}));
    layer.backward(e, test::matrix(own_dx, hidden), s);
    test::put_rows(own_dx, dx, part);
    own.add_gradient_to(dhead);
  }
  measured& on_one() {
    self_comm self;
    losses.assign(1, 0);
    for (double& d : dhead) d = 0;
    run(self);
    return *this;
  }
  template <class Precision = fp64>
  measured& on(int ranks) {
    losses.assign(std::size_t(ranks), 0);
    run_ranks(ranks, [&](thread_comm& tp) { this->run<Precision>(tp); });
    return *this;
  }
};

}  // namespace

TEST_SUITE("layers/loss") {
  TEST_CASE("the loss is the sum over tokens of log-sum-exp of the logits minus the label's, ignored labels left out") {
    measured m(5);
    double expected = 0;
    for (extent_t t = 0; t < tokens; ++t) {
      if (labels[std::size_t(t)] < 0) continue;
      std::vector<double> logits(5);
      for (extent_t v = 0; v < 5; ++v)
        for (extent_t c = 0; c < hidden; ++c) logits[std::size_t(v)] += m.x.view()(t, c) * m.head.view()(v, c);
      double sum = 0;
      for (const double l : logits) sum += std::exp(l);
      expected += std::log(sum) - logits[std::size_t(labels[std::size_t(t)])];
    }
    CHECK(m.on_one().total() == doctest::Approx(expected).epsilon(1e-13));
  }
  TEST_CASE("both gradients equal finite differences, with ignored labels and a padded vocabulary") {
    measured m(5);
    const auto loss = [&] { return m.on_one().total(); };
    const auto slope_x = test::numerical_gradient(m.x, loss), slope_head = test::numerical_gradient(m.head, loss);
    m.on_one();
    CHECK(test::largest_error(m.dx, slope_x) < 1e-9);
    CHECK(test::largest_error(m.dhead, slope_head) < 1e-9);
    for (extent_t c = 0; c < hidden; ++c) {
      for (const extent_t ignored : {2, 6, 7, 11}) CHECK(m.dx.view()(ignored, c) == 0);
      for (extent_t row = 5; row < 8; ++row) CHECK(m.dhead.view()(row, c) == 0);
    }
  }
  TEST_CASE_TEMPLATE("over 2 and 4 tp ranks it is the one rank's: losses and all gradients", Precision, fp64, fp32) {
    const double close = test::rounding<typename Precision::storage>;
    for (const extent_t vocabulary :
         {8, 5, 3}) {  // over 4 ranks: whole shards; a shard of padding and half a shard; one row each and padding
      if (vocabulary < 5 && close > 1e-9) continue;
      measured one(vocabulary), two(vocabulary), four(vocabulary);
      for (measured* m : {&one, &two, &four})
        for (std::int32_t& label : m->labels_now) label = std::min<std::int32_t>(label, std::int32_t(vocabulary - 1));
      one.on_one();
      for (measured* many : {&two.on<Precision>(2), &four.on<Precision>(4)}) {
        CAPTURE(vocabulary);
        CAPTURE(many->losses.size());
        CHECK(many->total() == doctest::Approx(one.total()).epsilon(close));
        CHECK(test::largest_error(many->dx, one.dx) < close);
        CHECK(test::largest_error(many->dhead, one.dhead) < close);
      }
    }
  }
  TEST_CASE("each tp rank reports the loss of its own tokens") {
    measured one(5), many(5);
    many.on(4);
    for (extent_t r = 0; r < 4; ++r) {
      for (std::size_t t = 0; t < std::size_t(tokens); ++t) one.labels_now[t] = extent_t(t) / 3 == r ? labels[t] : -1;
      CHECK(many.losses[std::size_t(r)] == doctest::Approx(one.on_one().total()).epsilon(1e-13));
    }
  }
  TEST_CASE("a micro-batch whose labels are all ignored costs nothing and teaches nothing") {
    measured m(5);
    std::fill(m.labels_now.begin(), m.labels_now.end(), -1);
    m.on(2);
    CHECK(m.total() == 0);
    CHECK(std::count(m.dx.begin(), m.dx.end(), 0.0) == tokens * hidden);
    CHECK(std::count(m.dhead.begin(), m.dhead.end(), 0.0) == 8 * hidden);
  }
  TEST_CASE("logits far from zero overflow nothing") {
    measured m(5);
    for (double& x : m.x) x *= 1e4;
    CHECK(std::isfinite(m.on_one().total()));
    CHECK(std::all_of(m.dx.begin(), m.dx.end(), [](double d) { return std::isfinite(d); }));
  }
  TEST_CASE_TEMPLATE("the best tokens have the largest logits, the first of equal ones, never padding, on every tp", Precision, fp64, fp32,
                     mixed_bf16) {
    for (const extent_t vocabulary : {12, 9, 3}) {  // over 4 ranks: whole shards, one of padding alone, half a shard
      measured m(vocabulary);
      for (double& x : m.x) x = std::round(4 * x);  // exact in every type
      for (extent_t v = 0; v < m.padded; ++v)
        for (extent_t c = 0; c < hidden; ++c) m.head.view()(v, c) = v < vocabulary ? std::round(4 * m.head.view()(v % 6, c)) / 4 : 1e3;
      for (extent_t c = 0; c < hidden; ++c) m.x.view()(4, c) = 0;  // all equal
      std::vector<std::int32_t> expected;
      bool tied = false;
      for (extent_t t = 0; t < tokens; ++t) {
        std::vector<double> logits(std::size_t(vocabulary), 0.0);
        for (extent_t v = 0; v < vocabulary; ++v)
          for (extent_t c = 0; c < hidden; ++c) logits[std::size_t(v)] += m.x.view()(t, c) * m.head.view()(v, c);
        const auto best = std::max_element(logits.begin(), logits.end());
        expected.push_back(std::int32_t(best - logits.begin()));
        tied = tied || std::count(logits.begin(), logits.end(), *best) > 1;
      }
      CHECK(tied);
      for (std::int32_t& label : m.labels_now) label = std::min<std::int32_t>(label, 2);
      for (const int ranks : {1, 2, 4}) {
        std::vector<std::int32_t> found(static_cast<std::size_t>(tokens), -7);
        run_ranks(ranks, [&](thread_comm& tp) {
          using T = typename Precision::storage;
          host_context context;
          const host_exec e(context);
          arena keep;
          test::own_parameter<Precision, rows_over_tp> own(m.head, tp.rank(), tp.size());
          const loss_layer<Precision, thread_comm> layer{{own.get()}, &tp, vocabulary};
          const extent_t rows = tokens / ranks;
          auto own_x = test::take_rows<double, T>(m.x, {tokens, 1, 0, ranks, tp.rank()});
          typename loss_layer<Precision, thread_comm>::saved s;
          double loss = 0;
          layer.forward(e, test::matrix(own_x, hidden), m.labels_now, keep, s, view<double>(&loss, {1}));
          layer.best_tokens(e, s, {found.data() + tp.rank() * rows, {rows}});
          std::int32_t few = 0;
          CHECK_THROWS_WITH_AS(layer.best_tokens(e, s, {&few, {1}}), doctest::Contains("elements in ids"), error);
        });
        CAPTURE(vocabulary);
        CAPTURE(ranks);
        CHECK(found == expected);
      }
    }
  }
  TEST_CASE("a missing label is an error that says how many are needed") {
    measured m(5);
    m.labels_now.pop_back();
    CHECK_THROWS_WITH_AS(m.on_one(), "moefold: the loss needs one label for each of the 12 tokens of the CP part, given 11", error);
  }
  TEST_CASE("a label that no rank holds is an error, also where it would be a padding row") {
    measured m(5);
    m.labels_now[4] = 5;
    CHECK_THROWS_WITH_AS(m.on(2), "moefold: label 5 is outside the vocabulary of 5 (at place 4); use labels below it, negative to ignore",
                         error);
  }
  TEST_CASE("no tokens are a loss of zero") {
    self_comm self;
    host_context context;
    arena keep;
    tensor<double> head({8, hidden}, 1.0), dhead({8, hidden}, 2.0), none({0, hidden});
    const loss_layer<fp64, self_comm> layer{{{head, dhead}}, &self, 5};
    loss_layer<fp64, self_comm>::saved s;
    double loss = 0;
    layer.forward(host_exec(context), none, {}, keep, s, view<double>(&loss, {1}));
    CHECK(loss == 0);
    layer.backward(host_exec(context), none, s);
    CHECK(std::count(dhead.begin(), dhead.end(), 2.0) == 8 * hidden);
  }
}
