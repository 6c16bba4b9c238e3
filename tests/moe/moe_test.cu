// The MoE layer on a device: router, token rules, both dispatchers, experts, shared expert and balance losses together, on thread ranks over device memory.
#include "../support/moe_device_suite.hpp"

using namespace moefold;
using test::check_moe_on_device;
using test::layout;
using test::some_moe_cases;
using test::suite_policy;
using test::to_host;

namespace {

constexpr layout alone{1, 1, 1, 1, 1};
/// Every way that ep x etp lies on tp, cp and dp.
const std::vector<layout> foldings = {{2, 1, 1, 2, 1}, {1, 2, 1, 1, 2}, {1, 1, 2, 2, 1}, {2, 2, 1, 2, 2}, {1, 2, 2, 4, 1},
                                      {2, 1, 2, 1, 4}, {4, 1, 1, 2, 2}, {1, 4, 1, 4, 1}, {2, 2, 2, 4, 2}, {1, 1, 4, 1, 1}};

template <template <class, class> class Dispatcher>
struct with_sequential_experts : suite_policy<Dispatcher> {
  template <class Precision>
  using experts = sequential_experts<Precision>;
};

/// One layer on one rank of a device, with weights from the suite.
template <template <class, class> class Dispatcher>
struct one_rank {
  using layer_type = moe_layer<fp64, device_self_comm, suite_policy<Dispatcher>>;
  test::both_execs on;
  device_self_comm ep{"ep"}, etp{"etp"}, tp{"tp"}, sequence{"tp x cp"};
  basic_arena<device_memory> inputs, keep;
  test::moe_problem problem;
  test::cut_parameter<fp64, replicated> router;
  test::cut_parameter<fp64, expert_rows> gate, up;
  test::cut_parameter<fp64, expert_columns> down;
  layer_type layer;
  typename layer_type::saved saved{};
  test::device_tensor<double> x = test::to_device(problem.x(0)), dy = test::to_device(problem.dy(0));
  test::device_tensor<double> y = test::poisoned<double>(x.shape()), dx = test::poisoned<double>(x.shape());

  explicit one_rank(const moe_facts& facts)
      : problem({test::plain_moe, facts}), router(problem.weights.router, problem.weights.router.shape(), alone.fold(), 0),
        gate(problem.weights.gate, problem.weights.gate.shape(), alone.fold(), 0),
        up(problem.weights.up, problem.weights.up.shape(), alone.fold(), 0),
        down(problem.weights.down, problem.weights.down.shape(), alone.fold(), 0),
        layer(test::plain_moe,
              {router.get(on.device, inputs), gate.get(on.device, inputs), up.get(on.device, inputs), down.get(on.device, inputs)},
              {&ep, &etp, &tp, &sequence}, {}, facts) {}
  batch_place place() const { return problem.place(0, sequence_part{problem.sequence}); }
  void forward(const routing_context& where) {
    keep.clear();
    layer.forward(on.device, x.view(), y.view(), keep, saved, 0, where);
  }
  void backward() { layer.backward(on.device, dy.view(), dx.view(), saved); }
};

}  // namespace

TEST_SUITE("moe/moe") {
  TEST_CASE("on one rank of a device the layer is the oracle, with every token rule, loss and model") {
    check_moe_on_device<suite_policy<all_to_all_dispatcher>, fp64, device_self_comm>("all_to_all, fp64, alone", {alone}, test::moe_cases());
    check_moe_on_device<suite_policy<all_gather_dispatcher>, fp64, device_self_comm>("all_gather, fp64, alone", {alone},
                                                                                     some_moe_cases(0, 3));
    check_moe_on_device<with_sequential_experts<all_to_all_dispatcher>, fp64, device_self_comm>("one expert after the other, alone",
                                                                                                {alone}, some_moe_cases(1, 6));
  }
  TEST_CASE("on thread ranks over device memory every folding is the oracle on one rank") {
    for (std::size_t i = 0; i < foldings.size(); ++i) {
      check_moe_on_device<suite_policy<all_to_all_dispatcher>, fp64>("all_to_all, fp64", {foldings[i]}, some_moe_cases(i % 9, 9));
      check_moe_on_device<suite_policy<all_gather_dispatcher>, fp64>("all_gather, fp64", {foldings[i]}, some_moe_cases((i + 4) % 9, 9));
    }
  }
  TEST_CASE("in fp32 and bf16 the layer is the oracle to the precision of its numbers") {
    for (const layout& l : {alone, foldings[3]}) {
      check_moe_on_device<suite_policy<all_to_all_dispatcher>, fp32>("all_to_all, fp32", {l}, some_moe_cases(0, 4), 1e-5);
      check_moe_on_device<suite_policy<all_gather_dispatcher>, fp32>("all_gather, fp32", {l}, some_moe_cases(2, 4), 1e-5);
      check_moe_on_device<suite_policy<all_to_all_dispatcher>, mixed_bf16>("all_to_all, bf16", {l}, some_moe_cases(1, 4), 2e-2);
      check_moe_on_device<suite_policy<all_gather_dispatcher>, mixed_bf16>("all_gather, bf16", {l}, some_moe_cases(3, 4), 2e-2);
    }
  }
  TEST_CASE_TEMPLATE("a rank of a device without tokens still owns experts and takes part", Policy, suite_policy<all_to_all_dispatcher>,
                     suite_policy<all_gather_dispatcher>) {
    one_rank<all_to_all_dispatcher> one({});
    one.forward({.place = one.place()});
    one.backward();
    const auto right_y = to_host(one.on.device, one.y), right_dx = to_host(one.on.device, one.dx);
    const auto x = one.problem.x(0), dy = one.problem.dy(0);
    const test::oracle_weights& w = one.problem.weights;
    const folding_extents fold = layout{1, 1, 2, 2, 1}.fold();
    run_device_threads(2, [&](device_thread_comm& world) {
      using layer_type = moe_layer<fp64, device_thread_comm, Policy>;
      cuda_context context(0);
      const cuda_exec e(context);
      device_thread_comm etp = world.split(world.rank(), 0, "etp");
      basic_arena<device_memory> inputs, keep;
      const auto cut = [&](auto& parameter) { return parameter.get(e, inputs); };
      test::cut_parameter<fp64, replicated> router(w.router, w.router.shape(), fold, world.rank());
      test::cut_parameter<fp64, expert_rows> gate(w.gate, w.gate.shape(), fold, world.rank()), up(w.up, w.up.shape(), fold, world.rank());
      test::cut_parameter<fp64, expert_columns> down(w.down, w.down.shape(), fold, world.rank());
      const layer_type layer(test::plain_moe, {cut(router), cut(gate), cut(up), cut(down)}, world, etp);
      typename layer_type::saved saved;
      const extent_t n = world.rank() == 0 ? x.extent(0) : 0;
      const view<double> own_x = test::copy_on(e, x.view().rows(0, n), inputs), own_dy = test::copy_on(e, dy.view().rows(0, n), inputs);
      const view<double> y = inputs.take<double>(n, x.extent(1)), dx = inputs.take<double>(n, x.extent(1));
      layer.forward(e, own_x, y, keep, saved, 0, {});
      layer.backward(e, own_dy, dx, saved);
      if (n > 0) {
        CHECK(test::largest_error(test::copy_from(e, y), right_y) < 1e-14);
        CHECK(test::largest_error(test::copy_from(e, dx), right_dx) < 1e-14);
      }
      e.wait();
    });
  }
  TEST_CASE("a tap records, replays and forces choices on a device as on the host") {
    one_rank<all_to_all_dispatcher> r({{}, {.micro_batch = 0.1}});
    const extent_t n = r.problem.tokens, k = test::plain_moe.top_k;
    routing_trace trace(4, 1, 4, r.problem.sequence, k), kept(4, 1, 4, r.problem.sequence, k);
    routing_tap record{.record = &trace, .kept = &kept};
    r.forward({.place = r.place(), .tap = &record});
    const auto chosen = to_host<std::int32_t>(r.on.device, r.saved.router.choice.expert);
    const auto y = to_host(r.on.device, r.y);
    const auto load = to_host<std::int64_t>(r.on.device, r.saved.router.load);
    for (extent_t t = 0; t < n; ++t)
      for (extent_t j = 0; j < k; ++j) {
        CHECK(trace.at(r.place(), 0, t)[j] == chosen.view()(t, j));
        CHECK(kept.at(r.place(), 0, t)[j] == chosen.view()(t, j));
      }
    CHECK((record.margin > 0 && record.margin < 1));

    routing_tap even{.even = true};
    r.forward({.place = r.place(), .tap = &even});
    for (const std::int64_t count : to_host<std::int64_t>(r.on.device, r.saved.router.load))
      CHECK(count == n * k / test::plain_moe.experts);
    CHECK(test::largest_error(to_host(r.on.device, r.y), y) > 0.1);

    routing_tap replay{.replay = &trace};
    r.forward({.place = r.place(), .tap = &replay});
    CHECK(test::largest_error(to_host(r.on.device, r.y), y) < 1e-14);
    const auto again = to_host<std::int64_t>(r.on.device, r.saved.router.load);
    CHECK(std::equal(load.begin(), load.end(), again.begin()));
  }
  TEST_CASE("what was counted is added up in memory of the device, and leaves an arena that is released") {
    const moe_facts facts{{50, false, false, false}, {.micro_batch = 0.1, .z = 0.01}};
    one_rank<all_to_all_dispatcher> r(facts);
    r.forward({.place = r.place()});
    using layer = one_rank<all_to_all_dispatcher>::layer_type;
    const layer_numbers numbers(activation_shape{.model = test::plain_moe, .fold = alone.fold(), .facts = facts});
    const auto load = to_host<std::int64_t>(r.on.device, r.saved.router.load),
               dropped = to_host<std::int64_t>(r.on.device, r.saved.dropped);
    const auto losses = to_host<double>(r.on.device, r.saved.router.losses);
    basic_arena<device_memory> longer;
    layer::keep_numbers(r.on.device, longer, r.saved);
    auto sums = test::to_device(tensor<double>({numbers.count}, 1.0));
    layer::add_numbers(r.on.device, r.saved, numbers, sums);
    const auto found = to_host(r.on.device, sums);
    for (std::size_t x = 0; x < load.size(); ++x) CHECK(found[x] == 1 + double(load[x]));
    CHECK(dropped[0] > 0);
    CHECK(found[std::size_t(numbers.dropped)] == 1 + double(dropped[0]));
    for (std::size_t i = 0; i < balance_kinds; ++i) CHECK(found[std::size_t(numbers.losses) + i] == 1 + losses[i]);
  }
#if defined(MOEFOLD_EMULATED)
  TEST_CASE("the host waits for a device once in a forward whose shapes follow the routing, never in a padded one and never in backward") {
    const auto waits = [](auto&& pass) {
      const std::size_t before = emulator::counted().synchronisations;
      pass();
      return emulator::counted().synchronisations - before;
    };
    const auto check = [&](auto& r, std::size_t forward) {
      const routing_context where{.place = r.place()};
      for (int warm = 0; warm < 3; ++warm) r.forward(where), r.backward();  // memory has grown as far as it does
      CHECK(waits([&] { r.forward(where); }) == forward);
      CHECK(waits([&] { r.backward(); }) == 0);
      r.on.device.wait();
    };
    one_rank<all_to_all_dispatcher> dropless({{}, {.micro_batch = 0.1}}), padded({{100, true, false, true}, {.micro_batch = 0.1}});
    check(dropless, 1);
    check(padded, 0);
    one_rank<all_gather_dispatcher> gathered({}), gathered_padded({{100, false, false, true}, {}});
    check(gathered, 2);  // for the numbers of tokens, then for the number of rows
    check(gathered_padded, 0);
  }
#endif
}
