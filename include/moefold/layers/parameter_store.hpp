#pragma once
// The parameters of one rank: flat buffers (buckets of parameters with the same replicas), cut into named tensors as inventory/parameters.hpp lists them.
//
//   values     | query key value output ... | filler |     one per replica set and bucket; filler rounds up to equal shards
//   gradients  | same cut                   | filler |     accumulated by backward, summed over replicas by optim/distributed.hpp
#include <moefold/core/rng.hpp>
#include <moefold/inventory/buffers.hpp>
#include <moefold/layers/parameter.hpp>
#include <moefold/mesh/coordinate.hpp>
#include <moefold/mesh/slice.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/tensor/filled.hpp>

#include <algorithm>
#include <vector>

namespace moefold {

template <class Precision, class Memory = host_memory>
class parameter_store {
 public:
  using storage = typename Precision::storage;
  using reduce = typename Precision::reduce;

  /// One parameter: its facts, where it lies, and which box of the global tensor it is.
  struct entry {
    parameter_fact fact;
    extent_t layer = 0;  // layer_of: -1 the embedding, the number of layers for final norm and head
    int buffer = 0;
    extent_t offset = 0;  // first element in the buffer
    box slice;
    view<storage> value;
    view<reduce> gradient;
  };
  /// One flat buffer.
  struct flat {
    parameter_buffer fact;
    tensor<storage, Memory> values;
    tensor<reduce, Memory> gradients;
  };

  /// Local: allocates this rank's share of the model, zeroed. `rank` is the rank in the world of `fold`. bucket: elements from which a buffer
  /// takes no further layer; the same on all ranks; 0: one buffer per set of replicas. e: works on Memory.
  template <works_on<Memory> Exec>
  parameter_store(Exec e, const model_shape& model, const folding_extents& fold, extent_t rank, extent_t bucket = default_bucket) {
    require<config_error>(bucket >= 0, "moefold: a bucket holds 0 elements (no limit) or more (given ", bucket, ")");
    const extent_t stage = stage_of(fold, rank);
    const parameter_buffers buffers = buffers_of(model, fold, stage, bucket);
    flats_.reserve(std::size_t(buffers.count));
    for (int i = 0; i < buffers.count; ++i) {
      const parameter_buffer& b = buffers.buffer[std::size_t(i)];
      flats_.push_back(
          {b, charged<storage>(e, memory_category::parameters, b.padded()), charged<reduce>(e, memory_category::gradients, b.padded())});
    }
    parameter_buffers used{bucket};  // filled in the same order
    for_each_parameter(model, fold, stage, [&](const parameter_fact& fact) {
      const int at = used.add(fact, fold, model.layers);
      const box slice = box_of(fact.placement, fact.extent, fold, rank);
      const shape& local = slice.extent;
      flat& f = flats_[std::size_t(at)];
      const extent_t offset = used.buffer[std::size_t(at)].elements - local.size();
      entries_.push_back(
          {fact, layer_of(fact, model.layers), at, offset, slice, {f.values.data() + offset, local}, {f.gradients.data() + offset, local}});
    });
  }

  parameter_store(const model_shape& model, const folding_extents& fold, extent_t rank,
                  extent_t bucket = default_bucket) requires std::same_as<Memory, host_memory>
      : parameter_store(no_exec{}, model, fold, rank, bucket) {}

  std::vector<entry>& entries() { return entries_; }
  const std::vector<entry>& entries() const { return entries_; }
  std::vector<flat>& flats() { return flats_; }
  const std::vector<flat>& flats() const { return flats_; }

  /// The parameter of this kind, with the placement that the layer expects of it.
  template <class Placement>
  parameter<Precision, Placement> get(parameter_kind kind, extent_t layer = -1) {
    for (entry& e : entries_)
      if (e.fact.kind == kind && e.fact.layer == layer) {
        require(e.fact.placement.cuts_as(value_of<Placement>), "moefold: ", e.fact.name(), " lies differently from what its layer expects");
        return {e.value, e.gradient};
      }
    require(false, "moefold: this rank holds no parameter ", name_of(kind), " of layer ", layer);
    return {};
  }

  /// The same numbers in every mapping: element i of a parameter is drawn from (seed, name, global index i).
  template <class Exec>
  void initialise(Exec e, std::uint64_t seed) {
    for (const entry& to : entries_) {
      if constexpr (std::same_as<Memory, host_memory>) {
        draw(to, seed, to.value);
      } else {
        tensor<storage> drawn(to.value.shape());
        draw(to, seed, drawn);
        upload(e, drawn.view(), to.value);
      }
    }
  }
  void initialise(std::uint64_t seed) requires std::same_as<Memory, host_memory> { initialise(no_exec{}, seed); }

  template <class Exec>
  void zero_gradients(Exec e) {
    for (flat& f : flats_) fill(e, f.gradients.view(), reduce(0));
  }
  void zero_gradients() requires std::same_as<Memory, host_memory> {
    for (flat& f : flats_) std::fill_n(f.gradients.data(), f.gradients.size(), reduce(0));
  }

  std::size_t parameter_bytes() const {
    std::size_t bytes = 0;
    for (const flat& f : flats_) bytes += f.values.view().bytes();
    return bytes;
  }
  std::size_t gradient_bytes() const {
    std::size_t bytes = 0;
    for (const flat& f : flats_) bytes += f.gradients.view().bytes();
    return bytes;
  }

 private:
  template <class T, class Exec>
  static tensor<T, Memory> charged(Exec e, memory_category category, extent_t elements) {
    const memory_scope scope(category);
    return filled<T, Memory>(e, {elements}, T(0));
  }
  static void draw(const entry& of, std::uint64_t seed, view<storage> to) {
    const random_stream normal(seed, of.fact.name());
    const extent_t real = of.fact.parameters();  // padding rows come last and stay 0
    for (extent_t i = 0; i < extent_t(to.size()); ++i) {
      const extent_t global = of.slice.global_index(i);
      to[std::size_t(i)] = global >= real        ? storage(0)
                         : of.fact.init_std == 0 ? storage(of.fact.init_mean)
                                                 : storage(of.fact.init_mean + of.fact.init_std * normal.normal(std::uint64_t(global)));
    }
  }

  std::vector<flat> flats_;
  std::vector<entry> entries_;
};

}  // namespace moefold
