#pragma once
// What a router decides, as plain data: for each token its k experts and their weights. A routing_trace holds the choices of whole steps by
// global token, so that they can be recorded in one mapping and replayed in another.
#include <moefold/core/batch_place.hpp>
#include <moefold/tensor/view.hpp>

#include <algorithm>
#include <limits>
#include <vector>

namespace moefold {

/// The choices of n local tokens. Slots are in descending score.
template <class A>
struct routing {
  view<std::int32_t> expert;  // [n, k] global expert index; -1: this pair was dropped
  view<A> weight;             // [n, k] combine weight
  extent_t padded_rows =
      -1;  // every expert gets exactly so many rows of this rank, fillers included; -1: as many as choose it. Padded, all ranks
           // of ep x etp have the same n: then no count need travel
};

/// Choices of every token of some steps. Ranks as threads write and read disjoint tokens, so one trace serves all of them.
class routing_trace {
 public:
  routing_trace(extent_t steps, extent_t layers, extent_t samples, extent_t sequence, extent_t top_k)
      : layers_(layers), samples_(samples), sequence_(sequence), top_k_(top_k),
        choice_(std::size_t(steps * layers * samples * sequence * top_k), -1), steps_(steps) {}

  extent_t steps() const { return steps_; }
  extent_t layers() const { return layers_; }
  extent_t samples() const { return samples_; }
  extent_t sequence() const { return sequence_; }
  extent_t top_k() const { return top_k_; }
  std::span<std::int32_t> choices() { return choice_; }  // [steps, layers, samples, sequence, top_k]; -1: not recorded
  std::span<const std::int32_t> choices() const { return choice_; }
  std::int32_t* at(const batch_place& place, extent_t layer, extent_t token) { return choice_.data() + index(place, layer, token); }
  const std::int32_t* at(const batch_place& place, extent_t layer, extent_t token) const {
    return choice_.data() + index(place, layer, token);
  }
  /// Throws unless tokens here have k choices.
  void require_top_k(extent_t k) const {
    require(k == top_k_, "moefold: the routing trace holds ", top_k_, " choices of a token, the router makes ", k,
            "; use a trace of the same top_k");
  }
  bool operator==(const routing_trace&) const = default;

 private:
  std::size_t index(const batch_place& place, extent_t layer, extent_t token) const {
    const extent_t sample = place.sample(token), position = place.position(token);
    require(place.step < steps_ && layer < layers_ && sample < samples_ && position < sequence_, "moefold: the routing trace holds ",
            steps_, " steps of ", layers_, " layers and ", samples_, " sequences of ", sequence_, " tokens; asked for step ", place.step,
            ", layer ", layer, ", sequence ", sample, ", position ", position);
    return std::size_t((((place.step * layers_ + layer) * samples_ + sample) * sequence_ + position) * top_k_);
  }
  extent_t layers_, samples_, sequence_, top_k_;
  std::vector<std::int32_t> choice_;
  extent_t steps_;
};

/// What to do with the choices of a run besides using them; all optional.
struct routing_tap {
  routing_trace* record = nullptr;
  const routing_trace* replay = nullptr;                    // steps beyond the trace choose for themselves
  extent_t replay_from = 0;                                 // first step that is replayed
  double margin = std::numeric_limits<double>::infinity();  // smallest gap seen between the k-th and the next score
  bool even = false;  // for benchmarks: token number i takes experts i*k .. i*k + k-1 (mod E), whatever its scores; replay goes first.
                      // Balance losses then count what was replayed or even, not what the scores would choose
  routing_trace* kept = nullptr;  // records what was not dropped: -1 where a pair was

  bool replays(extent_t step) const { return replay != nullptr && step >= replay_from && step < replay->steps(); }
  /// Whether the choices of this step are made elsewhere than by the scores.
  bool forces(extent_t step) const { return even || replays(step); }
};

/// What a forward pass needs to know of its micro-batch besides the tokens. The default is a bag of tokens without padding, in training.
struct routing_context {
  batch_place place{};
  std::span<const std::uint8_t> padding{};  // [n], not 0: padding; empty: none. Must live until backward
  double loss_weight = 1;                   // N / T_step: tokens that count in the loss over tokens that are not padding, of the whole step
  extent_t micro_batch = 0;                 // which one of the step
  std::uint64_t seed = 0;                   // of jitter
  bool training = true;                     // jitter and balance losses only then
  routing_tap* tap = nullptr;
};

}  // namespace moefold
