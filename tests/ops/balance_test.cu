#include <moefold/ops/balance.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;
using test::to_device;
using test::to_host;

namespace {

tensor<std::int64_t> random_counts(const shape& s, std::uint64_t seed, std::uint64_t most) {
  tensor<std::int64_t> counts(s);
  const random_stream draw(seed, "counts");
  for (std::size_t i = 0; i < counts.size(); ++i) counts[i] = std::int64_t(draw.bits(i) % (most + 1));
  return counts;
}

template <class A>
void pulls_agree(extent_t batch, extent_t experts, const balance_losses& balance, bool with_previous, double limit) {
  CAPTURE(batch);
  CAPTURE(experts);
  test::both_execs on;
  auto counts = random_counts({batch, experts + 1}, 1, 50);
  if (batch > 1)  // a sequence that is all padding
    for (std::int64_t& count : counts.view().rows(1, 1)) count = 0;
  const auto running = random_counts({experts}, 2, 500);
  const auto scores = test::random_tensor<double>({batch, experts}, 3), squares = test::random_tensor<double>({1}, 4);
  const auto previous = test::random_tensor<double>({with_previous ? experts : 0}, 5);
  tensor<A> pull({batch, experts});
  tensor<double> losses({extent_t(balance_kinds)});
  balance_pull(on.host, balance, 2, 0.7, {counts, scores, squares, previous, running}, pull.view(), losses);

  const auto counts_d = to_device(counts), running_d = to_device(running);
  const auto scores_d = to_device(scores), squares_d = to_device(squares), previous_d = to_device(previous);
  auto pull_d = test::poisoned<A>(pull.shape());
  auto losses_d = test::poisoned<double>(losses.shape()), again_d = test::poisoned<double>(losses.shape());
  const balance_inputs in{counts_d, scores_d, squares_d, previous_d, running_d};
  balance_pull(on.device, balance, 2, 0.7, in, pull_d.view(), losses_d);
  CHECK(test::largest_error(to_host(on.device, pull_d), pull) <= limit);
  const auto first = to_host(on.device, losses_d);
  CHECK(test::largest_error(first, losses) <= 1e-12);
  balance_pull(on.device, balance, 2, 0.7, in, pull_d.view(), again_d);
  const auto again = to_host(on.device, again_d);
  CHECK(std::equal(first.begin(), first.end(), again.begin()));
}

}  // namespace

TEST_SUITE("ops/balance") {
  TEST_CASE("losses and pull on the device agree with their host twins, and repeat to the bit") {
    const balance_losses all{.micro_batch = 0.5, .sequence = 0.25, .global = 2, .global_running = 3, .z = 0.125};
    for (const extent_t batch : {1, 2, 7})
      for (const extent_t experts : {1, 8, 33, 300})
        for (const bool previous : {false, true}) {
          pulls_agree<double>(batch, experts, all, previous, 1e-12);
          pulls_agree<float>(batch, experts, all, previous, 1e-6);
        }
    pulls_agree<float>(2, 8, {.z = 1}, false, 0);
    pulls_agree<float>(2, 8, {.sequence = 1}, false, 1e-6);
  }
  TEST_CASE("loads, running counts and added numbers are those of the host, exactly") {
    test::both_execs on;
    for (const extent_t experts : {1, 8, 300}) {
      for (const extent_t batch : {1, 3}) {
        const auto counts = random_counts({batch, experts + 1}, 7, 1u << 30);
        tensor<std::int64_t> load({experts});
        sum_sequences(on.host, counts, load);
        const auto counts_d = to_device(counts);
        auto load_d = test::poisoned<std::int64_t>({experts});
        sum_sequences(on.device, counts_d, load_d);
        const auto found = to_host(on.device, load_d);
        CHECK(std::equal(load.begin(), load.end(), found.begin()));
      }
      const auto before = random_counts({experts}, 1, 1000), own = random_counts({experts}, 2, 1000);
      for (const bool begins : {true, false}) {
        const auto before_d = to_device(before);
        auto running_d = to_device(own), now_d = test::poisoned<std::int64_t>({experts});
        add_running(on.device, begins ? view<const std::int64_t>{} : before_d.view(), running_d, now_d);
        const auto running = to_host(on.device, running_d), now = to_host(on.device, now_d);
        for (std::size_t x = 0; x < running.size(); ++x) {
          CHECK(running[x] == own[x] + (begins ? 0 : before[x]));
          CHECK(now[x] == running[x]);
        }
      }
      const auto start = test::random_tensor<double>({experts}, 3);
      const auto own_d = to_device(own);
      auto to_d = to_device(start);
      add_counts(on.device, own_d, to_d);
      const auto to = to_host(on.device, to_d);
      for (std::size_t x = 0; x < to.size(); ++x) CHECK(to[x] == start[x] + double(own[x]));
    }
  }
}
