#pragma once
// What a trainer has learnt and what it remembers, as a list of named shares: plain enough for any file format, and each element of the whole model on
// exactly one rank. Checkpoints, published models and gradient dumps are written from these lists and read into them.
//
//   owned_state       masters and moments of this rank's optimizer shards      layers.3.moe.gate/weight   [E, F, H]   box, flat range of it
//   owned_gradients   the mean gradients of the same shards, after compute()   layers.3.moe.gate/gradient
//   shared_state      router biases and shares, fp8 histories: small, and the same on all ranks
#include <moefold/core/callback.hpp>
#include <moefold/inventory/parameters.hpp>
#include <moefold/mesh/slice.hpp>
#include <moefold/tensor/copy.hpp>

#include <cstddef>
#include <string>
#include <vector>

namespace moefold {

/// Where a run stands: as much as a resumed one needs to go on as if nothing had happened.
struct run_position {
  std::int64_t step = 0;     // steps done
  std::int64_t updates = 0;  // of them, those that changed the weights: AdamW's bias correction counts these
  extent_t sample = 0;       // the data cursor: samples seen, whatever the batch was
  friend constexpr bool operator==(const run_position&, const run_position&) = default;
};

/// One rank's share of a tensor of the model. Bytes are those of the piece's elements that are no padding, in its order, without gaps.
struct state_tensor {
  parameter_fact fact;
  std::string part;  // "weight", "gradient", "moment.0"
  tensor_piece piece;
  dtype type{};
  callback<void(std::span<std::byte>)> get;        // empty: it can only be filled
  callback<void(std::span<const std::byte>)> set;  // empty: it can only be read
  std::span<std::byte> memory{};                   // where the host can write the piece itself, padding included; empty: only through set

  std::string name() const { return fact.name() + '/' + part; }
  std::size_t bytes() const { return std::size_t(piece.size()) * size_of(type); }
};

/// A few numbers that all ranks hold alike, in the host's memory.
struct state_array {
  std::string name;
  dtype type{};
  shape extent;
  std::span<std::byte> bytes;
};

namespace detail {

/// The first `count` elements of a span in the memory of e, as bytes.
template <class T>
view<std::byte> raw_bytes(std::span<T> numbers, extent_t count) {
  return {reinterpret_cast<std::byte*>(numbers.data()), {count * extent_t(sizeof(T))}};
}

template <class T, class Exec>
void read_and_write(Exec e, std::span<T> numbers, state_tensor& to) {
  const view<std::byte> bytes = raw_bytes(numbers, to.piece.size());
  to.type = dtype_traits<T>::value;
  to.get = [e, bytes](std::span<std::byte> out) { download(e, view<const std::byte>(bytes), view<std::byte>(out)); };
  to.set = [e, bytes](std::span<const std::byte> in) { upload(e, view<const std::byte>(in), bytes); };
  if constexpr (std::is_same_v<typename Exec::memory, host_memory>) to.memory = std::as_writable_bytes(numbers);
}

/// Calls f(entry, first element within the optimizer's shard, piece) for every parameter of which this rank's shard holds a part.
template <class Trainer, class F>
void for_each_owned(Trainer& trainer, F&& f) {
  auto& store = trainer.parameters();
  for (const auto& entry : store.entries()) {
    const auto& flat = store.flats()[std::size_t(entry.buffer)];
    const extent_t first = trainer.optimizer().own_gradients(std::size_t(entry.buffer)).data() - flat.gradients.data();
    const extent_t begin = std::max(entry.offset, first);
    const extent_t end = std::min(entry.offset + extent_t(entry.value.size()), first + flat.fact.shard());
    if (begin < end)
      f(entry, begin - first, tensor_piece{entry.slice, {begin - entry.offset, end - entry.offset}, entry.fact.parameters()});
  }
}

}  // namespace detail

/// This rank's optimizer shards: "weight" (the master weight), then "moment.0", "moment.1" of every parameter in storage order. After set(), call
/// trainer.weights_follow_masters(). Local; valid as long as the trainer.
template <class Trainer>
std::vector<state_tensor> owned_state(Trainer& trainer) {
  std::vector<state_tensor> all;
  auto& optimizer = trainer.optimizer();
  optimizer.require_masters(trainer.exec());
  detail::for_each_owned(trainer, [&](const auto& entry, extent_t at, const tensor_piece& piece) {
    const auto add = [&](std::string part, auto numbers) {
      all.push_back({entry.fact, std::move(part), piece, {}, {}, {}});
      detail::read_and_write(trainer.exec(), numbers.subspan(std::size_t(at), std::size_t(piece.range.size())), all.back());
    };
    const std::size_t buffer = std::size_t(entry.buffer);
    add("weight", optimizer.own_masters(buffer));
    for (std::size_t i = 0; i < std::size_t(optimizer.state_tensors); ++i)
      add("moment." + std::to_string(i), optimizer.own_state(buffer, i));
  });
  return all;
}

/// The same shards' gradients times `scale`, to be read between compute() and apply(): 1 / tokens of the step gives the mean.
template <class Trainer>
std::vector<state_tensor> owned_gradients(Trainer& trainer, double scale) {
  std::vector<state_tensor> all;
  detail::for_each_owned(trainer, [&](const auto& entry, extent_t at, const tensor_piece& piece) {
    const auto own = trainer.optimizer().own_gradients(std::size_t(entry.buffer)).subspan(std::size_t(at), std::size_t(piece.size()));
    using R = typename decltype(own)::value_type;
    all.push_back({entry.fact, "gradient", piece, dtype_traits<R>::value, {}, {}});
    all.back().get = [e = trainer.exec(), own, scale](std::span<std::byte> out) {
      std::vector<R> numbers(own.size());
      download(e, view<const R>(own), view<R>(std::span(numbers)));
      for (R& x : numbers) x = R(double(x) * scale);
      require(out.size() == numbers.size() * sizeof(R), "moefold: ", numbers.size() * sizeof(R), " bytes of gradients do not fit into ",
              out.size());
      std::memcpy(out.data(), numbers.data(), out.size());
    };
  });
  return all;
}

/// What all ranks remember alike. Local; valid as long as the trainer; empty arrays are left out.
template <class Trainer>
std::vector<state_array> shared_state(Trainer& trainer) {
  std::vector<state_array> all;
  const auto add = [&](std::string name, auto numbers) {
    using T = typename decltype(numbers)::value_type;
    if (numbers.size() == 0) return;
    all.push_back({std::move(name), dtype_traits<T>::value, numbers.shape(), std::as_writable_bytes(numbers.span())});
  };
  add("router.bias", trainer.routers().bias());
  add("router.shares", trainer.routers().previous());
  add("fp8.amaxes", trainer.scales().past());
  return all;
}

}  // namespace moefold
