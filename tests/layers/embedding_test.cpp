#include <moefold/layers/embedding.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/own_memory.hpp"
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t tokens = 12, vocabulary = 8, hidden = 5;
const std::vector<std::int32_t> ids = {3, 0, 3, 7, 7, 7, 1, 2, 0, 6, 3, 5};  // repeated ones, the first and the last row; never 4

struct embedded {
  tensor<double> table = random_tensor<double>({vocabulary, hidden}, 1), dy = random_tensor<double>({tokens, hidden}, 2);
  tensor<double> y{{tokens, hidden}, 0.0}, dtable{{vocabulary, hidden}, 0.0};

  /// On every rank of tp; slices in the user's vectors, parts summed into whole tensors.
  template <class Precision = fp64, class Comm>
  void run(Comm& tp) {
    using T = typename Precision::storage;
    host_context context;
    const host_exec e(context);
    test::own_parameter<Precision, rows_over_tp> own(table, tp.rank(), tp.size());
    const embedding_layer<Precision, Comm> layer{own.get(), &tp, vocabulary};
    const sequence_part part{tokens, 1, 0, tp.size(), tp.rank()};
    auto own_dy = test::take_rows<double, T>(dy, part), own_y = own_dy;
    layer.forward(e, ids, test::matrix(own_y, hidden));
    layer.backward(e, test::matrix(own_dy, hidden), ids);
    test::put_rows(own_y, y, part);
    own.add_gradient_to(dtable);
  }
};

}  // namespace

TEST_SUITE("layers/embedding") {
  TEST_CASE("a token's embedding is its row of the table") {
    embedded one;
    self_comm self;
    one.run(self);
    for (extent_t t = 0; t < tokens; ++t)
      for (extent_t c = 0; c < hidden; ++c) CHECK(one.y.view()(t, c) == one.table.view()(ids[std::size_t(t)], c));
  }
  TEST_CASE("the table's gradient equals finite differences: repeated tokens add up, an absent one gets zero") {
    embedded one;
    self_comm self;
    const auto slope = test::numerical_gradient(one.table, [&] {
      one.run(self);
      return test::dot(one.y, one.dy);
    });
    for (double& d : one.dtable) d = 0;
    one.run(self);
    CHECK(test::largest_error(one.dtable, slope) < 1e-9);
    for (extent_t c = 0; c < hidden; ++c) CHECK(one.dtable.view()(4, c) == 0);
  }
  TEST_CASE("the gradient is accumulated") {
    embedded one, twice;
    self_comm self;
    one.run(self);
    host_context context;
    test::own_parameter<fp64, rows_over_tp> own(twice.table, 0, 1);
    const embedding_layer<fp64, self_comm> layer{own.get(), &self, vocabulary};
    for (int micro_batch = 0; micro_batch < 2; ++micro_batch) layer.backward(host_exec(context), twice.dy, ids);
    for (std::size_t i = 0; i < own.gradient.size(); ++i) CHECK(own.gradient[i] == doctest::Approx(2 * one.dtable[i]));
  }
  TEST_CASE_TEMPLATE("over 2 and 4 tp ranks it is the one rank's, forward and gradient", Precision, fp64, fp32) {
    embedded one;
    self_comm self;
    one.run(self);
    for (const int ranks : {2, 4}) {
      embedded many;
      run_ranks(ranks, [&](thread_comm& tp) { many.run<Precision>(tp); });
      CAPTURE(ranks);
      CHECK(test::largest_error(many.y, one.y) < test::rounding<typename Precision::storage>);
      CHECK(test::largest_error(many.dtable, one.dtable) < test::rounding<typename Precision::storage>);
    }
  }
  TEST_CASE("a token that no rank holds is an error, on each rank alike") {
    for (const std::int32_t wrong : {-1, 8})
      run_ranks<2>([&](thread_comm& tp) {
        host_context context;
        embedded m;
        test::own_parameter<fp64, rows_over_tp> own(m.table, tp.rank(), 2);
        const embedding_layer<fp64, thread_comm> layer{own.get(), &tp, vocabulary};
        std::vector<std::int32_t> bad = ids;
        bad[3] = wrong;
        std::vector<double> y(tokens / 2 * hidden);
        CHECK_THROWS_WITH_AS(
            layer.forward(host_exec(context), bad, test::matrix(y, hidden)),
            sentence("moefold: token ", wrong, " is outside the vocabulary of 8 (at place 3); use tokens from 0 to below it").c_str(),
            error);
      });
  }
  TEST_CASE("rows that only pad are no tokens, and a vocabulary larger than the table is refused") {
    embedded m;
    self_comm self;
    host_context context;
    test::own_parameter<fp64, rows_over_tp> own(m.table, 0, 1);
    tensor<double> y({1, hidden});
    const std::vector<std::int32_t> last = {5}, padding = {6};
    const embedding_layer<fp64, self_comm> padded{own.get(), &self, 6}, larger{own.get(), &self, 9};
    CHECK_NOTHROW(padded.forward(host_exec(context), last, y.view()));
    CHECK_THROWS_WITH_AS(padded.forward(host_exec(context), padding, y.view()),
                         "moefold: token 6 is outside the vocabulary of 6 (at place 0); use tokens from 0 to below it", error);
    CHECK_THROWS_WITH_AS(larger.forward(host_exec(context), last, y.view()),
                         doctest::Contains("an embedding of 8 rows over tp cannot hold a vocabulary of 9"), error);
  }
  TEST_CASE("no tokens are legal on one rank") {
    self_comm self;
    host_context context;
    const host_exec e(context);
    tensor<double> table({vocabulary, hidden}, 1.0), gradient({vocabulary, hidden}, 2.0), none({0, hidden});
    const embedding_layer<fp64, self_comm> layer{{table, gradient}, &self, vocabulary};
    layer.forward(e, {}, none);
    layer.backward(e, none, {});
    CHECK(std::count(gradient.begin(), gradient.end(), 2.0) == vocabulary * hidden);
  }
}
