#pragma once
// What a matrix product sees of its inputs: under most policies the tensors themselves; under one that quantises (core/fp8_precision.hpp) copies
// in scratch, of 8-bit numbers over a scale. Wider types hold them exactly, so the ordinary product of the copies is that of the 8-bit values.
//
//   inputs.x(e, x, local)   inputs.weight(e, W, local)       rounded to e4m3, x and W alike in forward and backward
//   inputs.dy(e, dy, local)                                  rounded to e5m2
//   scale                   from the steps before; from the tensor itself under current_scaling, and while nothing is known of it
//   a training step         states.begin(), the layers record, states.reduce(world), and where the step counts states.roll()
#include <moefold/comm/communicator.hpp>
#include <moefold/inventory/scaled_products.hpp>
#include <moefold/ops/quantise.hpp>
#include <moefold/tensor/arena.hpp>
#include <moefold/tensor/tensor.hpp>

#include <limits>

namespace moefold {

/// The inputs of one product, as they are.
template <class Precision>
struct product_inputs {
  using T = typename Precision::storage;
  template <class Exec>
  view<const T> x(Exec, view<const T> t, scratch<Exec>&) const {
    return t;
  }
  template <class Exec>
  view<const T> weight(Exec, view<const T> t, scratch<Exec>&) const {
    return t;
  }
  template <class Exec>
  view<const T> dy(Exec, view<const T> t, scratch<Exec>&) const {
    return t;
  }
};

/// The inputs of one product, quantised: one scale for each tensor, of all local experts together where it is theirs. Histories lie in memory
/// that somebody else keeps (scaling_states); a layer without them scales by the tensor itself.
template <quantising_policy Precision>
struct product_inputs<Precision> {
  using T = typename Precision::storage;
  amax_history x_seen{}, weight_seen{}, dy_seen{};

  /// A copy in `local`, of the same shape.
  template <class Exec>
  view<const T> x(Exec e, view<const T> t, scratch<Exec>& local) const {
    return rounded<fp8_e4m3>(e, t, x_seen, local);
  }
  template <class Exec>
  view<const T> weight(Exec e, view<const T> t, scratch<Exec>& local) const {
    return rounded<fp8_e4m3>(e, t, weight_seen, local);
  }
  template <class Exec>
  view<const T> dy(Exec e, view<const T> t, scratch<Exec>& local) const {
    return rounded<fp8_e5m2>(e, t, dy_seen, local);
  }

 private:
  /// Recording is idempotent and scales come from the steps before: computing a layer again changes nothing.
  template <class F, class Exec>
  static view<const T> rounded(Exec e, view<const T> t, const amax_history& history, scratch<Exec>& local) {
    static_assert(std::is_same_v<typename Exec::memory, host_memory>,
                  "moefold: products with 8-bit inputs run on the host only; choose mixed_bf16 on a device");
    const float amax = amax_of(e, t), known = history.known();
    if (history.amax != nullptr && amax <= std::numeric_limits<float>::max())
      history.record(amax);  // an infinity says nothing of the next step
    const view<T> copy = local.template take<T>(t.shape());
    round_to<F>(e, t, scale_of(known > 0 ? known : amax, F::largest), copy);
    return copy;
  }
};

/// What all products of a model remember on one rank: the order is inventory/scaled_products.hpp's. Equal on all ranks of the world once
/// rolled, so that all scale alike and replicas stay the same. Part of a checkpoint: past().
template <class Precision>
class scaling_states {
 public:
  static constexpr extent_t history = amax_steps<Precision>;  // steps; 0: there is nothing to remember, and nothing below does anything

  using A = typename Precision::accumulate;  // float wherever there is a past

  explicit scaling_states(const model_shape& model)
      : seen_({recorded_amaxes<Precision>(model)}, A(0)), step_(seen_.shape(), A(0)),
        past_({recorded_amaxes<Precision>(model), std::max<extent_t>(history, 1)}, A(0)) {}

  /// For the product with this weight of this layer. Valid as long as the states.
  product_inputs<Precision> of(extent_t layer, parameter_kind weight) {
    product_inputs<Precision> inputs;
    if constexpr (history > 0) {
      const extent_t first = amax_of_product(layer, weight);
      require(first >= 0 && first < extent_t(seen_.size()), "moefold: layer ", layer, " has no product with 8-bit inputs by ",
              name_of(weight), "; ask for a weight in scaled_products (inventory/scaled_products.hpp), of a layer of the model");
      amax_history* const tensors[] = {&inputs.x_seen, &inputs.weight_seen, &inputs.dy_seen};
      for (extent_t i = 0; i < tensors_of_product; ++i) *tensors[i] = {seen_.data() + first + i, past_.view().rows(first + i, 1).span()};
    }
    return inputs;
  }

  /// A training step begins; what was recorded since the last one, as by an evaluation, is forgotten.
  void begin() { std::fill(seen_.begin(), seen_.end(), A(0)); }
  /// All micro-batches are through: the largest of every rank. Collective over the world.
  template <class Exec, class Comm>
  void reduce(Exec e, Comm& world) {
    if constexpr (history > 0) world.all_reduce(e, std::span<const A>(seen_.view().span()), step_.view().span(), max{}).wait(e);
  }
  /// The step counts: what reduce() found becomes the past. Local; the same on every rank.
  void roll() {
    if constexpr (history > 0)
      for (extent_t i = 0; i < extent_t(step_.size()); ++i) amax_history{&step_[std::size_t(i)], past_.view().rows(i, 1).span()}.roll();
  }

  view<A> past() { return past_; }  // [amaxes, history] of the steps before, the last one first; no rows where nothing is remembered
  std::size_t bytes() const { return (seen_.size() + step_.size() + past_.size()) * sizeof(A); }

 private:
  tensor<A> seen_;  // [amaxes] by this rank, in this step so far
  tensor<A> step_;  // [amaxes] by all ranks, in the step that was reduced last
  tensor<A> past_;
};

}  // namespace moefold
