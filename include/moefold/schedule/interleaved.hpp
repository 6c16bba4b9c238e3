#pragma once
// 1F1B over virtual stages: each stage holds `Chunks` runs of layers that lie apart, so a micro-batch passes every stage Chunks times and the bubble
// is Chunks times smaller, for Chunks times the messages and some more activations. Narayanan et al. 2021, arXiv 2104.04473, section 2.2.
//
//   stage 0 | F0   F1   F0:1 F1:1 F2   B0:1 F3   B1:1 F2:1 B0   F3:1 B1   .    B2:1 .    B3:1 B2   B3       F0:1 is micro-batch 0 in chunk 1
//   stage 1 | .    F0   F1   F0:1 B0:1 F1:1 B1:1 F2   B0   F3   B1   F2:1 B2:1 F3:1 B3:1 B2   B3
// Micro-batches go in groups of `stages`: the whole group through chunk 0, then through chunk 1, ...; backward the chunks in reverse. Any number works:
// one that is no multiple is spread over groups that are a little larger, which costs activations and no time; fewer than stages are one group.
#include <moefold/schedule/step.hpp>

namespace moefold {

/// The schedule over any number of chunks: what interleaved<Chunks> asks for its own.
struct interleaved_over {
  static constexpr std::vector<schedule_step> steps(int chunks, int stage, int stages, int micro_batches) {
    std::vector<schedule_step> forwards, backwards;
    const int groups = std::max(1, micro_batches / stages);
    for (int g = 0, first = 0; g < groups; ++g) {
      const int end = first + micro_batches / groups + (g < micro_batches % groups ? 1 : 0);
      for (int c = 0; c < chunks; ++c)
        for (int m = first; m < end; ++m) {
          forwards.push_back({step_kind::forward, m, c});
          backwards.push_back({step_kind::backward, m, chunks - 1 - c});
        }
      first = end;
    }
    const std::size_t total = forwards.size(), ahead = std::size_t(warm_up(chunks, stage, stages, micro_batches));
    step_list list(stage, stages, chunks);
    const auto forward_of = [&](std::size_t i) { list.forward(forwards[i].micro_batch, forwards[i].chunk); };
    const auto backward_of = [&](std::size_t i) { list.backward(backwards[i].micro_batch, backwards[i].chunk); };
    for (std::size_t i = 0; i < ahead; ++i) forward_of(i);
    for (std::size_t i = ahead; i < total; ++i) forward_of(i), backward_of(i - ahead);
    for (std::size_t i = total - ahead; i < total; ++i) backward_of(i);
    return list.take();
  }

  static constexpr int live(int chunks, int stage, int stages, int micro_batches) {
    return std::min(micro_batches * chunks, warm_up(chunks, stage, stages, micro_batches) + 1);
  }
  /// Of them those of the last chunk on the last stage, which holds head and loss: one, where groups are alike.
  static constexpr int live_heads(int chunks, int stages, int micro_batches) {
    const int groups = std::max(1, micro_batches / stages);
    return micro_batches % groups == 0 ? std::min(micro_batches, 1) : std::min(micro_batches / groups, chunks);
  }
  /// A chunk takes the times given; with fewer micro-batches than stages a chunk also waits for the group to come round.
  static constexpr int idle(int chunks, int stages, int micro_batches, const step_times& t) {
    const int waits = stages - 1 + std::max(0, stages - micro_batches) * (chunks - 1);
    return micro_batches > 0 ? waits * (t.forward + t.backward) : 0;
  }

 private:
  /// Forwards of a stage before its first backward: all chunks but the last of the largest group, and two for each stage after it.
  static constexpr int warm_up(int chunks, int stage, int stages, int micro_batches) {
    const int groups = std::max(1, micro_batches / stages), largest = (micro_batches + groups - 1) / groups;
    const int ahead = chunks == 1 ? stages - 1 - stage : 2 * (stages - 1 - stage) + (chunks - 1) * largest;
    return std::min(micro_batches * chunks, ahead);
  }
};

template <int Chunks>
struct interleaved {
  static_assert(Chunks >= 1, "moefold: interleaved<v> needs at least 1 chunk of layers per stage");
  static constexpr const char* name = Chunks == 1 ? "interleaved<1>"
                                    : Chunks == 2 ? "interleaved<2>"
                                    : Chunks == 3 ? "interleaved<3>"
                                    : Chunks == 4 ? "interleaved<4>"
                                                  : "interleaved";
  static constexpr bool trains = true;
  static constexpr int chunks = Chunks;

  static constexpr std::vector<schedule_step> steps(int stage, int stages, int micro_batches) {
    return interleaved_over::steps(Chunks, stage, stages, micro_batches);
  }
  static constexpr int live(int stage, int stages, int micro_batches) {
    return interleaved_over::live(Chunks, stage, stages, micro_batches);
  }
  static constexpr int idle(int stages, int micro_batches, const step_times& t) {
    return interleaved_over::idle(Chunks, stages, micro_batches, t);
  }
};

static_assert(timed_schedule<interleaved<1>> && timed_schedule<interleaved<2>> && timed_schedule<interleaved<4>>);

}  // namespace moefold
