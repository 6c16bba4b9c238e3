// The planner against the engine, number by number: small models on all legal meshes of up to 16 ranks, trained for a step, with everything else of a run
// drawn. A part every day, all of them in the soak; and 100,000 random runs that both accept or both refuse.
#include <moefold/plan/flops.hpp>
#include <moefold/plan/memory.hpp>

#include <moefold/core/rng.hpp>
#include <moefold/inventory/traffic_calls.hpp>

#include <doctest/doctest.h>
#include "../support/chosen_context.hpp"
#include "../support/random_plans.hpp"
#include "../support/train_mapping.hpp"

#include <array>
#include <atomic>

using namespace moefold;
using namespace moefold::testing;

namespace {

using enum axis_id;
using engine = basic_trainer<policies<fp32, chosen_context, moe_defaults, one_f_one_b, adamw>, thread_comm>;

constexpr extent_t sequence = 32;  // blocks of attention are as long: every query meets every key

/// A tiny model, and what its layers choose.
struct tiny_model {
  const char* name;
  model_shape model;
  moe_facts facts;
};
std::vector<tiny_model> tiny_models() {
  const model_shape plain{
      .layers = 4, .hidden = 16, .heads = 4, .kv_heads = 4, .head_dim = 4, .experts = 8, .top_k = 2, .ffn = 8, .vocabulary = 22};
  std::vector<tiny_model> all(6, {"like Mixtral", plain, {}});
  model_shape& fine = (all[1].name = "fine-grained, shared expert", all[1].model);
  fine.experts = 16, fine.top_k = 4, fine.ffn = 4, fine.shared_ffn = 12, fine.shared_gate = true,
  fine.score = score_function::softmax_before;
  model_shape& dense = (all[2].name = "dense first layers", all[2].model);
  dense.dense_layers = 1, dense.dense_ffn = 20, dense.score = score_function::sigmoid, dense.expert_groups = 4, dense.chosen_groups = 2,
  dense.expert_bias = true;
  all[2].facts.balance = {.global = 0.01, .z = 0.001};
  model_shape& normed = (all[3].name = "normalised heads, biases, gelu", all[3].model);
  normed.qk_norm = normed.qkv_bias = true, normed.activation = activation_function::gelu;
  all[3].facts.tokens = {110, true, false, false};
  all[4].name = "tied embeddings", all[4].model.tied_embeddings = true;
  all[4].facts.balance = {.micro_batch = 0.01, .sequence = 0.01, .global_running = 0.01};
  all[5].name = "capacity, padded", all[5].facts.tokens = {100, false, false, true};
  return all;
}

/// All meshes of so many ranks that fold, pipeline slowest; legal or not.
std::vector<plan_mapping> meshes_of(extent_t world) {
  std::vector<plan_mapping> all;
  const auto triples = [](extent_t ranks, auto&& f) {
    for (extent_t a = 1; a <= ranks; ++a)
      for (extent_t b = 1; a * b <= ranks; ++b)
        if (ranks % (a * b) == 0) f(a, b, ranks / (a * b));
  };
  for (extent_t stages = 1; stages <= world; ++stages)
    if (world % stages == 0)
      triples(world / stages, [&](extent_t t, extent_t c, extent_t d) {
        triples(world / stages, [&](extent_t et, extent_t e, extent_t ed) { all.push_back({t, c, d, stages, et, e, ed}); });
      });
  return all;
}

const schedule_value& schedule_of(const plan_job& job, const plan_mapping& m) {
  if (m.vpp == 4) return value_of_schedule<interleaved<4>>;
  if (m.vpp == 2) return value_of_schedule<interleaved<2>>;
  return job.schedule == plan_schedule::zero_bubble    ? value_of_schedule<zero_bubble>
       : job.schedule == plan_schedule::zero_bubble_h1 ? value_of_schedule<zero_bubble_h1>
                                                       : value_of_schedule<one_f_one_b>;
}
constexpr context_facts facts_of_choice(context_choice c) {
  return c == context_choice::all_gather ? cp_all_gather::facts
       : c == context_choice::ring       ? cp_ring::facts
       : c == context_choice::all_to_all ? cp_all_to_all::facts
                                         : cp_combined<2>::facts;
}

constexpr context_choice contexts[] = {context_choice::all_gather, context_choice::ring, context_choice::all_to_all,
                                       context_choice::combined};

struct engine_case {
  plan_job job;
  plan_mapping mapping;
  context_choice context = context_choice::all_gather;
};

/// All legal meshes of up to 16 ranks x the models; what else a run chooses is drawn by the number of the case.
std::vector<engine_case> engine_cases() {
  const random_numbers draw(21);
  std::vector<engine_case> all;
  for (const tiny_model& tiny : tiny_models())
    for (const extent_t world : {1, 2, 3, 4, 6, 8, 12, 16})
      for (const plan_mapping& mesh : meshes_of(world)) {
        const std::uint64_t i = all.size();
        engine_case c{{}, mesh};
        c.job.model = tiny.model, c.job.facts = tiny.facts, c.job.gpus = world, c.job.sequence = sequence;
        c.mapping.micro_batch = 1 + draw(i, "micro_batch", 2), c.mapping.recompute = random_rule(draw, i);
        c.mapping.vpp = draw.of<extent_t>(i, "chunks", {1, 1, 2, 4});
        while (c.mapping.vpp * mesh.pp > tiny.model.layers && c.mapping.vpp > 1) c.mapping.vpp /= 2;
        c.job.schedule = c.mapping.vpp > 1 ? plan_schedule::one_f_one_b : plan_schedule(draw(i, "schedule", 3));
        c.job.global_batch = mesh.dp * c.mapping.micro_batch * (1 + draw(i, "micro_batches", 5));
        if (c.job.global_batch > 64) c.job.global_batch = mesh.dp * c.mapping.micro_batch;
        c.job.bucket = draw.of<extent_t>(i, "bucket", {0, 300, 2000, default_bucket});
        c.job.layers.head_weighs = draw(i, "weighs", 3) == 0;
        c.context = context_choice(draw(i, "context", 4)), c.job.context = facts_of_choice(c.context);
        if (!refusal(c.job, c.mapping).empty()) c.context = context_choice::all_gather, c.job.context = cp_all_gather::facts;
        if (refusal(c.job, c.mapping).empty()) all.push_back(c);
      }
  return all;
}

/// What was compared, and what differed.
struct tally {
  const char* what;
  std::atomic<extent_t> compared{0}, wrong{0};
};
struct tallies {
  tally parameters{"P01 bytes of parameters, gradients and optimizer per rank"}, bytes{"P02 bytes per rank, axis and operation"},
      calls{"P03 calls per rank, axis and operation"}, held{"P04 bytes set aside for activations per rank"},
      kept{"P04 most bytes a micro-batch keeps per rank"}, products{"P05 multiply-adds per rank"};
  std::mutex guard;
  std::vector<std::string> words;

  void compare(tally& t, extent_t engine_says, extent_t planner_says, const auto&... where) {
    ++t.compared;
    if (engine_says == planner_says) return;
    ++t.wrong;
    const std::scoped_lock lock(guard);
    if (words.size() < 10) words.push_back(sentence(t.what, ": engine ", engine_says, ", planner ", planner_says, "; ", where...));
  }
  void report(extent_t cases) {
    for (const std::string& w : words) FAIL_CHECK(w);
    for (const tally* t : {&parameters, &bytes, &calls, &held, &kept, &products}) {
      MESSAGE(std::string(t->what), ": ", t->compared - t->wrong, " of ", t->compared.load(), " equal, on ", cases, " mappings x models");
      CHECK(t->compared > 0);
      CHECK(t->wrong == 0);
    }
  }
};

/// Kept pairs of every expert, by rank, layer and micro-batch.
struct pair_table {
  extent_t layers, micro_batches, experts;
  std::vector<std::int64_t> counts;
  pair_table(extent_t ranks, extent_t l, extent_t m, extent_t e)
      : layers(l), micro_batches(m), experts(e), counts(std::size_t(ranks * l * m * e), 0) {}
  std::span<std::int64_t> of(extent_t rank, extent_t layer, extent_t micro) {
    return std::span(counts).subspan(std::size_t(((rank * layers + layer) * micro_batches + micro) * experts), std::size_t(experts));
  }
};

using call_table =
    std::map<std::pair<std::string, operation>, std::array<extent_t, 2>>;  // calls and bytes of one rank, by axis and operation

/// What the planner's visitors say of a step; bytes of v-operations are those of even routing.
call_table planned_calls(const plan_job& job, const activation_shape& a, extent_t stage, extent_t micro_batches) {
  call_table table;
  const auto add = [&](const traffic_call& c, extent_t often) {
    auto& cell = table[{c.axes.empty() ? "world" : c.axes.name(), c.op}];
    cell[0] += often * c.times, cell[1] += often * c.bytes();
  };
  const model_shape& model = job.model;
  const extent_t dense = dense_on_stage(model.layers, model.dense_layers, a.fold, stage),
                 all = layers_on_stage(model.layers, a.fold, stage);
  for (const traffic_pass pass : {traffic_pass::forward, traffic_pass::backward}) {
    if (dense > 0) for_each_block_call<fp32>(a, true, pass, [&](const traffic_call& c) { add(c, dense * micro_batches); });
    if (all > dense) for_each_block_call<fp32>(a, false, pass, [&](const traffic_call& c) { add(c, (all - dense) * micro_batches); });
    for_each_stage_call<fp32>(a, stage, pass, [&](const traffic_call& c) { add(c, micro_batches); });
  }
  for_each_step_call<fp32>(a, stage, job.bucket, [&](const traffic_call& c) { add(c, 1); });
  return table;
}

/// One step of the engine on as many threads as the mapping has ranks, compared with the planner.
void compare_engine(const engine_case& c, const dataset& data, tallies& all) {
  const plan_job& job = c.job;
  const plan_mapping& m = c.mapping;
  const model_shape& model = job.model;
  chosen_context::choose(c.context);
  const activation_shape a = shape_of(job, m);
  const extent_t micro_batches = micro_batches_of(job, m);
  routing_trace kept(1, model.layers, job.global_batch, sequence, model.top_k);
  pair_table pairs(job.gpus, model.layers, micro_batches, model.experts);
  trainer_options options;
  options.global_batch = job.global_batch, options.micro_batch = m.micro_batch, options.bucket = job.bucket,
  options.recompute = m.recompute;
  options.schedule = &schedule_of(job, m), options.steps = 1;
  run_threads(int(job.gpus), [&](thread_comm& world) {
    const extent_t rank = world.rank(), stage = stage_of(a.fold, rank);
    routing_tap tap;
    tap.kept = &kept;
    trainer_options own = options;
    own.tap = &tap;
    engine trainer(std::move(world), model, sequence, a.fold, own, data, {}, job.facts);
    const auto compare = [&](tally& t, extent_t engine_says, extent_t planner_says, const std::string& what) {
      all.compare(t, engine_says, planner_says, what, " on rank ", rank, " of ", describe(m), ", ", std::string(options.schedule->name));
    };
    const plan_memory memory = memory_counter<fp32>(job, m, a, a.worst_rows()).of(stage);
    compare(all.parameters, extent_t(trainer.parameters().parameter_bytes()), memory.parameters, "parameters");
    compare(all.parameters, extent_t(trainer.parameters().gradient_bytes()), memory.gradients, "gradients");
    compare(all.parameters, extent_t(trainer.optimizer().bytes()), memory.optimizer, "optimizer");
    const extent_t travelling = (m.pp == 1 && m.vpp > 1 ? live_pairs(job, m, stage) : 1) + 1;  // from chunk to chunk
    compare(all.held,
            extent_t(trainer.memory()(memory_category::activations).now) - travelling * a.rows() * model.hidden * extent_t(sizeof(float)),
            memory.activations, "activations");

    const traffic_log before = trainer.traffic();
    trainer.step();
    const traffic_log sent = trainer.traffic() - before;
    const extent_t products = trainer.exec().context->multiply_adds;
    for (extent_t layer = model.dense_layers; layer < model.layers; ++layer)
      for (extent_t micro = 0; micro < micro_batches; ++micro)
        std::ranges::copy(choices_of(kept, a, 0, layer, micro, rank), pairs.of(rank, layer, micro).begin());
    trainer.parameters();
    trainer.world().barrier(trainer.exec()).wait(trainer.exec());  // then all ranks have counted

    const call_table planned = planned_calls(job, a, stage, micro_batches);
    const traffic_table routed = step_traffic<fp32>(
        a, rank, micro_batches,
        [&](extent_t layer, extent_t micro, extent_t source) -> std::span<const std::int64_t> { return pairs.of(source, layer, micro); },
        job.bucket);
    extent_t cells = 0;
    for (const traffic_cell& cell : routed.cells()) {
      const traffic_count measured = sent(comm_label(cell.axis()), cell.op);
      const std::string what = cell.axis() + " " + name_of(cell.op);
      const auto& [calls, bytes] = planned.at({cell.axis(), cell.op});
      const bool by_routing = travels_by_routing(a) && traffic_call{.op = cell.op}.by_rank();
      compare(all.calls, extent_t(measured.calls), calls, what);
      compare(all.bytes, extent_t(measured.bytes), by_routing ? extent_t(cell.bytes) : bytes, what);
    }
    sent.for_each([&](const traffic_log::entry&) { ++cells; });
    compare(all.calls, cells, extent_t(planned.size()), "kinds of calls");

    const group sources = group_of(a.fold.moe, set_of<tag::ep, tag::etp>, rank);
    const extent_t ep_rank = coordinate_of(a.fold.moe, rank)[ep], own_experts = a.own_experts();
    const auto arriving = [&](extent_t layer, extent_t micro) {
      if (a.padded()) return a.worst_rows();
      extent_t rows = 0;
      for (const extent_t source : sources)
        for (const std::int64_t n : pairs.of(source, layer, micro).subspan(std::size_t(ep_rank * own_experts), std::size_t(own_experts)))
          rows += extent_t(n);
      return rows;
    };
    extent_t most = 0;
    product_count made;
    for (extent_t micro = 0; micro < micro_batches; ++micro) {
      for (extent_t chunk = 0; chunk < m.vpp; ++chunk) {
        extent_t bytes = kept_by_chunk_input<fp32>(a);
        const layer_range layers = chunk_layers(model.layers, a.fold, stage, chunk);
        for (extent_t layer = layers.first; layer < layers.first + layers.count; ++layer) {
          const extent_t rows = model.dense(layer) ? 0 : arriving(layer, micro);
          bytes += memory_of_block<fp32>(a, rows, model.dense(layer)).kept;
          made += products_of_block(a, rows, model.dense(layer));
        }
        most = std::max(most, bytes);
      }
      if (stage == m.pp - 1) made += products_of_head(a);
    }
    compare(all.kept, extent_t(trainer.kept_peak()), most, "kept");
    compare(all.kept, extent_t(trainer.head_peak()), stage == m.pp - 1 ? kept_by_head<fp32>(a) : 0, "kept by head and loss");
    compare(all.products, products, made.total(), "products");
  });
}

void compare_engines(std::size_t every) {
  const std::vector<engine_case> cases = engine_cases();
  const dataset data = test_data(22, sequence);
  tallies all;
  extent_t compared = 0;
  for (std::size_t i = every / 2; i < cases.size(); i += every, ++compared) compare_engine(cases[i], data, all);
  MESSAGE(cases.size(), " legal mappings x models of up to 16 ranks");
  all.report(compared);
}

/// Whether the engine starts with a run, on as many threads as it names; what it says if not.
std::string refused_by_engine(const plan_job& job, const plan_mapping& m, context_choice context, const dataset& data) {
  chosen_context::choose(context);
  try {
    const folding_extents fold = moefold::folding_of(job, m);
    trainer_options options;
    options.global_batch = job.global_batch, options.micro_batch = m.micro_batch, options.recompute = m.recompute;
    options.schedule = &schedule_of(job, m);
    run_threads(int(job.gpus), [&](thread_comm& world) {
      const engine trainer(std::move(world), job.model, job.sequence, fold, options, data, {}, job.facts);
    });
  } catch (const config_error& e) {
    return e.what();
  }
  return {};
}

/// Random runs, some of which break rules, on at most 16 ranks.
void compare_legality(extent_t runs) {
  const random_numbers draw(41);
  std::map<extent_t, dataset> data;  // by the length of a sequence
  extent_t compared = 0, accepted = 0, wrong = 0;
  for (std::uint64_t i = 0; compared < runs; ++i) {
    const random_plan p = spoilt_plan(draw, i);
    const plan_job& job = p.job;
    const auto context =
        std::find_if(std::begin(contexts), std::end(contexts), [&](context_choice c) { return facts_of_choice(c) == job.context; });
    if (job.gpus < 1 || job.gpus > 16 || context == std::end(contexts) || p.mapping.vpp < 1) continue;
    if (job.global_batch > 60 && job.global_batch < 1 << 24) continue;  // more than the data have
    const extent_t length = std::max<extent_t>(1, job.sequence);
    const dataset& text = data.try_emplace(length, test_data(20, length)).first->second;
    const std::string planner = refusal(job, p.mapping), started = refused_by_engine(job, p.mapping, *context, text);
    if (planner.empty() != started.empty() && ++wrong < 5)
      FAIL_CHECK(sentence("planner: '", planner, "'; engine: '", started, "'; ", describe(p.mapping)));
    ++compared, accepted += planner.empty();
  }
  MESSAGE("P07: ", compared - wrong, " of ", compared, " runs that the engine was started with, ", accepted, " accepted");
  CHECK(wrong == 0);
  CHECK(accepted > runs / 5);
  CHECK(accepted < runs * 4 / 5);
}

}  // namespace

TEST_SUITE("plan/engine") {
  TEST_CASE("what the engine holds, sends, calls, keeps and multiplies is what the planner says: some of all mappings") {
    compare_engines(131);
  }
  TEST_CASE("the engine starts where the planner accepts: some random runs") { compare_legality(40); }
}
TEST_SUITE("plan/engine_soak") {
  TEST_CASE("what the engine holds, sends, calls, keeps and multiplies is what the planner says: all mappings") { compare_engines(1); }
  TEST_CASE("the engine starts where the planner accepts: 500 random runs") { compare_legality(500); }
}
