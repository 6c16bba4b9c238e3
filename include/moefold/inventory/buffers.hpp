#pragma once
// How the parameters of a stage lie in flat buffers, and what that takes: listed in storage order for the store that holds them, or only counted.
//
//   embedding | layer 0 | layer 1 | layer 2 | ... | head          of those with the same replicas
//   [ buffer of at least `bucket` elements ][ buffer ]...         whole layers; the last one may stay smaller
#include <moefold/inventory/parameters.hpp>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace moefold {

/// Elements from which a buffer takes no further layer: large enough for whole messages, small enough that reduction starts early in backward.
inline constexpr extent_t default_bucket = extent_t{1} << 20;

/// Elements of the shard that each of `replicas` ranks owns of a buffer; what fills up the last one stays 0.
constexpr extent_t shard_of(extent_t elements, extent_t replicas) { return (elements + replicas - 1) / replicas; }

/// Parameters with the same replicas, of consecutive layers, lie in one flat buffer: a bucket, reduced by one reduce-scatter, updated in equal
/// shards, gathered by one all-gather.
struct parameter_buffer {
  placement_value placement{};       // of its first parameter: mesh and replica axes are the same for all
  extent_t replicas = 1;             // ranks over which gradients are summed and optimizer state is sharded
  extent_t elements = 0;             // per rank
  extent_t lowest = 0, highest = 0;  // layer_of its parameters
  extent_t last = 0;                 // of the one that was added last
  constexpr extent_t shard() const { return shard_of(elements, replicas); }
  constexpr extent_t padded() const { return shard() * replicas; }
};

struct parameter_buffers {
  extent_t bucket = default_bucket;  // elements per rank; 0: one buffer per set of replicas
  std::vector<parameter_buffer> buffer{};
  int count = 0;

  /// Adds the next parameter in storage order; returns the index of its buffer: the last one of its replicas, or a new one where that is full
  /// and another layer begins.
  constexpr int add(const parameter_fact& p, const folding_extents& fold, extent_t layers) {
    const extent_t layer = layer_of(p, layers);
    int at = count - 1;
    while (at >= 0 && !(buffer[std::size_t(at)].placement.replicas() == p.placement.replicas())) --at;
    if (at < 0 || (bucket > 0 && buffer[std::size_t(at)].elements >= bucket && buffer[std::size_t(at)].last != layer)) {
      buffer.push_back({p.placement, p.placement.replicas_in(fold), 0, layer, layer, layer});
      at = count++;
    }
    parameter_buffer& b = buffer[std::size_t(at)];
    b.elements += local_elements(p, fold);
    b.lowest = std::min(b.lowest, layer), b.highest = std::max(b.highest, layer), b.last = layer;
    return at;
  }
};

constexpr parameter_buffers buffers_of(const model_shape& m, const folding_extents& fold, extent_t stage,
                                       extent_t bucket = default_bucket) {
  parameter_buffers buffers{bucket};
  for_each_parameter(m, fold, stage, [&](const parameter_fact& p) { buffers.add(p, fold, m.layers); });
  return buffers;
}

/// Some of a stage's buffers that are alike.
struct equal_buffers {
  placement_value placement{};
  extent_t replicas = 1, elements = 0;  // as in parameter_buffer
  extent_t times = 1;                   // so many of them
  constexpr extent_t shard() const { return shard_of(elements, replicas); }
  constexpr extent_t padded() const { return shard() * replicas; }
};

namespace detail {

/// Fills the buffers of one set of replicas with layers, as parameter_buffers::add does, many equal layers at a time.
template <class F>
class buffer_filler {
 public:
  constexpr buffer_filler(const placement_value& placement, extent_t replicas, extent_t bucket, F& f)
      : open_{placement, replicas}, bucket_(bucket), f_(f) {}

  constexpr void add(extent_t layers, extent_t each) {
    if (layers == 0 || each == 0) return;
    if (bucket_ <= 0) {
      open_.elements += layers * each;
      return;
    }
    if (open_.elements > 0 && open_.elements < bucket_) {  // the open one takes layers until it is full
      const extent_t some = std::min(layers, shard_of(bucket_ - open_.elements, each));
      open_.elements += some * each;
      layers -= some;
    }
    if (layers == 0) return;
    close();
    const extent_t whole = shard_of(bucket_, each);  // layers that fill one
    open_.elements = whole * each, open_.times = layers / whole;
    if (open_.times > 0) f_(std::as_const(open_));
    open_.elements = layers % whole * each, open_.times = 1;
  }
  constexpr void close() {
    if (open_.elements > 0) f_(std::as_const(open_));
    open_.elements = 0;
  }

 private:
  equal_buffers open_;
  extent_t bucket_;
  F& f_;
};

}  // namespace detail

/// f(equal_buffers) for the buffers of one stage, those of one set of replicas after another: what buffers_of lists, counted. Layers of a kind are alike, so
/// it looks at one of each and makes no list.
template <class F>
constexpr void for_each_buffer(const model_shape& m, const folding_extents& fold, extent_t stage, extent_t bucket, F&& f) {
  struct share {  // what one set of replicas has of it, in elements
    placement_value placement{};
    axis_set replicas{};
    extent_t before = 0, dense = 0, moe = 0, behind = 0;  // layers: of one of them
  };
  std::array<share, 4> shares{};  // attention, norms, experts, tied ends
  std::size_t count = 0;
  const auto into = [&](extent_t share::*part) {
    return [&shares, &count, &fold, part](const parameter_fact& p) {
      const axis_set replicas = p.placement.replicas();
      std::size_t at = 0;
      while (at < count && !(shares[at].replicas == replicas)) ++at;
      if (at == count) shares[count++] = {p.placement, replicas};
      shares[at].*part += local_elements(p, fold);
    };
  };
  const extent_t dense = dense_on_stage(m.layers, m.dense_layers, fold, stage), moe = layers_on_stage(m.layers, fold, stage) - dense;
  auto before = into(&share::before), of_dense = into(&share::dense), of_moe = into(&share::moe), behind = into(&share::behind);
  if (stage == 0) detail::parameter_list(m, fold, before).before();
  if (dense > 0) detail::parameter_list(m, fold, of_dense).layer(0);
  if (moe > 0) detail::parameter_list(m, fold, of_moe).layer(m.dense_layers);
  if (stage == fold.attention.of(axis_id::pp) - 1) detail::parameter_list(m, fold, behind).behind();
  for (std::size_t i = 0; i < count; ++i) {
    const share& s = shares[i];
    detail::buffer_filler fill(s.placement, s.placement.replicas_in(fold), bucket, f);
    fill.add(1, s.before), fill.add(dense, s.dense), fill.add(moe, s.moe), fill.add(1, s.behind);
    fill.close();
  }
}

/// Bytes that parameters need on one rank of a stage, exactly as the engine allocates them. state_tensors: what the optimizer keeps per weight
/// (Optimizer::state_tensors; two moments for AdamW).
struct parameter_memory {
  extent_t parameters = 0, gradients = 0, optimizer = 0;
};
/// What a rank holds of weights and gradients: all that its stage and cuts leave it, as the engine does, or one share of each replica's (ZeRO-3).
enum class held_weights : std::uint8_t { all, shard };

/// Bytes that the optimizer keeps for one weight of its shard: its state, and the master weight where the stored one is narrower.
template <class Precision>
constexpr extent_t optimizer_bytes(int state_tensors) {
  constexpr bool own_master = !std::is_same_v<typename Precision::storage, typename Precision::master>;
  return state_tensors * extent_t(sizeof(typename Precision::moments)) + (own_master ? extent_t(sizeof(typename Precision::master)) : 0);
}

template <class Precision>
constexpr parameter_memory memory_of_parameters(const model_shape& m, const folding_extents& fold, extent_t stage, int state_tensors = 2,
                                                extent_t bucket = default_bucket, held_weights held = held_weights::all) {
  const extent_t per_shard = optimizer_bytes<Precision>(state_tensors);
  parameter_memory bytes;
  for_each_buffer(m, fold, stage, bucket, [&](const equal_buffers& b) {
    const extent_t elements = b.times * (held == held_weights::all ? b.padded() : b.shard());
    bytes.parameters += elements * extent_t(sizeof(typename Precision::storage));
    bytes.gradients += elements * extent_t(sizeof(typename Precision::reduce));
    bytes.optimizer += b.times * b.shard() * per_shard;
  });
  return bytes;
}

}  // namespace moefold
