#include <moefold/ops/embedding.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

#include <vector>

using namespace moefold;
using test::random_tensor;

TEST_SUITE("ops/embedding") {
  const std::vector<std::int32_t> ids = {3, 0, 3, 7, 4};

  TEST_CASE("the shards of a table sum to the whole table's rows") {
    host_context context;
    const host_exec e(context);
    const auto table = random_tensor<float>({8, 5}, 1);
    tensor<float> whole({5, 5}), low({5, 5}), high({5, 5});
    embedding_forward(e, table, ids, 0, whole.view());
    embedding_forward(e, table.view().rows(0, 4), ids, 0, low.view());
    embedding_forward(e, table.view().rows(4, 4), ids, 4, high.view());
    for (extent_t i = 0; i < 5; ++i)
      for (extent_t c = 0; c < 5; ++c) {
        CHECK(whole.view()(i, c) == table.view()(ids[std::size_t(i)], c));
        CHECK((ids[std::size_t(i)] < 4 ? high : low).view()(i, c) == 0.f);
        CHECK(low.view()(i, c) + high.view()(i, c) == whole.view()(i, c));
      }
    tensor<float> none({0, 5});
    CHECK_NOTHROW(embedding_forward(e, table, {}, 0, none.view()));
  }
  TEST_CASE("the table's gradient accumulates repeated ids and equals finite differences") {
    host_context context;
    const host_exec e(context);
    auto table = random_tensor<double>({4, 5}, 1);
    const auto dout = random_tensor<double>({5, 5}, 2);
    tensor<double> out({5, 5}), dtable({4, 5}, 1.0);
    embedding_backward(e, dout.view(), ids, 1, dtable.view());
    auto slope = test::numerical_gradient(table, [&] {
      embedding_forward(e, table, ids, 1, out.view());
      return test::dot(out, dout);
    });
    for (double& s : slope) s += 1.0;
    CHECK(test::largest_error(dtable, slope) < 1e-9);
  }
}
