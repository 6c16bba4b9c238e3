#pragma once
// A trainer's state without a trainer: what the ranks of a folding own of a model's weights (bf16), masters (fp32) and one moment (fp64), with numbers that tell
// the tensor, the element and the step.
#include <moefold/checkpoint/checkpoint.hpp>
#include <moefold/comm/self.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/core/rng.hpp>
#include "owned_pieces.hpp"

namespace moefold::test {

inline model_shape small_checkpoint_model() {
  model_shape m;
  m.layers = 1, m.hidden = 4, m.heads = 2, m.kv_heads = 2, m.head_dim = 2, m.experts = 4, m.ffn = 4, m.vocabulary = 5;
  return m;
}

class checkpoint_state {
 public:
  using owned = std::map<std::string, std::vector<testing::owned_piece>>;
  checkpoint_state(const owned& all, extent_t rank, std::int64_t step) : step_(step) {
    for (const auto& [name, pieces] : all)
      for (const testing::owned_piece& p : pieces)
        if (p.rank == rank)
          for (const auto& [suffix, type] :
               {std::pair("weight", dtype::bf16), std::pair("master", dtype::fp32), std::pair("moment.0", dtype::fp64)})
            held_.push_back({name + "/" + suffix, p.piece, type, std::vector<double>(std::size_t(p.piece.size()), -1)});
    for (held& h : held_) fill(h, step);
  }

  /// Of this state as it is; it must outlive what is made of it. types: given to all tensors instead of their own.
  checkpoint_content content(std::optional<dtype> type = std::nullopt) {
    checkpoint_content all;
    all.step = step_;
    for (held& h : held_)
      all.tensors.push_back({h.name, h.piece, type.value_or(h.type),
                             [&h, to = type.value_or(h.type)](std::span<std::byte> out) { put(h.values, to, out); },
                             [&h, from = type.value_or(h.type)](std::span<const std::byte> in) { get(h.values, from, in); }});
    const std::vector<std::int64_t> cursor{step_, 7 * step_, -1};
    all.arrays.push_back(array_of<std::int64_t>("data/cursor", cursor));
    all.arrays.push_back(array_of<std::uint8_t>("nothing", {}));
    all.notes = {{"seed", std::to_string(step_ + 1)}, {"mapping", "tp 2 \"x\"\n"}};
    return all;
  }
  void spoil() {
    for (held& h : held_) std::fill(h.values.begin(), h.values.end(), -1);
  }
  /// How many elements are not those of `step`.
  extent_t wrong(std::int64_t step) const {
    extent_t count = 0;
    for (const held& h : held_) {
      held expected = h;
      fill(expected, step);
      for (std::size_t i = 0; i < h.values.size(); ++i) count += h.values[i] != expected.values[i];
    }
    return count;
  }
  extent_t size() const {
    extent_t count = 0;
    for (const held& h : held_) count += extent_t(h.values.size());
    return count;
  }

 private:
  struct held {
    std::string name;
    tensor_piece piece;
    dtype type;
    std::vector<double> values;
  };
  /// Whole numbers below 256: the same in every type.
  static void fill(held& h, std::int64_t step) {
    const std::string key = sentence(h.name, ' ', step);
    const std::uint64_t seed = XXH3_64bits(key.data(), key.size());
    h.piece.for_each_run([&](extent_t global, extent_t at, extent_t count) {
      for (extent_t i = global; i < global + count; ++i)
        h.values[std::size_t(at++)] = double(XXH3_64bits_withSeed(&i, sizeof i, seed) % 256);
    });
  }
  static void put(const std::vector<double>& values, dtype to, std::span<std::byte> out) {
    convert(std::as_bytes(std::span(values)), file_dtype::f64, out, file_dtype_of(to));
  }
  static void get(std::vector<double>& values, dtype from, std::span<const std::byte> in) {
    convert(in, file_dtype_of(from), std::as_writable_bytes(std::span(values)), file_dtype::f64);
  }

  std::int64_t step_;
  std::vector<held> held_;
};

/// The ranks of a folding, each with its state of `step`: f(e, world, state).
template <class F>
void on_ranks(const folding_extents& fold, const model_shape& model, std::int64_t step, F&& f) {
  const auto owned = testing::owned_pieces(fold, model);
  run_threads(int(fold.world()), [&](thread_comm& world) {
    host_context context;
    checkpoint_state state(owned, world.rank(), step);
    f(host_exec(context), world, state);
  });
}

inline void save_step(storage& to, const std::string& folder, const folding_extents& fold, const model_shape& model, std::int64_t step,
                      int keep = 2, bool apart = false) {
  on_ranks(fold, model, step, [&](host_exec e, thread_comm& world, checkpoint_state& state) {
    checkpoint_writer writer(to, folder, keep);
    if (apart) {
      writer.begin(e, world, state.content());
      state.spoil();
      writer.finish(e, world);
    } else {
      writer.save(e, world, state.content());
    }
  });
}

/// Loads what `path` gives and compares all of it. Returns its step. Throws what load throws, and error where anything differs.
inline std::int64_t load_step(storage& from, const std::string& path, const folding_extents& fold, const model_shape& model,
                              std::optional<dtype> type = std::nullopt) {
  std::atomic<std::int64_t> step{-1};
  on_ranks(fold, model, 0, [&](host_exec e, thread_comm& world, checkpoint_state& state) {
    state.spoil();
    const loaded_checkpoint loaded = load_checkpoint(e, world, from, path, state.content(type).tensors);
    require(state.wrong(loaded.step) == 0, state.wrong(loaded.step), " elements of ", state.size(), " are not those of step ", loaded.step);
    const checkpoint_content original = checkpoint_state({}, 0, loaded.step).content();
    require(loaded.notes == original.notes && loaded.arrays == original.arrays, "notes or arrays are not those of step ", loaded.step);
    step = loaded.step;
  });
  return step;
}

}  // namespace moefold::test
