#include <moefold/ops/choice_rows.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

tensor<std::int32_t> of(shape s, std::initializer_list<std::int32_t> numbers) {
  tensor<std::int32_t> out(s);
  std::copy(numbers.begin(), numbers.end(), out.begin());
  return out;
}

}  // namespace

TEST_SUITE("ops/choice_rows") {
  TEST_CASE_TEMPLATE("what is packed comes out again: choices here, rows in expert order with their weights", T, float, double, bf16) {
    using A = accumulate_t<T>;
    host_context context;
    const host_exec e(context);
    const auto x = random_tensor<T>({3, 4}, 1);
    const auto weight = random_tensor<A>({3, 2}, 2);
    const auto expert = of({3, 2}, {4, 1, -1, 5, 3, 4});
    tensor<T> tokens({3, 4 + choice_lanes<T>(2)});
    pack_choices(e, x, expert.view(), weight, 6, tokens.view());
    tensor<std::int32_t> index({3, 2});
    split_choices(e, tokens.view(), 3, 2, index.view());  // experts 3 and 4 are here
    CHECK(std::equal(index.begin(), index.end(), of({3, 2}, {1, -1, -1, -1, 0, 1}).begin()));

    const auto slot = of({4}, {4, -1, 0, 5});
    tensor<T> batch({4, 4});
    tensor<A> of_row({4});
    gather_choices(e, tokens, slot.view().span(), 2, batch.view(), of_row);
    for (extent_t c = 0; c < 4; ++c) {
      CHECK(A(batch.view()(0, c)) == A(x.view()(2, c)));
      CHECK(A(batch.view()(1, c)) == A(0));
      CHECK(A(batch.view()(2, c)) == A(x.view()(0, c)));
      CHECK(A(batch.view()(3, c)) == A(x.view()(2, c)));
    }
    CHECK(of_row[0] == weight[4]);
    CHECK(of_row[1] == A(0));
    CHECK(of_row[2] == weight[0]);
    CHECK(of_row[3] == weight[5]);
  }
  TEST_CASE_TEMPLATE("gradients are summed over the rows of a token and the weights' stand beside them", T, float, double, bf16) {
    using A = accumulate_t<T>;
    host_context context;
    const host_exec e(context);
    const auto dbatch = random_tensor<T>({3, 5}, 1);
    const auto dweight = random_tensor<A>({3}, 2);
    const auto row = of({2, 2}, {2, 0, -1, 1});
    tensor<T> rows({2, 5 + choice_gradient_lanes<T>(2)}), dx({2, 5});
    tensor<A> dp({wide_lanes<T> == 1 ? 0 : 2, 2}), dchoice({2, 2}, A(7));
    combine_choices(e, dbatch, dweight, row.view(), rows.view(), dp);
    split_gradients(e, rows, dx.view(), dchoice);
    for (extent_t c = 0; c < 5; ++c) {
      CHECK(A(dx.view()(0, c)) == A(T(A(dbatch.view()(2, c)) + A(dbatch.view()(0, c)))));
      CHECK(A(dx.view()(1, c)) == A(dbatch.view()(1, c)));
    }
    const tensor<A>& p = wide_lanes<T> == 1 ? dchoice : dp;
    CHECK(p[0] == dweight[2]);
    CHECK(p[1] == dweight[0]);
    CHECK(p[2] == A(0));
    CHECK(p[3] == dweight[1]);
    if (wide_lanes < T >> 1) CHECK(dchoice[0] == A(7));  // left as it was
  }
  TEST_CASE("what does not fit throws") {
    host_context context;
    const host_exec e(context);
    const auto x = random_tensor<float>({1, 4}, 1), weight = random_tensor<float>({1, 1}, 2);
    const auto expert = of({1, 1}, {3});
    tensor<float> tokens({1, 6}), narrow({1, 5});
    CHECK_THROWS_WITH_AS(pack_choices(e, x, expert.view(), weight, 3, tokens.view()),
                         "moefold: token 0 chose expert 3, of 3; experts are numbered from 0, -1 means dropped", error);
    CHECK_THROWS_AS(pack_choices(e, x, expert.view(), weight, 4, narrow.view()), error);
    tensor<float> batch({1, 4}), of_row({1});
    CHECK_THROWS_AS(gather_choices(e, tokens, of({1}, {1}).view().span(), 1, batch.view(), of_row), error);
    CHECK_THROWS_AS(combine_choices(e, batch, of_row, of({1, 1}, {1}).view(), narrow.view(), tensor<float>({0, 1})), error);
  }
}
