#include <moefold/layers/sequence.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/gradient.hpp"
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

#include <atomic>

using namespace moefold;
using test::random_tensor;

TEST_SUITE("layers/sequence") {
  TEST_CASE("gathered rows are those of all ranks in rank order; scattered rows are the sum over ranks of one's own part") {
    for (const int ranks : {2, 3, 4})
      for (const extent_t rows : {1, 5})
        run_ranks(ranks, [&](thread_comm& tp) {
          host_context context;
          const host_exec e(context);
          scratch local(e);
          const auto x = random_tensor<double>({rows, 7}, std::uint64_t(tp.rank()));
          const view<const double> all = gather_rows_of_group<double>(e, tp, x, local);
          CHECK(all.shape() == shape{ranks * rows, 7});
          bool same = true;
          for (int r = 0; r < ranks; ++r) {
            const auto theirs = random_tensor<double>({rows, 7}, std::uint64_t(r));
            same = same && std::equal(theirs.begin(), theirs.end(), all.rows(r * rows, rows).begin());
          }
          CHECK(same);

          tensor<double> y({rows, 7});
          const view<double> partial = partial_rows<double, host_exec>(tp, y, local);
          CHECK((partial.shape() == shape{ranks * rows, 7} && partial.data() != y.data()));
          for (std::size_t i = 0; i < partial.size(); ++i) partial[i] = double(i) * (1 + tp.rank());
          sum_and_scatter_rows<double>(e, tp, partial, y.view());
          for (std::size_t i = 0; i < y.size(); ++i)
            same = same && y[i] == double(i + std::size_t(tp.rank()) * y.size()) * (ranks * (ranks + 1) / 2);
          CHECK(same);
        });
  }
  TEST_CASE("each is the other's backward: <gather x, g> = <x, scatter g>, summed over ranks") {
    std::atomic<double> left = 0, right = 0;
    run_ranks<4>([&](thread_comm& tp) {
      host_context context;
      const host_exec e(context);
      scratch local(e);
      const auto x = random_tensor<double>({3, 5}, std::uint64_t(tp.rank())),
                 g = random_tensor<double>({12, 5}, 10 + std::uint64_t(tp.rank()));
      tensor<double> dx({3, 5});
      left += test::dot(gather_rows_of_group<double>(e, tp, x, local), g);
      sum_and_scatter_rows<double>(e, tp, g, dx.view());
      right += test::dot(x, dx);
    });
    CHECK(left.load() == doctest::Approx(right.load()).epsilon(1e-13));
    CHECK(left.load() != 0);
  }
  TEST_CASE("a group of one rank moves nothing: no scratch, no copy") {
    self_comm tp;
    host_context context;
    const host_exec e(context);
    scratch local(e);
    const auto x = random_tensor<float>({3, 5}, 1);
    auto y = random_tensor<float>({3, 5}, 2);
    CHECK(gather_rows_of_group<float>(e, tp, x, local).data() == x.data());
    CHECK(partial_rows<float, host_exec>(tp, y, local).data() == y.data());
    const float before = y[7];
    sum_and_scatter_rows<float>(e, tp, y, y.view());
    CHECK(y[7] == before);
    CHECK(context.scratch.peak() == 0);
  }
  TEST_CASE("ranks without rows take part, and the width survives") {
    run_ranks<2>([](thread_comm& tp) {
      host_context context;
      const host_exec e(context);
      scratch local(e);
      tensor<float> x({0, 5}), y({0, 5});
      CHECK(gather_rows_of_group<float>(e, tp, x, local).shape() == shape{0, 5});
      const view<float> partial = partial_rows<float, host_exec>(tp, y, local);
      CHECK(partial.shape() == shape{0, 5});
      CHECK_NOTHROW(sum_and_scatter_rows<float>(e, tp, partial, y.view()));
    });
  }
}
