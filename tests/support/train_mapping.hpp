#pragma once
// Trains one small model for some steps on one folding and gathers everything a claim about mappings may be checked on: losses, norms, the
// first step's gradients under their global indices, what travelled against what was foretold, and whether replicas stayed the same.
#include <moefold/comm/thread.hpp>
#include <moefold/train/trainer.hpp>

#include <functional>
#include <map>
#include <mutex>

namespace moefold::testing {

using gradients = std::map<std::string, std::vector<double>>;

struct outcome {
  std::vector<double> losses, norms, balance, dropped;  // of every step
  std::vector<double> bias;                             // of every router after every step but its own
  gradients first;                                      // of the mean loss, per parameter, in global order
  gradients last_weights;                               // after the last step
  double margin = 0;                                    // smallest gap between a chosen and the next logit, over all ranks and steps
  std::size_t deferred = 0,
              deferred_worst = 0;  // bytes of weight gradients left for later, and what the inventory allows; most of all ranks
  bool overlaps = false;           // gradients were summed beside the computation
  std::vector<std::string> wrong;  // every disagreement found on the way, in words

  void disagree(std::string what) {
    if (wrong.size() < 20) wrong.push_back(std::move(what));
  }
};

struct mapping_options {
  model_shape model{};
  extent_t sequence = 32;
  std::int64_t steps = 10;
  trainer_options train{};
  routing_trace* record = nullptr;
  const routing_trace* replay = nullptr;
  moe_facts facts{};
  dataset::edit_function edit{};  // of every sample
  std::int32_t document_end = -1;
  layer_split layers{};
  const dataset* data = nullptr;  // instead of the test's own
  /// Called on every rank before the first step, to give it other weights than it drew.
  std::function<void(std::vector<state_tensor>& owned, std::vector<state_array>& shared)> start{};
};

/// A text long enough for every test: words from a small vocabulary of tokens, the same on every machine.
inline dataset test_data(extent_t vocabulary, extent_t sequence) {
  const random_stream draw(7, "text");
  std::string text;
  for (std::uint64_t i = 0; text.size() < 6000; ++i) {
    const std::uint64_t word = draw.bits(i) % 23;
    for (std::uint64_t c = 0; c <= word % 5; ++c) text += char((word * 7 + c * c) % std::uint64_t(vocabulary - 1));
    text += char(vocabulary - 1);
  }
  return dataset(token_stream::from_bytes(text), sequence, 11);
}

/// Choices of each expert by the tokens of one rank in one micro-batch, from a recorded trace; dropped ones (-1) are none.
inline std::vector<std::int64_t> choices_of(const routing_trace& trace, const activation_shape& a, std::int64_t step, extent_t layer,
                                            extent_t micro, extent_t rank) {
  const coordinate at = coordinate_of(a.fold.attention, rank);
  const extent_t dp = a.fold.attention.of(axis_id::dp);
  const batch_place place{
      step,
      (micro * dp + at[axis_id::dp]) * a.micro_batch,
      a.micro_batch,
      {a.sequence, a.fold.attention.of(axis_id::cp), at[axis_id::cp], a.fold.attention.of(axis_id::tp), at[axis_id::tp]}};
  std::vector<std::int64_t> counts(std::size_t(a.model.experts), 0);
  for (extent_t token = 0; token < a.rows(); ++token)
    for (extent_t slot = 0; slot < a.model.top_k; ++slot)
      if (const std::int32_t expert = trace.at(place, layer, token)[slot]; expert >= 0) ++counts[std::size_t(expert)];
  return counts;
}

/// Every cell of the two tables, in words where they differ.
inline void compare_traffic(const traffic_log& measured, const traffic_table& foretold, extent_t rank, outcome& result) {
  const auto say = [](const traffic_count& c) { return sentence(c.calls, " calls, ", c.messages, " messages, ", c.bytes, " bytes"); };
  std::size_t cells = 0;
  for (const traffic_cell& cell : foretold.cells()) {
    const traffic_count count = measured(comm_label(cell.axis()), cell.op), said{cell.calls, cell.messages, cell.bytes};
    if (count != said)
      result.disagree(
          sentence("rank ", rank, ", ", cell.axis(), ' ', name_of(cell.op), ": measured ", say(count), ", the inventory says ", say(said)));
    ++cells;
  }
  std::size_t seen = 0;
  measured.for_each([&](const traffic_log::entry&) { ++seen; });
  if (seen != cells) result.disagree(sentence("rank ", rank, " used ", seen, " kinds of calls, the inventory names ", cells));
}

/// Runs on as many threads as the folding has ranks.
template <class Policies>
outcome train_mapping(const folding_extents& fold, const mapping_options& options) {
  using precision = typename Policies::precision;
  outcome result;
  std::mutex guard;
  dataset data = options.data ? *options.data : test_data(options.model.vocabulary, options.sequence);
  data.set_edit(options.edit);
  data.end_documents_after(options.document_end);
  const extent_t batch = options.train.global_batch;
  routing_trace own_trace(options.steps, options.model.layers, batch, options.sequence, options.model.top_k);
  routing_trace& trace = options.record ? *options.record : own_trace;
  routing_trace kept(options.steps, options.model.layers, batch, options.sequence, options.model.top_k);
  std::map<std::string, std::vector<int>> seen;  // how many ranks hold each reduced element: exactly one
  std::map<std::string, std::vector<double>> weights;
  result.margin = std::numeric_limits<double>::infinity();
  for (extent_t stage = 0; stage < fold.attention.of(axis_id::pp); ++stage)
    for_each_parameter(options.model, fold, stage, [&](const parameter_fact& p) {
      result.first[p.name()].assign(std::size_t(p.extent.size()), 0.0);
      seen[p.name()].assign(std::size_t(p.extent.size()), 0);
      weights[p.name()].assign(std::size_t(p.extent.size()), std::nan(""));
    });

  run_threads(int(fold.world()), [&](thread_comm& world) {
    const int rank = world.rank();
    routing_tap tap;
    tap.record = &trace, tap.kept = &kept, tap.replay = options.replay, tap.replay_from = 1;
    trainer_options train = options.train;
    train.tap = &tap;
    train.steps = options.steps;
    basic_trainer<Policies, thread_comm> trainer(std::move(world), options.model, options.sequence, fold, train, data, {}, options.facts);

    if (options.start) {
      auto owned = owned_state(trainer);
      auto shared = shared_state(trainer);
      options.start(owned, shared);
      trainer.weights_follow_masters();
    }
    if (trainer.optimizer().overlaps() && rank == 0) result.overlaps = true;
    const parameter_memory memory =
        memory_of_parameters<precision>(options.model, fold, coordinate_of(fold.attention, rank)[axis_id::pp], 2, options.train.bucket);
    const auto exact = [&](const char* what, std::size_t bytes, extent_t facts) {
      if (extent_t(bytes) == facts) return;
      std::scoped_lock lock(guard);
      result.disagree(sentence("rank ", rank, " holds ", bytes, " bytes of ", what, ", the inventory says ", facts));
    };
    exact("parameters", trainer.parameters().parameter_bytes(), memory.parameters);
    exact("gradients", trainer.parameters().gradient_bytes(), memory.gradients);
    exact("optimizer state", trainer.optimizer().bytes(), memory.optimizer);

    for (std::int64_t step = 0; step < options.steps; ++step) {
      const traffic_log before = trainer.traffic();
      const step_result now = trainer.compute();
      if (step == 0) {  // reduced gradients: each element on exactly one rank
        for (const auto& entry : trainer.parameters().entries()) {
          const auto& flat = trainer.parameters().flats()[std::size_t(entry.buffer)];
          const auto own = trainer.optimizer().own_gradients(std::size_t(entry.buffer));
          const extent_t first = own.data() - flat.gradients.data();
          std::scoped_lock lock(guard);
          for (extent_t i = 0; i < extent_t(entry.value.size()); ++i) {
            const extent_t at = entry.offset + i - first;
            if (at < 0 || at >= extent_t(own.size())) continue;
            const std::size_t global = std::size_t(entry.slice.global_index(i));
            result.first[entry.fact.name()][global] = double(own[std::size_t(at)]) / double(now.tokens);
            ++seen[entry.fact.name()][global];
          }
        }
      }
      trainer.apply(now);
      if (rank == 0) {
        result.losses.push_back(now.loss);
        result.norms.push_back(now.grad_norm);
        result.balance.push_back(now.balance);
        result.dropped.push_back(now.dropped);
        for (const double b : trainer.routers().bias().span()) result.bias.push_back(b);
      }
      const traffic_table foretold = step_traffic<precision>(
          trainer.activations(), rank, trainer.micro_batches(),
          [&, counted = std::vector<std::vector<std::int64_t>>()](extent_t layer, extent_t micro,
                                                                  extent_t source) mutable -> std::span<const std::int64_t> {
            counted.push_back(choices_of(kept, trainer.activations(), step, layer, micro, source));
            return counted.back();
          },
          options.train.bucket);
      std::scoped_lock lock(guard);
      compare_traffic(trainer.traffic() - before, foretold, rank, result);
    }

    trainer.parameters();  // all have arrived: nobody waits for another rank below
    const extent_t stage = coordinate_of(fold.attention, rank)[axis_id::pp];
    if (recomputed_by_block<precision>(trainer.activations(), trainer.activations().worst_rows()) < extent_t(trainer.recomputed_peak())) {
      std::scoped_lock lock(guard);
      result.disagree(
          sentence("rank ", rank, " used ", trainer.recomputed_peak(), " bytes for recomputation, more than the inventory's worst case"));
    }
    if (kept_by_micro_batch<precision>(trainer.activations(), stage, trainer.activations().worst_rows()) < extent_t(trainer.kept_peak())) {
      std::scoped_lock lock(guard);
      result.disagree(
          sentence("rank ", rank, " kept ", trainer.kept_peak(), " bytes of a micro-batch, more than the inventory's worst case"));
    }
    const extent_t deferred = deferred_by_micro_batch<precision>(trainer.activations(), stage, trainer.activations().worst_rows());
    if (deferred < extent_t(trainer.deferred_peak())) {
      std::scoped_lock lock(guard);
      result.disagree(sentence("rank ", rank, " left ", trainer.deferred_peak(),
                               " bytes of weight gradients for later, and the inventory says ", deferred, " at most"));
    }
    std::scoped_lock lock(guard);
    result.deferred = std::max(result.deferred, trainer.deferred_peak());
    result.deferred_worst = std::max(result.deferred_worst, std::size_t(deferred));
    result.margin = std::min(result.margin, tap.margin);
    for (const auto& entry : trainer.parameters().entries())  // replicas: bit for bit
      for (extent_t i = 0; i < extent_t(entry.value.size()); ++i) {
        double& global = weights[entry.fact.name()][std::size_t(entry.slice.global_index(i))];
        const double mine = double(entry.value[std::size_t(i)]);
        if (std::isnan(global)) global = mine;
        if (global != mine) {
          result.disagree(sentence("rank ", rank, " holds another ", entry.fact.name(), " than its replicas"));
          break;
        }
      }
  });
  for (const auto& [name, count] : seen)
    if (std::any_of(count.begin(), count.end(), [](int ranks) { return ranks != 1; }))
      result.disagree(name + " is not reduced onto exactly one rank");
  result.last_weights = std::move(weights);
  return result;
}

}  // namespace moefold::testing
