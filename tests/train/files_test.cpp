#include <moefold/train/files.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/comm/thread.hpp>

#include <doctest/doctest.h>

#include <numeric>

using namespace moefold;

namespace {

template <class Group>
void every_collective(Group& group) {
  host_context context;
  const host_exec e(context);
  const int n = group.size(), me = group.rank();
  const std::array<std::int64_t, 2> mine{me, 10 * me};
  std::vector<std::int64_t> all(2 * std::size_t(n));
  group.all_gather(e, std::span<const std::int64_t>(mine), std::span(all)).wait(e);
  for (int r = 0; r < n; ++r) CHECK(all[2 * std::size_t(r) + 1] == 10 * r);
  std::array<std::int32_t, 1> total{me + 1}, most{me};
  group.all_reduce(e, std::span<const std::int32_t>(total), std::span<std::int32_t>(total), sum{}).wait(e);
  group.all_reduce(e, std::span<const std::int32_t>(most), std::span<std::int32_t>(most), max{}).wait(e);
  CHECK(total[0] == n * (n + 1) / 2);
  CHECK(most[0] == n - 1);
  std::array<double, 1> told{me == n - 1 ? 2.5 : 0};
  group.broadcast(e, std::span<double>(told), n - 1).wait(e);
  CHECK(told[0] == 2.5);
  if (n > 1) {
    std::array<std::uint8_t, 3> bytes{std::uint8_t(me), 7, 9};
    if (me == 1) group.send(e, std::span<const std::uint8_t>(bytes), 0).wait(e);
    if (me == 0) group.recv(e, std::span<std::uint8_t>(bytes), 1).wait(e);
    if (me == 0) CHECK(bytes[0] == 1);
  }
  group.barrier(e).wait(e);
}

}  // namespace

TEST_SUITE("train/files") {
  TEST_CASE("a group of ranks does what the communicator under it does, whatever that is") {
    self_comm self;
    group_over alone(self);
    rank_group& seen = alone;
    every_collective(seen);
    run_threads(3, [](thread_comm& world) {
      group_over group(world);
      every_collective(static_cast<rank_group&>(group));
    });
  }
}
