#include <moefold/layers/deferred.hpp>

#include <doctest/doctest.h>
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t rows = 6, out = 4, in = 3;

struct products {
  tensor<double> dy = random_tensor<double>({rows, out}, 1), x = random_tensor<double>({rows, in}, 2);
  tensor<double> one = random_tensor<double>({out, in}, 3), groups = random_tensor<double>({3, out, in}, 4);  // gradients so far
  std::vector<std::int64_t> offsets{0, 2, 2, 6};                                                              // the second group is empty

  void make(host_exec e) {
    weight_gradient(e, view<const double>(dy), view<const double>(x), one.view());
    grouped_weight_gradient(e, view<const double>(dy), view<const double>(x), std::span<const std::int64_t>(offsets), groups.view());
  }
  void spoil() {  // as scratch is, once its layer has returned
    std::fill_n(dy.data(), dy.size(), 1e9), std::fill_n(x.data(), x.size(), 1e9);
    std::fill(offsets.begin(), offsets.end(), -1);
  }
};

std::vector<double> values(const tensor<double>& t) { return {t.data(), t.data() + t.size()}; }

}  // namespace

TEST_SUITE("layers/deferred") {
  TEST_CASE("a product is made at once where nothing defers") {
    host_context context;
    products p;
    const std::vector<double> before = values(p.one);
    weight_gradient(host_exec(context), view<const double>(p.dy), view<const double>(p.x), p.one.view());
    double sum = before[0];
    for (extent_t r = 0; r < rows; ++r) sum += p.dy.view()(r, 0) * p.x.view()(r, 0);
    CHECK(p.one.data()[0] == doctest::Approx(sum));
  }
  TEST_CASE("deferred products leave the gradients alone until they are run, and are then the same bits") {
    host_context context;
    const host_exec e(context);
    products now, later;
    now.make(e);
    deferred_products list;
    const std::vector<double> before = values(later.one), groups_before = values(later.groups);
    {
      const deferring scope(e, list);
      later.make(e);
    }
    CHECK(e.deferred() == nullptr);
    CHECK(values(later.one) == before);
    CHECK(values(later.groups) == groups_before);
    later.spoil();
    list.run(e);
    CHECK(values(later.one) == values(now.one));
    CHECK(values(later.groups) == values(now.groups));
    list.run(e);  // nothing is added twice
    CHECK(values(later.one) == values(now.one));
  }
  TEST_CASE("cleared products are never made") {
    host_context context;
    const host_exec e(context);
    products p;
    const std::vector<double> before = values(p.one);
    deferred_products list;
    {
      const deferring scope(e, list);
      p.make(e);
    }
    list.clear();
    list.run(e);
    CHECK(values(p.one) == before);
  }
  TEST_CASE("products of no rows change nothing") {
    host_context context;
    const host_exec e(context);
    products p;
    const std::vector<double> before = values(p.one);
    deferred_products list;
    {
      const deferring scope(e, list);
      weight_gradient(e, view<const double>(p.dy.data(), {0, out}), view<const double>(p.x.data(), {0, in}), p.one.view());
    }
    list.run(e);
    CHECK(values(p.one) == before);
  }
  TEST_CASE("a scope inside another gives back the list it found") {
    host_context context;
    const host_exec e(context);
    deferred_products outer, inner;
    const deferring first(e, outer);
    {
      const deferring second(e, inner);
      CHECK(e.deferred() == &inner);
    }
    CHECK(e.deferred() == &outer);
  }
}
