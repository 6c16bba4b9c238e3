#pragma once
// The distributed optimizer (ZeRO-1), by placement alone: every flat buffer of the parameter store is summed over its own replica group, each
// replica updates an equal shard with its own share of the optimizer state, and the shards are gathered back.
//
//   gradients | shard 0 | shard 1 | .. |  -reduce-scatter-> own shard, in place -> norm, update -> values | shard 0 | shard 1 | .. |  <-all-gather-
#include <moefold/comm/groups.hpp>
#include <moefold/layers/parameter_store.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/optim/adamw.hpp>

#include <array>
#include <vector>

namespace moefold {

template <class Precision, class Comm, optimizer_policy Optimizer = adamw>
class distributed_optimizer {
 public:
  using storage = typename Precision::storage;
  using reduce_type = typename Precision::reduce;
  using moments = typename Precision::moments;
  static_assert(std::is_same_v<storage, typename Precision::master>, "moefold: weights are their own master copy; use fp32 or fp64");

  /// Local. The store and the groups must outlive the optimizer.
  distributed_optimizer(parameter_store<Precision>& store, group_set<Comm>& groups, Optimizer policy = {})
      : store_(store), policy_(policy) {
    for (auto& flat : store.flats()) {
      Comm& replicas = groups[flat.fact.placement.replicas()];
      shards_.push_back({&replicas, replicas.rank() * flat.fact.shard(), {}, {}});
      const memory_scope scope(memory_category::optimizer);
      for (auto& state : shards_.back().state) state = tensor<moments>({flat.fact.shard()}, moments(0));
    }
    // The part of each parameter that lies in this rank's shard; neighbours that decay alike are one range.
    for (const auto& entry : store.entries()) {
      shard& s = shards_[std::size_t(entry.buffer)];
      const extent_t size = store.flats()[std::size_t(entry.buffer)].fact.shard();
      const extent_t begin = std::clamp<extent_t>(entry.offset - s.first, 0, size);
      const extent_t end = std::clamp<extent_t>(entry.offset + extent_t(entry.value.size()) - s.first, 0, size);
      if (begin == end) continue;
      if (!s.ranges.empty() && s.ranges.back().end == begin && s.ranges.back().decay == entry.fact.decay)
        s.ranges.back().end = end;
      else
        s.ranges.push_back({begin, end, entry.fact.decay});
    }
  }

  /// Sums every gradient over its replicas; afterwards each reduced element lies on exactly one rank, in own_gradients().
  /// Returns the sum of squares of this rank's own. Collective over every replica group, in the store's order.
  template <class Exec>
  double reduce(Exec e) {
    double squares = 0;
    for (std::size_t b = 0; b < shards_.size(); ++b) {
      Comm& replicas = *shards_[b].replicas;
      const std::span<reduce_type> all = store_.flats()[b].gradients.view().span(), own = own_gradients(b);
      if (replicas.size() > 1) replicas.reduce_scatter(e, std::span<const reduce_type>(all), own, sum{}).wait(e);
      squares += sum_of_squares(e, std::span<const reduce_type>(own));
    }
    return squares;
  }

  /// Updates this rank's shards with their reduced gradients times gradient_scale. Local. `step` counts from 1.
  template <class Exec>
  void update(Exec e, std::int64_t step, double rate, double gradient_scale) {
    for (std::size_t b = 0; b < shards_.size(); ++b) {
      shard& s = shards_[b];
      const auto part = [&](auto all, const range& r) { return all.subspan(std::size_t(r.begin), std::size_t(r.end - r.begin)); };
      for (const range& r : s.ranges) {
        const std::span<storage> weights = part(own_values(b), r);
        std::array<std::span<moments>, Optimizer::state_tensors> state;
        for (std::size_t i = 0; i < state.size(); ++i) state[i] = part(s.state[i].view().span(), r);
        policy_.update(e, step, rate, gradient_scale, r.decay, weights, std::span<const reduce_type>(part(own_gradients(b), r)), state,
                       weights);
      }
    }
  }

  /// Gives every replica the updated shards of the others. Collective over every replica group, in the store's order.
  template <class Exec>
  void gather(Exec e) {
    for (std::size_t b = 0; b < shards_.size(); ++b)
      if (shards_[b].replicas->size() > 1)
        shards_[b].replicas->all_gather(e, std::span<const storage>(own_values(b)), store_.flats()[b].values.view().span()).wait(e);
  }

  std::span<reduce_type> own_gradients(std::size_t buffer) { return own(store_.flats()[buffer].gradients.view().span(), buffer); }
  std::span<storage> own_values(std::size_t buffer) { return own(store_.flats()[buffer].values.view().span(), buffer); }
  std::size_t bytes() const {
    std::size_t total = 0;
    for (const shard& s : shards_)
      for (const auto& state : s.state) total += state.view().bytes();
    return total;
  }

 private:
  struct range {
    extent_t begin, end;  // within the shard
    bool decay;
  };
  struct shard {
    Comm* replicas;
    extent_t first;  // of the shard, in its flat buffer
    std::array<tensor<moments>, Optimizer::state_tensors> state;
    std::vector<range> ranges;
  };
  template <class T>
  std::span<T> own(std::span<T> all, std::size_t buffer) const {
    return all.subspan(std::size_t(shards_[buffer].first), std::size_t(store_.flats()[buffer].fact.shard()));
  }

  parameter_store<Precision>& store_;
  Optimizer policy_;
  std::vector<shard> shards_;
};

}  // namespace moefold
