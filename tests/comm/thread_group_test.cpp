#include <moefold/comm/thread_group.hpp>

#include <doctest/doctest.h>

#include <numeric>

using namespace moefold;
using namespace std::chrono_literals;

namespace {
std::shared_ptr<thread_group> group_of(const std::shared_ptr<thread_world>& world) {
  std::vector<int> all(std::size_t(world->size()));
  std::iota(all.begin(), all.end(), 0);
  return std::make_shared<thread_group>(world, all, "tp");
}
// Rank `rank` enters call `seq`, as a communicator would.
void enter(thread_group& group, int rank, const signature& what) {
  group.world().last_call(group.world_rank(rank)) = {group.label(), what, steady::now(), true, true};
  auto& post = group.post_of(rank, what.seq);
  post.what = what;
  post.small = true;
  group.arrive(rank, what, true);
}
}  // namespace

TEST_SUITE("comm/thread_group") {
  TEST_CASE("nobody passes before the last has arrived, in thousands of rounds") {
    auto world = std::make_shared<thread_world>(4);
    auto group = group_of(world);
    std::atomic<int> entered{0}, early{0};
    std::vector<std::thread> threads;
    for (int r = 0; r < 4; ++r)
      threads.emplace_back([&, r] {
        for (std::uint64_t round = 0; round < 2000; ++round) {
          ++entered;
          enter(*group, r, {operation::barrier, dtype::uint8, "", -1, 0, round});
          early += entered.load() < 4 * int(round + 1);
        }
      });
    for (std::thread& t : threads) t.join();
    CHECK(early == 0);
    CHECK(entered == 8000);
  }
  TEST_CASE("a rank that leaves after a failure waits for those that read its memory") {
    auto world = std::make_shared<thread_world>(2);
    auto group = group_of(world);
    std::atomic<bool> reading{false}, read{false};
    std::thread reader([&] {
      const thread_group::access scope(*group, 1, {});
      reading = true;
      std::this_thread::sleep_for(50ms);
      read = true;
    });
    while (!reading) std::this_thread::yield();
    world->fail<peer_failed>({0, "tp", operation::barrier, 0, {}, "x"});
    group->leave(0);
    CHECK(read);
    reader.join();
    CHECK_THROWS_AS(thread_group::access(*group, 1, {}), peer_failed);  // and nobody starts to read
  }
  TEST_CASE("the calls of a group that is alone with its failure end without a peer") {
    auto world = std::make_shared<thread_world>(2);
    auto group = group_of(world);
    world->fail<timeout>({1, "tp", operation::barrier, 0, {}, "x"});
    CHECK_THROWS_AS(enter(*group, 0, {operation::barrier}), timeout);
    auto later = group_of(world);  // made after the failure: revoked from birth
    CHECK_THROWS_AS(enter(*later, 0, {operation::barrier}), comm_revoked);
  }
  TEST_CASE("what is kept beside a group is made once, for all its ranks, and ends with the last who holds it") {
    struct counted {
      std::shared_ptr<int> alive = std::make_shared<int>(0);
      int ranks;
      explicit counted(int n) : ranks(n) {}
    };
    auto group = group_of(std::make_shared<thread_world>(3));
    std::vector<std::shared_ptr<counted>> seen(3);
    std::vector<std::thread> threads;
    for (std::size_t r = 0; r < 3; ++r) threads.emplace_back([&, r] { seen[r] = group->beside<counted>(); });
    for (std::thread& t : threads) t.join();
    CHECK((seen[0] == seen[1] && seen[1] == seen[2]));
    CHECK(seen[0]->ranks == 3);
    const std::weak_ptr<int> alive = seen[0]->alive;
    group.reset();
    CHECK_FALSE(alive.expired());
    seen.clear();
    CHECK(alive.expired());
  }
}
