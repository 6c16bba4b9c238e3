#include <moefold/train/load_trace.hpp>
#include <moefold/train/metrics.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

std::string refused(const std::string& text) {
  try {
    parse_load_trace(text, "metrics.jsonl");
  } catch (const format_error& wrong) {
    return wrong.what();
  }
  return "";
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("train/load_trace") {
  TEST_CASE("the imbalance of a size of EP is that of the rank whose neighbouring experts get most") {
    load_trace trace("a run");
    trace.add({{12, 4, 3, 5}});
    CHECK(trace.sizes() == std::vector<extent_t>{1, 2, 4});
    CHECK(trace.of(1).mean == 1);
    CHECK(trace.of(2).mean == doctest::Approx(16 / 12.0));
    CHECK(trace.of(4).mean == doctest::Approx(12 / 6.0));
    load_trace other("a run");
    other.add({{3, 5, 12, 4}});
    CHECK(other.of(2).mean == doctest::Approx(16 / 12.0));
    CHECK_THROWS_WITH_AS(trace.of(3), "moefold: a run is of 4 experts; EP must divide them (given 3)", config_error);
  }
  TEST_CASE("the mean is over steps and layers, the 99th percentile that of the worst layer") {
    load_trace trace("a run");
    for (int step = 0; step < 200; ++step) trace.add({{step < 3 ? 4 : 1, step < 3 ? 0 : 1}, {3, 1}});
    CHECK(trace.of_layer(2, 0).mean == doctest::Approx((3 * 2.0 + 197) / 200));
    CHECK(trace.of_layer(2, 0).p99 == 2);  // 3 of 200 are worse than 1 in 100
    CHECK(trace.of_layer(2, 1).p99 == 1.5);
    CHECK(trace.of(2).mean == doctest::Approx((1.015 + 1.5) / 2));
    CHECK(trace.of(2).p99 == 2);
    load_trace rare("a run");
    for (int step = 0; step < 200; ++step) rare.add({{step < 2 ? 4 : 1, step < 2 ? 0 : 1}});
    CHECK(rare.of(2).p99 == 1);
  }
  TEST_CASE("layers without experts are left out") {
    load_trace trace("a run");
    trace.add({{0, 0}, {3, 1}});
    CHECK(trace.of(2).mean == 1.5);
    CHECK(trace.of_layer(2, 0).mean == 1);
  }
  TEST_CASE("what train writes is read: lines of what ran and of events are none of it") {
    step_record step{.step = 1, .expert_load = {{12, 4, 3, 5}, {6, 6, 6, 6}}};
    std::string text = to_json(run_record{}) + "\n" + to_json(step) + "\n" + to_json(loss_spike{}) + "\n";
    step.step = 2;
    text += to_json(step);  // the last line without an end
    const load_trace trace = parse_load_trace(text, "metrics.jsonl");
    CHECK(trace.steps() == 2);
    CHECK(trace.layers() == 2);
    CHECK(trace.of(4).mean == 1.5);
    CHECK_NOTHROW(trace.require_experts(4));
    CHECK_THROWS_WITH_AS(
        trace.require_experts(8),
        "moefold: metrics.jsonl is of a model with 4 experts in a layer, and the one to plan has 8; name the metrics of a run "
        "with as many",
        config_error);
  }
  TEST_CASE("errors name the line") {
    const std::string good = "{\"step\":1,\"expert_load\":[[1,2]]}\n";
    CHECK(has(refused(good + "{\"step\":2,\"expert_load\":[[1,2,3]]}"), "metrics.jsonl, line 2"));
    CHECK(has(refused(good + "{\"step\":2,\"expert_load\":[[1,2,3]]}"), "layer 0 has the load of 3 experts, needs 2"));
    CHECK(has(refused(good + "{\"step\":2,\"expert_load\":[[1,2],[1,2]]}"), "the load of 2 layers follows one of 1"));
    CHECK(has(refused(good + "{\"step\":2,\"expert_load\":[[1,-2]]}"), "layer 0 has a load of -2; tokens are counted"));
    CHECK(has(refused(good + "\n{\"step\":2,\"expert_load\":[[1,"), "metrics.jsonl, line 3"));
    CHECK(has(refused(good + "{\"step\":2,\"expert_load\":7}"), "line 2"));
    CHECK(has(refused("{\"step\":1,\"expert_load\":[]}"), "at least one layer"));
    CHECK(has(refused("{\"step\":1,\"loss\":2}"), "line 1"));
    CHECK(has(refused("{\"step\":1,\"loss\":2}"), "the step has no 'expert_load'"));
    CHECK(has(refused("{\"run\":\"a\"}\n"), "it has no step; name a file that train --metrics wrote"));
    CHECK(has(refused(""), "it has no step"));
    CHECK(has(refused("[1]\n"), "line 1"));
  }
}
