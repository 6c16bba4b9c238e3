#pragma once
// The trainer of one rank: it owns the rank's parameters, pipeline stage and optimizer state, and makes one training step out of them.
//
//   load tokens -> count them (all_reduce) -> schedule of forwards and backwards -> reduce gradients -> norm, loss, load (all_reduce) -> update -> gather
// Every rank of the world constructs it and calls its members together. After the first step a step allocates nothing.
#include <moefold/comm/recording.hpp>
#include <moefold/inventory/traffic.hpp>
#include <moefold/model/transformer.hpp>
#include <moefold/optim/clip.hpp>
#include <moefold/optim/distributed.hpp>
#include <moefold/pipeline/runner.hpp>
#include <moefold/schedule/check.hpp>
#include <moefold/schedule/forward_only.hpp>
#include <moefold/train/data.hpp>
#include <moefold/train/options.hpp>
#include <moefold/train/run.hpp>

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
      : model_(model), fold_(checked(model, sequence, fold, options, data)), options_(options), facts_(with_own_dispatcher(facts)),
        layer_(activation_shape{model, fold_, sequence, options.micro_batch, facts_}), data_(data), execs_(options.device),
        world_(std::move(world), log_), groups_(world_, fold_), store_(exec_, model, fold_, world_.rank(), options.bucket),
        states_(model, facts.balance, options.global_batch / (fold.attention.of(axis_id::dp) * options.micro_batch)), scales_(model),
        stage_(exec_, model, sequence, fold_, world_.rank(), store_, groups_, &states_, facts_, options.recompute, options.overlap,
               &scales_),
        optimizer_(exec_, store_, groups_, optimizer, {options.overlap, looked_for(options.bad)}), rate_(rate_of(options)),
        numbers_(step_numbers({model, fold_, sequence, options.micro_batch, facts_})), held_out_(1),
        load_({model.layers, model.experts}, 0), aux_load_({model.layers, model.experts}, 0), tokens_(std::size_t(sequence)),
        labels_(std::size_t(sequence)), starts_(std::size_t(sequence)),
        positions_(context_positions(sequence, fold.attention.of(axis_id::cp))) {
    const coordinate here = coordinate_of(fold.attention, world_.rank());
    const int stages = int(fold.attention.of(axis_id::pp)), stage = int(here[axis_id::pp]);
    part_ = {options.global_batch, options.micro_batch, fold.attention.of(axis_id::dp), here[axis_id::dp]};
    place_ = {0,
              0,
              options.micro_batch,
              {sequence, fold.attention.of(axis_id::cp), here[axis_id::cp], fold.attention.of(axis_id::tp), here[axis_id::tp]}};
    batches_.resize(std::size_t(part_.micro_batches()));
    const schedule_value schedule = schedule_of(options);
    require<config_error>(schedule.trains, "moefold: a trainer needs a schedule that trains; ", schedule.name, " has no backward");
    check_schedule(schedule, stages, int(batches_.size()));
    steps_ = schedule.steps(stage, stages, int(batches_.size()));
    const activation_shape a = activations();
    {
      const memory_scope scope(memory_category::scratch);
      execs_.context.scratch.reserve(std::size_t(scratch_bound<precision>(a)));
    }
    runner_.emplace(stage_, groups_.template over<tag::pp>(), groups_.stages_for_gradients(), a.rows(), model.hidden,
                    std::max(schedule.live(stage, stages, int(batches_.size())), schedule.chunks > 1 ? 2 : 1),
                    std::size_t(kept_by_micro_batch<precision>(a, stage, a.worst_rows())));
    if (std::any_of(steps_.begin(), steps_.end(), [](const schedule_step& s) { return s.kind == step_kind::backward_weight; })) {
      extent_t most = 0;
      for (extent_t c = 0; c < fold_.layers.chunks; ++c) most = std::max(most, deferred_by_chunk<precision>(a, stage, c, a.worst_rows()));
      runner_->reserve_deferred(std::size_t(most));
    }
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
    token_counts counted = load_tokens();
    groups_.template over<tag::tp, tag::cp, tag::dp>()
        .all_reduce(host_, std::span<const std::int64_t>(counted), std::span(counted), sum{})
        .wait(host_);
    const auto [tokens, routed] = counted;
    for (micro_batch& batch : batches_) batch.loss_weight = routed > 0 ? double(tokens) / double(routed) : 0;
    const view<double> by_layer = numbers_.at(step_header, model_.layers * layer_.count).as({model_.layers, layer_.count});
    runner_->run(
        exec_, std::span<const schedule_step>(steps_), options_.tap, [this](int m) { return &batches_[std::size_t(m)]; },
        [&](const auto& s) { stage_.add_numbers(exec_, s, by_layer); }, events(), numbers_.at(1, 1));

    const double squares = optimizer_.reduce(exec_);
    const std::span<double> all = numbers_.read(exec_);
    all[0] = squares;
    all[3] = optimizer_.first_bad() ? double(optimizer_.first_bad()->count) : 0;
    all[2] = options_.stop && options_.stop->load(std::memory_order_relaxed) ? 1 : 0;
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
    step_result result{step_,
                       all[1] / n,
                       std::sqrt(all[0]) / n,
                       rate_(step_),
                       tokens,
                       all[2] > 0,
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
    if (options_.bad == bad_step::stop) {
      if (result.bad)
        require(
            false, "moefold: step ", result.step + 1, ": ", describe(*result.bad),
            "; parameters are those of the step before; look at this step's data, lower the learning rate, or choose to skip such steps");
      require(std::isfinite(result.loss) && std::isfinite(result.grad_norm), "moefold: step ", result.step + 1, " has a loss of ",
              result.loss, " and a gradient norm of ", result.grad_norm,
              ": the run has diverged; parameters are those of the step before; lower the learning rate or look at the data");
    }
    ++step_;
    if (result.tokens == 0 || result.skip) return;
    optimizer_.update(exec_, ++updates_, {result.learning_rate, result.learning_rate * options_.expert_rate},
                      clip_coefficient(result.grad_norm, options_.max_norm) / double(result.tokens));
    optimizer_.gather_begin(exec_);
    states_.update(load_.view(), aux_load_.view());
    scales_.roll();
  }

  /// Mean loss over held-out sequences: as many whole global batches as there are, at most `most_batches`; nothing if there is not one.
  /// Collective over the world. Leaves no trace in the recorded traffic.
  std::optional<double> evaluate(extent_t most_batches = 2) {
    const extent_t batches = std::min(most_batches, data_.evaluation_batches(options_.global_batch));
    if (batches == 0) return std::nullopt;
    const traffic_log before = log_;
    states_.publish(exec_);
    const int stages = int(fold_.attention.of(axis_id::pp)), stage = int(stage_of(fold_, world_.rank()));
    const std::vector<schedule_step> steps = forward_only::steps_over(stage_.chunks(), stage, stages, int(batches_.size()));
    double sums[2] = {0, 0};
    for (extent_t b = 0; b < batches; ++b) {
      sums[1] += double(load_tokens(b)[0]);
      fill(exec_, held_out_.all(), 0.0);
      runner_->run(
          exec_, std::span<const schedule_step>(steps), static_cast<routing_tap*>(nullptr),
          [this](int m) { return &batches_[std::size_t(m)]; }, [](const auto&) {}, events(), held_out_.all());
      sums[0] += held_out_.read(exec_)[0];
    }
    if (!stage_.last(stage_.chunks() - 1)) sums[1] = 0;
    world_.all_reduce(host_, std::span<const double>(sums), std::span(sums), sum{}).wait(host_);
    log_ = before;
    return sums[0] / std::max(sums[1], 1.0);
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
    return {model_, fold_, place_.part.sequence, options_.micro_batch, facts_, options_.recompute, Policies::context::facts};
  }
  extent_t micro_batches() const { return extent_t(batches_.size()); }
  /// Most bytes one micro-batch has kept so far, and most scratch this rank has used.
  std::size_t kept_peak() const { return runner_->peak(); }
  std::size_t recomputed_peak() const { return runner_->again_peak(); }
  std::size_t deferred_peak() const { return runner_->deferred_peak(); }
  std::size_t scratch_peak() const { return execs_.context.scratch.peak(); }
  /// Memory of this rank by category, the host's and its device's together, now and at most.
  const memory_ledger& memory() const { return ledger_; }

 private:
  static constexpr bad_gradients looked_for(bad_step policy) {
    return policy == bad_step::zero ? bad_gradients::zero : bad_gradients::find;
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

  using token_counts = std::array<std::int64_t, 2>;  // that count in the loss; that are not padding

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

  /// Fills batches_ with this rank's tokens of the current step (or of held-out batch `evaluation`); returns how many of its own count in the loss,
  /// and how many are not padding. A token below 0 is padding; its label is ignored.
  token_counts load_tokens(std::optional<extent_t> evaluation = {}) {
    const extent_t part = place_.part.cp_tokens(), batch = options_.micro_batch;
    token_counts counted{};
    for (std::size_t m = 0; m < batches_.size(); ++m) {
      micro_batch& to = batches_[m];
      to.place = place_;
      to.place.step = step_;
      to.place.first_sample = part_.sample(0, extent_t(m), 0);
      to.ids.resize(std::size_t(part * batch));
      to.labels.resize(std::size_t(part * batch));
      to.padding.assign(std::size_t(part * batch), 0);
      to.first.resize(data_.has_documents() ? positions_.size() * std::size_t(batch) : 0);
      const std::span<std::int32_t> starts = to.first.empty() ? std::span<std::int32_t>() : std::span(starts_);
      to.index = extent_t(m);
      to.seed = options_.seed;
      to.training = !evaluation;
      for (extent_t b = 0; b < batch; ++b) {
        const extent_t sample = to.place.first_sample + b;
        if (evaluation)
          data_.evaluation_sample(*evaluation * options_.global_batch + sample, tokens_, labels_, starts);
        else
          data_.training_sample(part_.sample(step_, extent_t(m), b), tokens_, labels_, starts);
        if (!to.first.empty()) {
          for (std::size_t i = 0; i < positions_.size(); ++i)
            to.first[i * std::size_t(batch) + std::size_t(b)] = starts_[std::size_t(positions_[i])];
        }
        for (extent_t i = 0; i < part; ++i) {
          const std::size_t position = std::size_t(place_.part.position(i));
          const std::size_t at = std::size_t(i * batch + b);
          const bool padding = tokens_[position] < 0;
          to.padding[at] = padding;
          to.ids[at] = padding ? 0 : tokens_[position];
          to.labels[at] = padding ? -1 : labels_[position];
        }
      }
      const extent_t own = place_.part.local_tokens() * batch, first = place_.part.tp_rank * own;
      counted[0] +=
          std::count_if(to.labels.begin() + first, to.labels.begin() + first + own, [](std::int32_t label) { return label >= 0; });
      counted[1] += std::count(to.padding.begin() + first, to.padding.begin() + first + own, 0);
    }
    return counted;
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
  std::vector<std::int32_t> tokens_, labels_, starts_;  // [S], by position
  std::vector<std::int32_t> positions_;                 // [S], rank after rank of cp
  std::optional<runner<stage_type, communicator_type>> runner_;
  std::vector<schedule_step> steps_;
  std::vector<micro_batch> batches_;
  batch_place place_{};
  batch_part part_{};
  std::int64_t step_ = 0, updates_ = 0;
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
