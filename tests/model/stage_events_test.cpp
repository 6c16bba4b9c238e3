#include <moefold/model/stage_events.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

namespace {

struct heard {
  std::vector<extent_t> before, ready;
  stage_events events() {
    return {this, [](void* to, extent_t layer) { static_cast<heard*>(to)->before.push_back(layer); },
            [](void* to, extent_t layer) { static_cast<heard*>(to)->ready.push_back(layer); }};
  }
};

}  // namespace

TEST_SUITE("model/stage_events") {
  TEST_CASE("each callback hears its own layers, with the context it was given") {
    heard one, other;
    const stage_events events = one.events();
    events.about_to_use(-1);
    events.gradients_ready(4);
    CHECK(one.before == std::vector<extent_t>{-1});
    CHECK(one.ready == std::vector<extent_t>{4});
    CHECK(other.before.empty());
  }
  TEST_CASE("before the last micro-batch nothing is final, and use is still told") {
    heard one;
    const stage_events events = one.events().not_last();
    events.about_to_use(2);
    events.gradients_ready(2);
    CHECK(one.before == std::vector<extent_t>{2});
    CHECK(one.ready.empty());
  }
  TEST_CASE("without callbacks nothing is told") {
    const stage_events none;
    none.about_to_use(0);
    none.gradients_ready(0);
    none.not_last().about_to_use(0);
    CHECK(!none.ready);
  }
}
