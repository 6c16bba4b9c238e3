#pragma once
// The trainer of one rank: it owns the rank's parameters, pipeline stage and optimizer state, and makes one training step out of them.
//
//   load tokens -> count them (all_reduce) -> schedule of forwards and backwards -> reduce gradients -> norm, loss, load (all_reduce) -> update -> gather
// Every rank of the world constructs it and calls its members together. After the first step a step allocates nothing.
#include <moefold/comm/recording.hpp>
#include <moefold/core/mutant.hpp>
#include <moefold/inventory/traffic.hpp>
#include <moefold/model/transformer.hpp>
#include <moefold/optim/clip.hpp>
#include <moefold/optim/distributed.hpp>
#include <moefold/pipeline/runner.hpp>
#include <moefold/schedule/check.hpp>
#include <moefold/schedule/forward_only.hpp>
#include <moefold/train/batch_loader.hpp>
#include <moefold/train/options.hpp>
#include <moefold/train/run.hpp>
#include <moefold/train/state.hpp>

#include <array>
#include <cmath>
#include <optional>

namespace moefold {

namespace detail {

/// The execs of one rank: `own` for everything that computes, and `host` for the few numbers that the host itself has. On the host they are one.
template <class Exec>
struct rank_execs {
  std::remove_pointer_t<decltype(Exec::context)> context;
  host_context beside;
  Exec own{context};
  host_exec host{beside};
  explicit rank_execs(int device) : context(device) {}
};
template <>
struct rank_execs<host_exec> {
  host_context context;
  host_exec own{context}, host{context};
  explicit rank_execs(int /*device*/) {}
};

}  // namespace detail

/// The trainer over values: all foldings of one set of policies share this instantiation. Exec: what layers and optimizer run on; on a device the
/// trainer makes a context of its own on the calling thread (trainer_options::device), and everything of a step but the numbers it reports stays there.
template <class Policies, class Comm, class Exec = host_exec>
class basic_trainer {
 public:
  using precision = typename Policies::precision;
  using communicator_type = recording<Comm>;
  using memory_type = typename Exec::memory;
  using stage_type = transformer_stage<precision, communicator_type, typename Policies::context, typename Policies::moe, Exec>;
  using optimizer_type = distributed_optimizer<precision, communicator_type, typename Policies::optimizer, memory_type>;

  /// Collective over the world. `data` must outlive the trainer. Throws config_error if model, folding, batch and data do not fit each other.
  /// `optimizer` carries the numbers of its policy, such as weight decay; `facts` those of the MoE layers.
  basic_trainer(Comm world, const model_shape& model, extent_t sequence, const folding_extents& fold, const trainer_options& options,
                const dataset& data, typename Policies::optimizer optimizer = {},
                const moe_facts& facts = facts_of<typename Policies::moe>())
      : ledger_(world.rank(), options.memory), model_(model), fold_(checked(model, sequence, fold, options, data)), options_(options),
        facts_(with_own_dispatcher(facts)), layer_(activation_shape{model, fold_, sequence, options.micro_batch, facts_}), data_(data),
        execs_(options.device), world_(beginning(std::move(world)), log_), groups_(world_, fold_),
        store_(exec_, model, fold_, world_.rank(), options.bucket),
        states_(model, facts.balance, options.global_batch / (fold.attention.of(axis_id::dp) * options.micro_batch)), scales_(model),
        stage_(exec_, model, sequence, fold_, world_.rank(), store_, groups_, &states_, facts_, options.recompute, options.overlap,
               &scales_),
        optimizer_(exec_, store_, groups_, optimizer, {options.overlap, looked_for(options.bad)}), rate_(rate_of(options)),
        numbers_(step_numbers({model, fold_, sequence, options.micro_batch, facts_})), held_out_(1),
        load_({model.layers, model.experts}, 0), aux_load_({model.layers, model.experts}, 0),
        loader_(data, sequence, fold_, world_.rank(), options.global_batch, options.micro_batch, options.seed) {
    const int stages = int(fold.attention.of(axis_id::pp)), stage = int(stage_of(fold_, world_.rank()));
    const schedule_value schedule = schedule_of(options);
    require<config_error>(schedule.trains, "moefold: a trainer needs a schedule that trains; ", schedule.name, " has no backward");
    check_schedule(schedule, stages, int(micro_batches()));
    steps_ = schedule.steps(stage, stages, int(micro_batches()));
    const activation_shape a = activations();
    {
      const memory_scope scope(memory_category::scratch);
      execs_.context.scratch.reserve(std::size_t(scratch_bound<precision>(a)));
    }
    runner_.emplace(stage_, groups_.template over<tag::pp>(), groups_.stages_for_gradients(), a.rows(), model.hidden,
                    std::max(schedule.live(stage, stages, int(micro_batches())), schedule.chunks > 1 ? 2 : 1),
                    std::size_t(kept_by_micro_batch<precision>(a, stage, a.worst_rows())));
    if (stage_.last(schedule.chunks - 1))
      runner_->reserve_heads(most_alive(steps_, schedule.chunks - 1), std::size_t(kept_by_head<precision>(a)));
    if (std::any_of(steps_.begin(), steps_.end(), [](const schedule_step& s) { return s.kind == step_kind::backward_weight; }))
      runner_->reserve_deferred(std::size_t(deferred_by_micro_batch<precision>(a, stage, a.worst_rows())));
    runner_->reserve_again(std::size_t(recomputed_by_block<precision>(a, a.worst_rows())));
    store_.initialise(exec_, options.seed);
    building_.reset();
  }
  basic_trainer(const basic_trainer&) = delete;
  basic_trainer& operator=(const basic_trainer&) = delete;

  /// One step: compute, then apply. Collective over the world.
  step_result step() {
    const step_result result = compute();
    apply(result);
    return result;
  }

  /// Forward and backward of all micro-batches, and the reduced gradients. Parameters are untouched. Collective over the world.
  step_result compute() {
    states_.publish(exec_);
    store_.zero_gradients(exec_);
    scales_.begin();
    fill(exec_, numbers_.all(), 0.0);
    batch_loader::token_counts counted = loader_.load({at_.sample}, at_.step);
    if (!mutated(mutant::own_token_count))
      groups_.template over<tag::tp, tag::cp, tag::dp>()
          .all_reduce(host_, std::span<const std::int64_t>(counted), std::span(counted), sum{})
          .wait(host_);
    const auto [tokens, routed] = counted;
    for (micro_batch& batch : loader_.batches()) batch.loss_weight = routed > 0 ? double(tokens) / double(routed) : 0;
    const view<double> by_layer = numbers_.at(step_header, model_.layers * layer_.count).as({model_.layers, layer_.count});
    runner_->run(
        exec_, std::span<const schedule_step>(steps_), options_.tap, batch_of(),
        [&](const auto& s) { stage_.add_numbers(exec_, s, by_layer); }, events(), numbers_.at(1, 1));

    const double squares = optimizer_.reduce(exec_);
    const std::span<double> all = numbers_.read(exec_);
    all[0] = squares;
    all[3] = optimizer_.first_bad() ? double(optimizer_.first_bad()->count) : 0;
    const std::int32_t asked = options_.stop ? options_.stop->load(std::memory_order_relaxed) : 0;
    all[2] = asked != 0 ? 1 : 0;
    world_.all_reduce(host_, std::span<const double>(all), all, sum{}).wait(host_);
    scales_.reduce(host_, world_);
    double balance = 0, dropped = 0;
    for (extent_t l = 0; l < model_.layers; ++l) {
      const std::span<const double> counts = all.subspan(std::size_t(step_header + l * layer_.count), std::size_t(layer_.count));
      const auto copy_counts = [&](extent_t from, view<std::int64_t> to) {
        for (std::size_t e = 0; e < to.size(); ++e) to[e] = std::int64_t(counts[std::size_t(from) + e]);
      };
      copy_counts(0, load_.view().rows(l, 1));
      copy_counts(std::max<extent_t>(layer_.aux_load, 0), aux_load_.view().rows(l, 1));
      dropped += this->dropped(l);
      for (std::size_t i = 0; i < balance_kinds; ++i) balance += balance_sums(l)[i];
    }
    const double n = double(std::max<std::int64_t>(tokens, 1)),
                 pairs = double(std::max<std::int64_t>(routed, 1) * model_.top_k * std::max<extent_t>(model_.moe_layers(), 1));
    routed_ = routed;
    step_result result{at_.step,
                       all[1] / n,
                       std::sqrt(all[0]) / n,
                       rate_(at_.step),
                       tokens,
                       all[2] > 0 ? largest(asked) : 0,
                       balance / double(std::max<std::int64_t>(routed, 1)),
                       dropped / pairs};
    if (all[3] > 0) result.bad = find_bad(extent_t(all[3]));
    const bool finite = std::isfinite(result.loss) && std::isfinite(result.grad_norm);
    result.skip = options_.bad != bad_step::stop && (!finite || (result.bad && options_.bad == bad_step::skip));
    return result;
  }

  /// Updates the parameters with what compute() left, and gives them to all replicas: with overlap they arrive while the next forward runs. A step without
  /// tokens, or one to be skipped, changes nothing. Collective over the world.
  /// Throws, on every rank alike and before anything changes, if a gradient, the loss or the norm is not finite and nothing else was asked for.
  void apply(const step_result& result) {
    if constexpr (requires { world_.starting(false); }) world_.starting(false);  // from here on ranks that are late are slow
    if (options_.bad == bad_step::stop) {
      if (result.bad)
        require(
            false, "moefold: step ", result.step + 1, ": ", describe(*result.bad),
            "; parameters are those of the step before; look at this step's data, lower the learning rate, or choose to skip such steps");
      require(std::isfinite(result.loss) && std::isfinite(result.grad_norm), "moefold: step ", result.step + 1, " has a loss of ",
              result.loss, " and a gradient norm of ", result.grad_norm,
              ": the run has diverged; parameters are those of the step before; lower the learning rate or look at the data");
    }
    ++at_.step;
    at_.sample += options_.global_batch;
    if (result.tokens == 0 || result.skip) return;
    optimizer_.update(exec_, ++at_.updates, {result.learning_rate, result.learning_rate * options_.expert_rate},
                      clip_coefficient(result.grad_norm, options_.max_norm) / double(result.tokens));
    optimizer_.gather_begin(exec_);
    states_.update(load_.view(), aux_load_.view());
    scales_.roll();
  }

  /// Mean loss over held-out sequences: as many whole global batches as there are, at most `most_batches`; nothing if there is not one.
  /// Collective over the world. Leaves no trace in the recorded traffic.
  std::optional<double> evaluate(extent_t most_batches = 2) {
    const extent_t batches = std::min(most_batches, data_.held_out_sequences() / options_.global_batch);
    if (batches == 0) return std::nullopt;
    return evaluate_samples({0, batches * options_.global_batch, true}).loss;
  }
  /// Mean loss over every held-out sequence (of a dataset with share 1: over all of it); what does not fill a global batch is padded. Collective over the
  /// world. Leaves no trace in the recorded traffic.
  evaluation evaluate_all() { return evaluate_samples({0, data_.held_out_sequences(), true}); }

  /// The token that the model thinks likeliest after `text`, of which it sees the last S. Collective over the world; the same on every rank.
  std::int32_t next_token(std::span<const std::int32_t> text) {
    require<config_error>(!text.empty(), "moefold: nothing can be continued by a token; give at least one");
    for (const std::int32_t token : text)
      require<config_error>(token >= 0 && token < model_.vocabulary, "moefold: token ", token, " is not in the vocabulary of ",
                            model_.vocabulary);
    const batch_place& place = loader_.place();
    if (extent_t(text.size()) > place.part.sequence) text = text.last(std::size_t(place.part.sequence));
    const extent_t last = extent_t(text.size()) - 1, rows = place.part.local_tokens();
    const bool here = loader_.load_text(text, at_.step);
    std::int32_t best = -1;
    run_forward(1, [&](const auto& s) {
      if (!stage_.last(s.chunk)) return;
      std::vector<std::int32_t> ids(std::size_t(rows * place.batch));
      stage_.best_tokens(exec_, s, view<std::int32_t>(std::span(ids)));
      for (extent_t i = 0; here && i < rows; ++i)
        if (place.part.position(place.part.tp_rank * rows + i) == last) best = ids[std::size_t(i * place.batch)];
    });
    world_.all_reduce(host_, std::span<const std::int32_t>(&best, 1), std::span(&best, 1), max{}).wait(host_);
    return best;
  }

  /// Choices of every expert of every layer in the last step, over all tokens that are not padding, before dropping: [layers, E]. The same on every rank.
  view<const std::int64_t> load() const { return load_; }
  /// Pairs of a layer that were dropped in the last step, and their number over all tokens before dropping. The same on every rank.
  double dropped(extent_t layer) const {
    return layer_.dropped < 0 ? 0 : numbers_.last_read()[std::size_t(step_header + layer * layer_.count + layer_.dropped)];
  }
  std::int64_t pairs() const { return routed_ * model_.top_k; }
  /// Balance losses of a layer in the last step, by kind (balance_names): means over the tokens that are not padding. The same on every rank.
  balance_values balance(extent_t layer) const {
    balance_values mean = balance_sums(layer);
    for (double& l : mean) l /= double(std::max<std::int64_t>(routed_, 1));
    return mean;
  }
  /// Where the run stands. A trainer that goes on from a checkpoint is told so before its next step, alike on all ranks. Local.
  const run_position& position() const { return at_; }
  void go_to(const run_position& position) {
    require<config_error>(position.step >= 0 && position.updates >= 0 && position.sample >= 0 && position.updates <= position.step,
                          "moefold: a run cannot stand at step ", position.step, " with ", position.updates, " updates and ",
                          position.sample, " samples; take the numbers of a checkpoint");
    at_ = position;
  }
  /// After owned_state() was filled (train/state.hpp): weights become the masters' roundings, on every replica. Collective over the world.
  void weights_follow_masters() { optimizer_.follow_masters(exec_); }

  /// What the routers remember between steps: biases and shares.
  router_states<typename precision::accumulate, memory_type>& routers() { return states_; }
  /// What products with 8-bit inputs remember between steps: the largest magnitudes of their tensors.
  scaling_states<precision>& scales() { return scales_; }
  /// What this rank sent so far, by axis and operation.
  const traffic_log& traffic() const { return log_; }
  /// The parameters, when all of them have arrived; ask again after every step. Local.
  parameter_store<precision, memory_type>& parameters() {
    optimizer_.gather_end(exec_);
    return store_;
  }
  optimizer_type& optimizer() { return optimizer_; }
  communicator_type& world() { return world_; }
  group_set<communicator_type>& groups() { return groups_; }
  Exec exec() const { return exec_; }
  const folding_extents& fold() const { return fold_; }
  activation_shape activations() const {
    return {model_, fold_, loader_.place().part.sequence, options_.micro_batch, facts_, options_.recompute, Policies::context::facts};
  }
  extent_t micro_batches() const { return extent_t(loader_.batches().size()); }
  /// Most bytes one micro-batch has kept so far, head and loss by themselves, and most scratch this rank has used.
  std::size_t kept_peak() const { return runner_->peak(); }
  std::size_t head_peak() const { return runner_->head_peak(); }
  std::size_t recomputed_peak() const { return runner_->again_peak(); }
  std::size_t deferred_peak() const { return runner_->deferred_peak(); }
  std::size_t scratch_peak() const { return execs_.context.scratch.peak(); }
  /// Memory of this rank by category, the host's and its device's together, now and at most.
  const memory_ledger& memory() const { return ledger_; }

 private:
  /// Ranks begin unevenly: until the first step has ended, each call has the long deadline.
  static Comm beginning(Comm world) {
    if constexpr (requires { world.starting(true); }) world.starting(true);
    return world;
  }
  static constexpr bad_gradients looked_for(bad_step policy) {
    return policy == bad_step::zero ? bad_gradients::zero : bad_gradients::find;
  }

  /// Which micro-batch the runner is to feed.
  auto batch_of() {
    return [this](int m) { return &loader_.batches()[std::size_t(m)]; };
  }
  /// What the pipeline tells of its layers, the optimizer hears.
  stage_events events() {
    return {this,
            [](void* me, extent_t layer) {
              self(me).optimizer_.before_layer(self(me).exec_, layer);
              self(me).options_.observe.about_to_use(layer);
            },
            [](void* me, extent_t layer) {
              self(me).options_.observe.gradients_ready(layer);
              self(me).optimizer_.gradients_ready(self(me).exec_, layer);
            }};
  }
  static basic_trainer& self(void* me) { return *static_cast<basic_trainer*>(me); }

  /// Who has a gradient that is not finite, and in which parameter. Collective over the world; only in a step that has one.
  int largest(std::int32_t mine) {
    world_.all_reduce(host_, std::span<const std::int32_t>(&mine, 1), std::span(&mine, 1), max{}).wait(host_);
    return mine;
  }
  bad_report find_bad(extent_t elements) {
    std::array<double, 5> mine{};
    if (const auto& bad = optimizer_.first_bad()) {
      const parameter_fact& fact = store_.entries()[bad->entry].fact;
      mine = {double(bad->count), double(fact.kind), double(fact.layer), double(bad->index), bad->value};
    }
    std::vector<double> all(mine.size() * std::size_t(world_.size()));
    world_.all_gather(host_, std::span<const double>(mine), std::span(all)).wait(host_);
    bad_report report{0, "", 0, 0, elements, 0};
    for (std::size_t r = std::size_t(world_.size()); r-- > 0;) {
      const double* const theirs = all.data() + r * mine.size();
      if (theirs[0] == 0) continue;
      parameter_fact fact;
      fact.kind = parameter_kind(int(theirs[1])), fact.layer = extent_t(theirs[2]);
      report = {extent_t(r), fact.name(), extent_t(theirs[3]), theirs[4], elements, report.ranks + 1};
    }
    return report;
  }

  static folding_extents checked(const model_shape& model, extent_t sequence, const folding_extents& fold, const trainer_options& options,
                                 const dataset& data) {
    folding_extents own = fold;
    own.layers.chunks = schedule_of(options).chunks;
    check(model, sequence, own);
    check(options, own);
    data.require_batch(options.global_batch);
    data.require_vocabulary(model.vocabulary);
    return own;
  }
  static schedule_value schedule_of(const trainer_options& options) {
    return options.schedule != nullptr ? *options.schedule : value_of_schedule<typename Policies::schedule>;
  }

  static moe_facts with_own_dispatcher(moe_facts facts) {
    facts.dispatch = facts_of<typename Policies::moe>().dispatch;
    return facts;
  }

  balance_values balance_sums(extent_t layer) const {
    balance_values sums{};
    if (layer_.losses >= 0)
      std::copy_n(numbers_.last_read().data() + step_header + layer * layer_.count + layer_.losses, balance_kinds, sums.begin());
    return sums;
  }

  evaluation evaluate_samples(const sample_range& from) {
    const traffic_log before = log_;
    double sums[2] = {0, 0};
    for (sample_range batch = from; batch.first < from.end; batch.first += options_.global_batch) {
      sums[1] += double(loader_.load(batch, at_.step)[0]);
      sums[0] += run_forward(int(micro_batches()), [](const auto&) {});
    }
    if (!stage_.last(stage_.chunks() - 1)) sums[1] = 0;
    world_.all_reduce(host_, std::span<const double>(sums), std::span(sums), sum{}).wait(host_);
    log_ = before;
    return {sums[0] / std::max(sums[1], 1.0), std::int64_t(sums[1])};
  }
  /// Forwards of the first micro-batches; returns the loss summed over this rank's own tokens. Leaves recorded traffic to the caller.
  template <class Done>
  double run_forward(int micro_batches, Done&& done) {
    const int stages = int(fold_.attention.of(axis_id::pp)), stage = int(stage_of(fold_, world_.rank()));
    const std::vector<schedule_step> steps = forward_only::steps_over(stage_.chunks(), stage, stages, micro_batches);
    states_.publish(exec_);
    fill(exec_, held_out_.all(), 0.0);
    runner_->run(exec_, std::span<const schedule_step>(steps), static_cast<routing_tap*>(nullptr), batch_of(), done, events(),
                 held_out_.all());
    return held_out_.read(exec_)[0];
  }

  memory_ledger ledger_;
  std::optional<memory_scope> building_{std::in_place, ledger_};  // until everything is made
  model_shape model_;
  folding_extents fold_;
  trainer_options options_;
  moe_facts facts_;
  layer_numbers layer_;
  const dataset& data_;
  detail::rank_execs<Exec> execs_;
  Exec exec_ = execs_.own;
  host_exec host_ = execs_.host;
  traffic_log log_;
  communicator_type world_;
  group_set<communicator_type> groups_;
  parameter_store<precision, memory_type> store_;
  router_states<typename precision::accumulate, memory_type> states_;
  scaling_states<precision> scales_;
  stage_type stage_;
  optimizer_type optimizer_;
  rate_plan rate_;
  read_back<double, memory_type> numbers_;   // squared norm, loss, stop vote, bad gradients, what the layers counted [layers, count]
  read_back<double, memory_type> held_out_;  // the loss of an evaluation
  tensor<std::int64_t> load_, aux_load_;     // [layers, E]
  std::int64_t routed_ = 0;                  // tokens of the last step that are not padding
  batch_loader loader_;
  std::optional<runner<stage_type, communicator_type>> runner_;
  std::vector<schedule_step> steps_;
  run_position at_;
};

/// The trainer of a run: its types and numbers, on as many ranks as the world has; on a device in its device_precision. A run that breaks a rule does not
/// compile.
template <class Run, class Comm, class Exec = host_exec>
class trainer : public basic_trainer<policies_of<Run, Exec>, Comm, Exec> {
  static_assert(check_run<Run>::ok);

 public:
  trainer(Comm world, const trainer_options& options, const dataset& data, typename Run::optimizer optimizer = {})
      : trainer(folding_of<Run>(world.size()), world, options, data, optimizer) {}

 private:
  // Takes the communicator by reference, so that it is asked for its size before it is moved from.
  trainer(const folding_extents& fold, Comm& world, const trainer_options& options, const dataset& data,
          const typename Run::optimizer& optimizer)
      : basic_trainer<policies_of<Run, Exec>, Comm, Exec>(std::move(world), Run::model, Run::sequence, fold, with_choices_of_run(options),
                                                          data, optimizer) {}
  static trainer_options with_choices_of_run(trainer_options options) {
    if (Run::recompute.any()) options.recompute = Run::recompute;
    return options;
  }
};

}  // namespace moefold
