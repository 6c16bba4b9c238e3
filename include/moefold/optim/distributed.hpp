#pragma once
// The distributed optimizer (ZeRO-1), by placement alone: every flat buffer of the parameter store is summed over its own replica group, each
// replica updates an equal shard with its own share of the optimizer state, and the shards are gathered back.
//
//   gradients | shard 0 | shard 1 | .. |  -reduce-scatter-> own shard, in place -> norm, update -> values | shard 0 | shard 1 | .. |  <-all-gather-
//
//   with overlap, per buffer (bucket)     backward of layer 3 | 2 | 1 | 0          update          forward of layer 0 | 1 | 2 | 3
//                                             gradients_ready(3) -> reduce-scatter  gather_begin -> all-gather  <- before_layer(0)
#include <moefold/comm/groups.hpp>
#include <moefold/core/mutant.hpp>
#include <moefold/layers/parameter_store.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/pick.hpp>
#include <moefold/optim/adamw.hpp>
#include <moefold/optim/finite.hpp>
#include <moefold/tensor/read_back.hpp>

#include <array>
#include <optional>
#include <vector>

namespace moefold {

struct distributed_options {
  bool overlap = true;                        // where the communicator can (comm/communicator.hpp: overlapping); the same bits either way
  bad_gradients bad = bad_gradients::ignore;  // looked for in each rank's own gradients, before they are summed
};

/// Learning rates of the two kinds of parameters: experts (gate, up, down of an MoE layer) and all others.
struct learning_rates {
  double dense = 0, expert = 0;
  constexpr learning_rates(double both) : learning_rates(both, both) {}
  constexpr learning_rates(double dense_rate, double expert_rate) : dense(dense_rate), expert(expert_rate) {}
};

/// Where Precision::master differs from storage each shard keeps its master weights; update changes them, and the weights are their roundings.
/// Memory: where the parameters lie; every exec below works on it.
template <class Precision, class Comm, optimizer_policy Optimizer = adamw, class Memory = host_memory>
class distributed_optimizer {
 public:
  using storage = typename Precision::storage;
  using reduce_type = typename Precision::reduce;
  using master = typename Precision::master;
  using moments = typename Precision::moments;
  using store_type = parameter_store<Precision, Memory>;
  static constexpr bool own_master = !std::is_same_v<storage, master>;
  static constexpr int state_tensors = int(Optimizer::state_tensors);  // moments per weight

  /// The store and the groups must outlive the optimizer. Collective over every replica group, in the store's order: with overlap each gets a
  /// communicator apart, under its own name.
  template <works_on<Memory> Exec>
  distributed_optimizer(Exec e, store_type& store, group_set<Comm>& groups, Optimizer policy = {}, distributed_options options = {})
      : store_(store), policy_(policy), options_(options), squares_(extent_t(store.flats().size())),
        found_(2 * extent_t(store.flats().size())), value_(extent_t(store.flats().size())) {
    std::vector<axis_set> sets;
    const auto communicator_over = [&](axis_set replicas) {
      Comm* comm = &groups[replicas];
      if constexpr (overlapping<Comm>) {
        if (!options.overlap || comm->size() == 1) return comm;
        beside_ = true;
        std::size_t at = 0;
        while (at < sets.size() && !(sets[at] == replicas)) ++at;
        if (at == sets.size()) {
          sets.push_back(replicas);
          apart_.push_back(comm->apart(comm->label()));
        }
        return &apart_[at];
      }
      return comm;
    };
    apart_.reserve(group_set<Comm>::sets.size());
    for (auto& flat : store.flats()) {
      Comm& replicas = *communicator_over(flat.fact.placement.replicas());
      shards_.push_back({&replicas, replicas.rank() * flat.fact.shard()});
      shard& s = shards_.back();
      const memory_scope scope(memory_category::optimizer);
      for (auto& state : s.state) state = filled<moments, Memory>(e, {flat.fact.shard()}, moments(0));
      if constexpr (own_master) s.masters = filled<master, Memory>(e, {flat.fact.shard()}, master(0));
    }
    // The part of each parameter that lies in this rank's shard; neighbours of one group are one range.
    for (const auto& entry : store.entries()) {
      shard& s = shards_[std::size_t(entry.buffer)];
      if (!s.find(entry.layer)) s.layers.push_back({entry.layer});
      const extent_t size = store.flats()[std::size_t(entry.buffer)].fact.shard();
      const extent_t begin = std::clamp<extent_t>(entry.offset - s.first, 0, size);
      const extent_t end = std::clamp<extent_t>(entry.offset + extent_t(entry.value.size()) - s.first, 0, size);
      if (begin == end) continue;
      const bool expert = of_expert(entry.fact.kind);
      if (!s.ranges.empty() && s.ranges.back().end == begin && s.ranges.back().decay == entry.fact.decay &&
          s.ranges.back().expert == expert)
        s.ranges.back().end = end;
      else
        s.ranges.push_back({begin, end, entry.fact.decay, expert});
    }
    for (shard& s : shards_) s.missing = s.layers.size();
    // A tied embedding is summed last: its other stage comes to it when its own backward ends, and on a single stage the head adds to it too.
    const auto holds = [&](parameter_kind kind) {
      return std::any_of(store.entries().begin(), store.entries().end(), [=](const auto& entry) { return entry.fact.kind == kind; });
    };
    const bool tied_here = holds(parameter_kind::final_norm) && !holds(parameter_kind::head);
    for (const auto& entry : store.entries())
      if (entry.fact.kind == parameter_kind::embedding && (tied_here || entry.fact.placement.ends))
        shards_[std::size_t(entry.buffer)].late = true;
  }
  distributed_optimizer(store_type& store, group_set<Comm>& groups, Optimizer policy = {},
                        distributed_options options = {}) requires std::same_as<Memory, host_memory>
      : distributed_optimizer(no_exec{}, store, groups, policy, options) {}

  /// The gradients of a layer (-1: embedding; the number of layers: final norm and head) are final on this rank: buffers that were waiting for
  /// it alone start on their way, but for what another stage sums too (a tied embedding): its peers come to it when their own backward ends, and whatever
  /// this rank issued behind it would wait, so it starts in reduce. Once per layer and step, in the same order on every replica; layers that are left out start in reduce.
  /// Collective over replica groups, returns at once with overlap; without, it does nothing.
  template <class Exec>
  void gradients_ready(Exec e, extent_t layer) {
    if (!beside_) return;
    for (std::size_t b = shards_.size(); b-- > 0;) {
      shard& s = shards_[b];
      part_of_layer* const part = s.find(layer);
      if (part == nullptr) continue;
      require(!std::exchange(part->ready, true) && !s.reducing, "moefold: gradients_ready came twice for layer ", layer,
              " in one step; call it once per layer, when its last micro-batch has gone backward");
      if (--s.missing == 0 && !s.late) start_reduction(e, b);
    }
  }

  /// Sums every gradient over its replicas; afterwards each reduced element lies on exactly one rank, in own_gradients().
  /// Returns the sum of squares of this rank's own: on a device the host waits for it here, and for what was found not to be finite. Collective over
  /// every replica group, in the store's order.
  template <class Exec>
  double reduce(Exec e) {
    const auto in_order = [&](auto&& body) {  // of issue: from the last buffer, where backward begins
      for (std::size_t i = 0; i < shards_.size(); ++i) body(beside_ ? shards_.size() - 1 - i : i);
    };
    in_order([&](std::size_t b) {
      if (!shards_[b].reducing) start_reduction(e, b);
    });
    in_order([&](std::size_t b) {
      shard& s = shards_[b];
      s.ticket.wait(e);
      s.reducing = false;
      s.missing = s.layers.size();
      for (part_of_layer& part : s.layers) part.ready = false;
      const std::span<reduce_type> summed = own_gradients(b);
      if (mutated(mutant::expert_gradients_by_edp) && store_.flats()[b].fact.placement.on == family::moe)
        for (reduce_type& g : summed) g /= reduce_type(s.replicas->size());
      const auto counted = mutated(mutant::norm_counts_replicas) ? store_.flats()[b].gradients.view().span() : summed;
      sum_of_squares(e, view<const reduce_type>(counted), squares_.at(extent_t(b), 1));
    });
    double squares = 0;  // in the store's order, whichever came first
    for (const double s : squares_.read(e)) squares += s;
    last_bad_ = options_.bad == bad_gradients::ignore ? std::nullopt : found(e);
    return squares;
  }

  /// What the last reduce (and the gradients_ready before it) found in this rank's own gradients, before they were summed. Local.
  const std::optional<bad_gradient>& first_bad() const { return last_bad_; }

  /// Updates this rank's shards with their reduced gradients times gradient_scale. Local. `step` counts from 1.
  template <class Exec>
  void update(Exec e, std::int64_t step, learning_rates rates, double gradient_scale) {
    gather_end(e);
    require_masters(e);
    for (std::size_t b = 0; b < shards_.size(); ++b) {
      shard& s = shards_[b];
      const auto part = [](auto all, const range& r) { return all.subspan(std::size_t(r.begin), std::size_t(r.end - r.begin)); };
      for (const range& r : s.ranges) {
        std::array<std::span<moments>, Optimizer::state_tensors> state;
        for (std::size_t i = 0; i < state.size(); ++i) state[i] = part(s.state[i].view().span(), r);
        policy_.update(e, step, r.expert ? rates.expert : rates.dense, gradient_scale, r.decay, part(own_masters(b), r),
                       std::span<const reduce_type>(part(own_gradients(b), r)), state, part(own_values(b), r));
      }
    }
  }

  /// Makes the master weights those of the store; the first update does it by itself. Call it again when weights were given from outside. Local.
  template <class Exec>
  void initialise_master(Exec e) {
    if constexpr (own_master)
      for (std::size_t b = 0; b < shards_.size(); ++b) cast(e, view<storage>(own_values(b)), view<master>(own_masters(b)));
    have_master_ = true;
  }

  /// Makes the master weights those of the store unless they have been made before. Local.
  template <class Exec>
  void require_masters(Exec e) {
    if (!have_master_) initialise_master(e);
  }
  /// The master weights were given from outside: weights become their roundings, on every replica. Collective over every replica group.
  template <class Exec>
  void follow_masters(Exec e) {
    gather_end(e);
    if constexpr (own_master)
      for (std::size_t b = 0; b < shards_.size(); ++b) cast(e, view<master>(own_masters(b)), view<storage>(own_values(b)));
    have_master_ = true;
    gather(e);
  }

  /// Gives every replica the updated shards of the others. Collective over every replica group, in the store's order.
  template <class Exec>
  void gather(Exec e) {
    gather_begin(e);
    gather_end(e);
  }
  /// The same in two halves: begin returns at once with overlap, and from then on the values of a layer are there after before_layer. Buffers
  /// come in the store's order, which is that of their use.
  template <class Exec>
  void gather_begin(Exec e) {
    if (mutated(mutant::stale_replicas)) return;
    for (std::size_t b = 0; b < shards_.size(); ++b)
      if (shards_[b].replicas->size() > 1) {
        shards_[b].ticket =
            shards_[b].replicas->all_gather(e, std::span<const storage>(own_values(b)), store_.flats()[b].values.view().span());
        shards_[b].gathering = true;
      }
  }
  /// Waits until this rank has the values of a layer (numbered as in gradients_ready). Local; free where nothing is on its way.
  template <class Exec>
  void before_layer(Exec e, extent_t layer) {
    for (shard& s : shards_)
      if (s.gathering && s.find(layer)) arrive(e, s);
  }
  template <class Exec>
  void gather_end(Exec e) {
    for (shard& s : shards_)
      if (s.gathering) arrive(e, s);
  }

  std::span<reduce_type> own_gradients(std::size_t buffer) { return own(store_.flats()[buffer].gradients.view().span(), buffer); }
  std::span<storage> own_values(std::size_t buffer) { return own(store_.flats()[buffer].values.view().span(), buffer); }
  /// The weights that update changes: the values themselves where master and storage are one type.
  std::span<master> own_masters(std::size_t buffer) {
    if constexpr (own_master)
      return shards_[buffer].masters.view().span();
    else
      return own_values(buffer);
  }
  /// Number i of what the policy keeps per weight, of this rank's shard.
  std::span<moments> own_state(std::size_t buffer, std::size_t i) { return shards_[buffer].state[i].view().span(); }
  std::size_t bytes() const {
    std::size_t total = 0;
    for (const shard& s : shards_) {
      for (const auto& state : s.state) total += state.view().bytes();
      if constexpr (own_master) total += s.masters.view().bytes();
    }
    return total;
  }
  /// Whether reductions and gathers go on beside the caller.
  bool overlaps() const { return beside_; }

 private:
  struct range {
    extent_t begin, end;  // within the shard
    bool decay, expert;
  };
  struct part_of_layer {
    extent_t layer;
    bool ready = false;  // its gradients are final in this step
  };
  struct no_master {};
  struct shard {
    Comm* replicas;
    extent_t first;  // of the shard, in its flat buffer
    std::array<tensor<moments, Memory>, Optimizer::state_tensors> state{};
    std::conditional_t<own_master, tensor<master, Memory>, no_master> masters{};
    std::vector<range> ranges{};
    std::vector<part_of_layer> layers{};  // whose parameters lie in it
    std::size_t missing = 0;              // those that are not ready
    bool reducing = false, gathering = false;
    bool late = false;  // starts in reduce, whatever is ready
    typename Comm::ticket ticket{};

    part_of_layer* find(extent_t layer) {
      const auto at = std::find_if(layers.begin(), layers.end(), [&](const part_of_layer& p) { return p.layer == layer; });
      return at == layers.end() ? nullptr : &*at;
    }
  };

  template <class Exec>
  void start_reduction(Exec e, std::size_t b) {
    shard& s = shards_[b];
    const std::span<reduce_type> all = store_.flats()[b].gradients.view().span();
    if (options_.bad != bad_gradients::ignore) look(e, b, all);
    s.reducing = true;
    s.ticket = {};
    if (s.replicas->size() > 1) s.ticket = s.replicas->reduce_scatter(e, std::span<const reduce_type>(all), own_gradients(b), sum{});
    if (!beside_) s.ticket.wait(e);
  }
  template <class Exec>
  void arrive(Exec e, shard& s) {
    s.ticket.wait(e);
    s.gathering = false;
  }

  /// Finds what is not finite among a buffer's gradients, which are still this rank's own.
  template <class Exec>
  void look(Exec e, std::size_t b, std::span<reduce_type> all) {
    const view<std::int64_t> where = found_.at(2 * extent_t(b), 2);
    find_bad(e, view<const reduce_type>(all), where);
    if constexpr (std::same_as<Memory, host_memory>)
      if (where[1] == 0) return;
    pick(e, view<const reduce_type>(all), where.rows(0, 1), value_.at(extent_t(b), 1));
    if (options_.bad == bad_gradients::zero) zero_bad(e, all);
  }
  /// What look() found in all buffers of the step.
  template <class Exec>
  std::optional<bad_gradient> found(Exec e) {
    const std::span<const std::int64_t> where = found_.read(e);
    std::optional<bad_gradient> bad;
    extent_t count = 0;
    for (std::size_t b = 0; b < shards_.size(); ++b) {
      if (where[2 * b + 1] == 0) continue;
      const extent_t at = where[2 * b];
      count += where[2 * b + 1];
      std::size_t index = 0;
      while (std::size_t(store_.entries()[index].buffer) != b ||
             store_.entries()[index].offset + extent_t(store_.entries()[index].value.size()) <= at)
        ++index;
      if (bad && index > bad->entry) continue;
      const auto& entry = store_.entries()[index];
      bad = {index, entry.fact.name(), at - entry.offset, 0, 0};
      bad->value = value_.read(e)[b];
    }
    if (bad) bad->count = count;
    return bad;
  }

  template <class T>
  std::span<T> own(std::span<T> all, std::size_t buffer) const {
    return all.subspan(std::size_t(shards_[buffer].first), std::size_t(store_.flats()[buffer].fact.shard()));
  }

  store_type& store_;
  Optimizer policy_;
  distributed_options options_;
  std::vector<shard> shards_;
  read_back<double, Memory> squares_;      // [buffers] of this rank's own reduced gradients
  read_back<std::int64_t, Memory> found_;  // [buffers, 2] what find_bad says of each
  read_back<double, Memory> value_;        // [buffers] the first bad one
  std::optional<bad_gradient> last_bad_;   // of the last step
  bool beside_ = false, have_master_ = false;
  std::vector<Comm> apart_;  // last: when it goes, nothing is in flight any more
};

}  // namespace moefold
