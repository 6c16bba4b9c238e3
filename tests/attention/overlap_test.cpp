#include <moefold/attention/cp_ring.hpp>

#include <doctest/doctest.h>
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

#include <algorithm>
#include <atomic>

using namespace moefold;

namespace {

/// A device that computes a block of attention in 5 ms, forward, or 10 ms, backward, and leaves the core free meanwhile.
struct resting : host_exec {
  using host_exec::host_exec;
};
template <class T, class Out>
void flash_forward_to(resting, view<const T>, view<const T>, view<const T>, std::span<const std::int32_t>, std::span<const std::int32_t>,
                      std::span<const std::int32_t>, view<Out>, view<accumulate_t<T>>) {
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
}
template <class T, class Out>
void flash_backward_to(resting, view<const T>, view<const T>, view<const T>, view<const T>, view<const accumulate_t<T>>,
                       view<const accumulate_t<T>>, std::span<const std::int32_t>, std::span<const std::int32_t>,
                       std::span<const std::int32_t>, view<Out>, view<Out>, view<Out>) {
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

/// Seconds of one forward and backward on `cp` ranks, of the slowest; the least of `repeats` on one world.
template <class Context, class Exec>
double seconds(int cp, extent_t sequence, extent_t head_dim, std::chrono::nanoseconds latency, bool overlap, int repeats) {
  constexpr extent_t heads = 4, kv = 4;
  std::vector<std::atomic<double>> worst(static_cast<std::size_t>(repeats));
  run_ranks(cp,
            [&](thread_comm& world) {
              host_context context;
              const Exec e(context);
              const extent_t part = sequence / cp;
              const std::vector<std::int32_t> positions = context_positions(sequence, cp);
              typename Context::template groups<thread_comm> groups(world, overlap);
              const auto some = [&](std::uint64_t i, extent_t h) { return test::random_tensor<float>({part, 1, h, head_dim}, i); };
              tensor<float> q = some(1, heads), k = some(2, kv), v = some(3, kv), out = some(4, heads), dout = some(5, heads),
                            dq = some(6, heads), dk = some(7, kv), dv = some(8, kv), lse({1, heads, part});
              const sequence_map map{positions, {}};
              for (auto& slowest : worst) {
                world.barrier(e).wait(e);
                const auto begin = steady::now();
                Context::template forward<float, float>(e, groups, map, q.view(), k.view(), v.view(), out.view(), lse.view());
                Context::template backward<float, float>(e, groups, map, view<const float>(dout.view()), view<const float>(q.view()),
                                                         view<const float>(k.view()), view<const float>(v.view()),
                                                         view<const float>(out.view()), view<const float>(lse.view()), dq.view(), dk.view(),
                                                         dv.view());
                const double time = std::chrono::duration<double>(steady::now() - begin).count();
                double seen = slowest;
                while (seen < time && !slowest.compare_exchange_weak(seen, time)) continue;
              }
            },
            {.latency = latency});
  return *std::min_element(worst.begin(), worst.end());
}

/// What a latency adds to the time of a step, without overlap and with: the least times of all rounds count, since a busy machine only adds.
template <class Context, class Exec>
void check_overlap(int cp, extent_t sequence, extent_t head_dim, std::chrono::milliseconds latency, int waits) {
  double least[2][2] = {{1e9, 1e9}, {1e9, 1e9}};  // [overlap][slow]
  const double due = waits * std::chrono::duration<double>(latency).count();
  double without = 0, with = 0;
  for (int round = 0; round < 15; ++round) {
    for (const bool overlap : {false, true})
      for (const bool slow : {false, true}) {
        double& best = least[overlap][slow];
        best = std::min(best, seconds<Context, Exec>(cp, sequence, head_dim, slow ? latency : latency * 0, overlap, 3));
      }
    const double still = std::min(least[0][0], least[1][0]);
    without = least[0][1] - still, with = least[1][1] - still;
    if (round > 0 && with < 0.4 * without && without > 0.6 * due && without < 1.6 * due) break;
  }
  MESSAGE("cp ", cp, ": a latency of ", latency.count(), " ms adds ", without * 1e3, " ms without overlap, ", with * 1e3,
          " ms with: ", with / without);
  CHECK(without > 0.6 * due);  // it is there, once for every message that is waited for
  CHECK(with < 0.4 * without);
}

}  // namespace

TEST_SUITE("attention/overlap") {
  // Without overlap a rank waits for a message 2 * ring times: CP - 1 in forward, CP + 1 in backward. With it for the last gradients alone.
  TEST_CASE("a ring that works beside a device hides at least 60% of what a latency costs, on 2 ranks and on 4") {
    check_overlap<cp_ring, resting>(2, 64, 4, std::chrono::milliseconds(4), 4);
    check_overlap<cp_ring, resting>(4, 64, 4, std::chrono::milliseconds(4), 8);
  }
}
