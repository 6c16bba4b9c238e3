#include <moefold/ops/balance.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/random.hpp"

#include <moefold/tensor/tensor.hpp>

using namespace moefold;

namespace {

struct numbers {
  host_context context;
  host_exec e{context};
};

}  // namespace

TEST_SUITE("ops/balance") {
  TEST_CASE("a load is the sum of its column over the sequences, and the column of tokens is left out") {
    numbers n;
    tensor<std::int64_t> counts({3, 5}), load({4}, -1);
    for (std::size_t i = 0; i < counts.size(); ++i) counts[i] = std::int64_t(i * i);
    sum_sequences(n.e, counts, load);
    for (extent_t x = 0; x < 4; ++x) CHECK(load[std::size_t(x)] == x * x + (x + 5) * (x + 5) + (x + 10) * (x + 10));
  }
  TEST_CASE("running counts go on from the micro-batch before, or begin anew; both outputs are the same") {
    numbers n;
    tensor<std::int64_t> before({3}, 5), running({3}, 2), now({3}, -1);
    add_running(n.e, before, running, now);
    for (std::size_t x = 0; x < 3; ++x) CHECK((running[x] == 7 && now[x] == 7));
    add_running(n.e, {}, running, now);
    for (std::size_t x = 0; x < 3; ++x) CHECK((running[x] == 7 && now[x] == 7));
  }
  TEST_CASE("counts are added to what stands there") {
    numbers n;
    tensor<std::int64_t> from({2});
    from[0] = 3, from[1] = std::int64_t(1) << 40;
    tensor<double> to({2}, 0.5);
    add_counts(n.e, from, to);
    CHECK(to[0] == 3.5);
    CHECK(to[1] == 0.5 + double(std::int64_t(1) << 40));
  }
  TEST_CASE("losses and pull are their formulas; a sequence without tokens has none") {
    numbers n;
    const extent_t B = 2, E = 3, k = 2;
    tensor<std::int64_t> counts({B, E + 1}, 0), running({E});
    const std::int64_t first[] = {4, 1, 3, 4}, so_far[] = {8, 2, 6};
    std::copy(std::begin(first), std::end(first), counts.begin());
    std::copy(std::begin(so_far), std::end(so_far), running.begin());
    const auto scores = test::random_tensor<double>({B, E}, 3), previous = test::random_tensor<double>({E}, 4);
    const tensor<double> squares({1}, 9.0);
    tensor<double> pull({B, E}, -1.0), losses({5}, -1.0);
    const balance_losses balance{.micro_batch = 0.5, .sequence = 0.25, .global = 2, .global_running = 3, .z = 0.125};
    balance_pull(n.e, balance, k, 0.7, {counts, scores, squares, previous, running}, pull.view(), losses);
    double expected[4] = {};
    for (extent_t b = 0; b < B; ++b)
      for (extent_t x = 0; x < E; ++x) {
        const double ratio = double(E) / k, here = double(counts.view()(b, x)), whole = double(first[x]);
        const double terms[] = {0.5 * whole / 4, b == 0 ? 0.25 * here / 4 : 0, 2 * previous[std::size_t(x)],
                                3.0 * k * double(so_far[x]) / 16};
        for (int i = 0; i < 4; ++i) expected[i] += ratio * terms[i] * scores.view()(b, x);
        CHECK(pull.view()(b, x) == doctest::Approx(0.7 * ratio * (terms[0] + terms[1] + terms[2] + terms[3])).epsilon(1e-14));
      }
    for (std::size_t i = 0; i < 4; ++i) CHECK(losses[i] == doctest::Approx(expected[i]).epsilon(1e-13));
    CHECK(losses[4] == 9.0 / 8);
  }
  TEST_CASE("without a previous step the shares are even") {
    numbers n;
    const tensor<std::int64_t> counts({1, 5}, 0);
    const tensor<double> scores({1, 4}, 1.0), squares({1}, 0.0), even({4}, 0.5);
    tensor<double> pull({1, 4}), losses({5}), same({1, 4});
    balance_pull(n.e, {.global = 2}, 2, 1, {counts, scores, squares, {}, {}}, pull.view(), losses);
    CHECK(losses[2] == 2.0 * 4 / 2 * 0.5 * 4);
    balance_pull(n.e, {.global = 2}, 2, 1, {counts, scores, squares, even, {}}, same.view(), losses);
    CHECK(test::largest_error(pull, same) == 0);
  }
  TEST_CASE("what does not fit is refused") {
    numbers n;
    const tensor<std::int64_t> counts({2, 5}, 0), three({3}, 0);
    const tensor<double> scores({2, 4}, 0.0), squares({1}, 0.0), flat({8}, 0.0);
    tensor<double> pull({2, 4}), losses({5}), few({4});
    tensor<std::int64_t> load({6});
    CHECK_THROWS_WITH_AS(balance_pull(n.e, {}, 2, 1, {counts, scores, squares, {}, {}}, pull.view(), few),
                         doctest::Contains("needs 5 elements in losses"), error);
    CHECK_THROWS_WITH_AS(balance_pull(n.e, {.global_running = 1}, 2, 1, {counts, scores, squares, {}, three}, pull.view(), losses),
                         doctest::Contains("needs 4 elements in running"), error);
    CHECK_THROWS_WITH_AS(balance_pull(n.e, {}, 2, 1, {counts, flat, squares, {}, {}}, pull.view(), losses), doctest::Contains("score_sum"),
                         error);
    CHECK_THROWS_WITH_AS(sum_sequences(n.e, counts, load), doctest::Contains("at least 6 columns"), error);
    CHECK_THROWS_WITH_AS(add_counts(n.e, three, few), doctest::Contains("needs 4 elements in from"), error);
    CHECK_THROWS_WITH_AS(add_running(n.e, three, load, load), doctest::Contains("needs 6 elements in before"), error);
  }
}
