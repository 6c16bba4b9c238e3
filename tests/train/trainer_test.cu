#include <moefold/train/trainer.cuh>

#include "../support/device.hpp"

#include <moefold/comm/self.cuh>
#include <moefold/comm/thread.cuh>
#include <moefold/mesh/describe.hpp>
#include <moefold/schedule/zero_bubble.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <span>

using namespace moefold;

namespace {

constexpr extent_t sequence = 16;
/// The emulator takes long: there the soak test asks for all steps and foldings, every day for a few of them.
const bool whole = !test::emulated || std::getenv("MOEFOLD_SOAK") != nullptr;
const std::int64_t steps = whole ? 10 : 4;  // of one rank
const std::int64_t folded_steps = whole ? steps : 2;

constexpr model_shape small = [] {
  model_shape m{.layers = 2, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 8, .experts = 4, .ffn = 16, .vocabulary = 32};
  m.shared_ffn = 8, m.shared_gate = true, m.init_std = 0.1;
  return m;
}();

dataset data_of() {
  std::string text;
  for (std::size_t i = 0; i < 3000; ++i) text += char((i * i / 7 + i) % 31);
  return dataset(token_stream::from_bytes(text), sequence, 1);
}

struct gathering : balanced_moe {
  template <class T, class Comm>
  using dispatcher = moefold::all_gather_dispatcher<T, Comm>;
};

using in_fp32 = policies<fp32, cp_ring, balanced_moe, one_f_one_b, adamw>;
using in_bf16 = policies<mixed_bf16, cp_all_gather, gathering, one_f_one_b, adamw>;

struct how {
  std::int64_t steps = folded_steps;
  trainer_options train{};
  model_shape model = small;
  moe_facts facts = facts_of<balanced_moe>();
};
how usual() {
  how h;
  h.train.steps = steps, h.train.global_batch = 4, h.train.micro_batch = 1;
  return h;
}

struct curve {
  std::vector<double> losses, norms;
  std::optional<double> held_out;
  std::vector<std::int64_t> load;
};

template <class Trainer, class Comm>
curve train(Comm world, const folding_extents& fold, const how& h, const dataset& data) {
  Trainer trainer(std::move(world), h.model, sequence, fold, h.train, data, {}, h.facts);
  curve c;
  for (std::int64_t i = 0; i < h.steps; ++i) {
    const step_result now = trainer.step();
    c.losses.push_back(now.loss), c.norms.push_back(now.grad_norm);
  }
  c.held_out = trainer.evaluate(1);
  c.load.assign(trainer.load().begin(), trainer.load().end());
  return c;
}
template <class Policies>
curve on_host(const how& h = usual()) {
  const dataset data = data_of();
  return train<basic_trainer<Policies, self_comm>>(self_comm(), {}, h, data);
}
template <class Policies>
curve on_device(const folding_extents& fold, const how& h = usual()) {
  const dataset data = data_of();
  if (fold.world() == 1) return train<basic_trainer<Policies, device_self_comm, cuda_exec>>(device_self_comm(), fold, h, data);
  curve of_first;
  run_device_threads(int(fold.world()), [&](device_thread_comm& world) {
    const bool first = world.rank() == 0;
    curve c = train<basic_trainer<Policies, device_thread_comm, cuda_exec>>(std::move(world), fold, h, data);
    if (first) of_first = std::move(c);
  });
  return of_first;
}

void same(const curve& device, const curve& host, double limit) {
  for (std::size_t i = 0; i < host.losses.size(); ++i) {
    CAPTURE(i);
    CHECK(device.losses[i] == doctest::Approx(host.losses[i]).epsilon(limit));
    CHECK(device.norms[i] == doctest::Approx(host.norms[i]).epsilon(10 * limit));
  }
  CHECK(device.held_out.has_value() == host.held_out.has_value());
  if (host.held_out) CHECK(*device.held_out == doctest::Approx(*host.held_out).epsilon(limit));
}

using ax = axis_id;

}  // namespace

TEST_SUITE("train/trainer") {
  TEST_CASE("steps on the device give the host's losses, norms and held-out loss: fp32") {
    how h = usual();
    h.steps = steps;
    const curve host = on_host<in_fp32>(h), device = on_device<in_fp32>({}, h);
    same(device, host, 1e-4);
    CHECK(host.losses.back() < host.losses.front());
  }
  TEST_CASE("steps on the device give the host's losses: bf16") {
    how h = usual();
    h.steps = steps;
    same(on_device<in_bf16>({}, h), on_host<in_bf16>(h), 1e-2);
  }
  TEST_CASE("every folding over device memory gives the losses of one rank on the host") {
    const curve host = on_host<in_fp32>();
    const std::vector<folding_extents> folds{
        make_folding({{ax::tp, 2}, {ax::cp, 2}}, {{ax::ep, 4}}),
        make_folding({{ax::tp, 2}, {ax::dp, 2}}, {{ax::etp, 2}, {ax::ep, 2}}),
        make_folding({{ax::tp, 2}, {ax::pp, 2}}, {{ax::ep, 2}, {ax::pp, 2}}),
        make_folding({{ax::dp, 4}}, {{ax::ep, 2}, {ax::edp, 2}}),
        make_folding({{ax::tp, 2}}, {{ax::ep, 2}}),
        make_folding({{ax::cp, 2}}, {{ax::ep, 2}}),
        make_folding({{ax::dp, 2}}, {{ax::ep, 2}}),
        make_folding({{ax::pp, 2}}, {{ax::pp, 2}}),
        make_folding({{ax::cp, 2}, {ax::dp, 2}}, {{ax::etp, 4}}),
        make_folding({{ax::tp, 2}, {ax::cp, 2}, {ax::dp, 2}}, {{ax::etp, 2}, {ax::ep, 2}, {ax::edp, 2}}),
        make_folding({{ax::cp, 4}, {ax::dp, 2}}, {{ax::ep, 4}, {ax::edp, 2}}),
        make_folding({{ax::tp, 2}, {ax::cp, 2}, {ax::pp, 2}}, {{ax::etp, 2}, {ax::ep, 2}, {ax::pp, 2}}),
    };
    for (const folding_extents& fold : std::span(folds).first(whole ? folds.size() : 4)) {
      CAPTURE(describe(fold));
      same(on_device<in_fp32>(fold), host, 1e-4);
    }
  }
  TEST_CASE("in bf16 foldings over device memory stay within a hundredth of one rank on the host") {
    const curve host = on_host<in_bf16>();
    const std::vector<folding_extents> folds{make_folding({{ax::cp, 2}, {ax::dp, 2}}, {{ax::etp, 2}, {ax::ep, 2}}),
                                             make_folding({{ax::tp, 2}}, {{ax::ep, 2}}),
                                             make_folding({{ax::tp, 2}, {ax::pp, 2}}, {{ax::ep, 2}, {ax::pp, 2}})};
    for (const folding_extents& fold : std::span(folds).first(whole ? folds.size() : 2)) {
      CAPTURE(describe(fold));
      same(on_device<in_bf16>(fold), host, 1e-2);
    }
  }
  TEST_CASE("recomputation, a capacity, an expert bias and split backwards are the host's on the device too") {
    const auto check = [](const how& h, const folding_extents& fold = {}) { same(on_device<in_fp32>(fold, h), on_host<in_fp32>(h), 1e-4); };
    how h = usual();
    h.train.recompute = recompute_full;
    check(h);
    h = usual();
    h.facts.tokens = capacity<100>::rule;
    check(h);
    h.facts.tokens = capacity<100, full_sequence, padded>::rule;
    check(h, make_folding({{ax::tp, 2}}, {{ax::ep, 2}}));
    h = usual();
    h.model.score = score_function::sigmoid, h.model.expert_bias = true, h.facts.balance.bias_step = 0.01;
    check(h);
    h = usual();
    h.train.schedule = &value_of_schedule<zero_bubble>;
    check(h, make_folding({{ax::pp, 2}}, {{ax::pp, 2}}));
  }
  TEST_CASE("a gradient that is not finite ends the step on the device as on the host") {
    const dataset data = data_of();
    how h = usual();
    basic_trainer<in_fp32, device_self_comm, cuda_exec> trainer(device_self_comm(), h.model, sequence, {}, h.train, data, {}, h.facts);
    auto& entry = trainer.parameters().entries()[2];
    const float bad = std::numeric_limits<float>::quiet_NaN();
    trainer.exec().wait();
    test::settle(cudaMemcpy(entry.value.data(), &bad, sizeof bad, cudaMemcpyHostToDevice), "writing a bad weight");
    CHECK_THROWS_WITH_AS(trainer.step(), doctest::Contains("nan in its gradient"), error);
  }
  TEST_CASE(
      "after the first step a step on the device allocates nothing, and the host waits once per MoE layer and micro-batch, and for the "
      "numbers of the step") {
    const dataset data = data_of();
    how h = usual();
    basic_trainer<in_fp32, device_self_comm, cuda_exec> trainer(device_self_comm(), h.model, sequence, {}, h.train, data, {}, h.facts);
    trainer.step();
    for (int i = 0; i < 2; ++i) {
      const std::size_t device = device_memory::allocations(), host = host_memory::allocations();
#if defined(MOEFOLD_EMULATED)
      const std::size_t waits = emulator::counted().synchronisations;
#endif
      trainer.step();
      CHECK(device_memory::allocations() == device);
      CHECK(host_memory::allocations() == host);
#if defined(MOEFOLD_EMULATED)
      const std::size_t forwards = std::size_t(h.model.layers * h.train.global_batch / h.train.micro_batch);
      CHECK(emulator::counted().synchronisations - waits == forwards + 3);
#endif
    }
  }
  TEST_CASE("what a folded run on the device has learnt goes on in another folding there: the same bits go in and come out") {
    const dataset data = data_of();
    using state = std::map<std::string, std::vector<std::byte>>;
    const auto run = [&](const folding_extents& fold, int steps, const state* from, std::vector<double>& losses) {
      state all;
      std::mutex guard;
      run_device_threads(int(fold.world()), [&](device_thread_comm& world) {
        const bool first = world.rank() == 0;
        how h = usual();
        basic_trainer<in_bf16, device_thread_comm, cuda_exec> trainer(std::move(world), h.model, sequence, fold, h.train, data, {},
                                                                      h.facts);
        const auto each_run = [](const state_tensor& t, auto f) {  // f(where in the whole tensor, where in the piece, bytes)
          const std::size_t size = size_of(t.type);
          std::size_t at = 0;
          t.piece.for_each_run([&](extent_t global, extent_t, extent_t count) {
            f(std::size_t(global) * size, at, std::size_t(count) * size);
            at += std::size_t(count) * size;
          });
        };
        if (from != nullptr) {
          for (state_tensor& t : owned_state(trainer)) {
            std::vector<std::byte> mine(t.bytes());
            each_run(t, [&](std::size_t global, std::size_t at, std::size_t bytes) {
              std::memcpy(&mine[at], &from->at(t.name())[global], bytes);
            });
            t.set(mine);
          }
          trainer.weights_follow_masters();
          trainer.go_to({1, 1, 4});
        }
        for (int i = 0; i < steps; ++i) {
          const step_result now = trainer.step();
          if (first) losses.push_back(now.loss);
        }
        trainer.parameters();
        std::scoped_lock lock(guard);
        for (const state_tensor& t : owned_state(trainer)) {
          std::vector<std::byte> mine(t.bytes());
          t.get(mine);
          auto& whole = all[t.name()];
          whole.resize(std::size_t(t.fact.parameters()) * size_of(t.type));
          each_run(t, [&](std::size_t global, std::size_t at, std::size_t bytes) { std::memcpy(&whole[global], &mine[at], bytes); });
        }
      });
      return all;
    };
    const folding_extents one = make_folding({{ax::dp, 2}}, {{ax::ep, 2}}), other = make_folding({{ax::tp, 2}}, {{ax::etp, 2}});
    std::vector<double> undisturbed, none, rest;
    run(one, 2, nullptr, undisturbed);
    const state saved = run(one, 1, nullptr, none);
    CHECK((run(other, 0, &saved, none) == saved));
    run(other, 1, &saved, rest);
    CHECK(rest.at(0) == doctest::Approx(undisturbed.at(1)).epsilon(1e-2));
  }
}
