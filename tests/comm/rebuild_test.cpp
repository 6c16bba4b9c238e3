#include "../support/over_threads.hpp"
#include "../support/rebuild_suite.hpp"

#include <moefold/comm/recording.hpp>
#include <moefold/comm/self.hpp>

// What happens to a world of threads when something goes wrong between its ranks: it is rebuilt, it looks for circles, it knows who is late.
using namespace moefold;
using namespace std::chrono_literals;

namespace {

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const std::exception& e) {
    return e.what();
  }
  return {};
}

}  // namespace

TEST_SUITE("comm/rebuild") {
  TEST_CASE("after each of 9 failures the same ranks go on in a fresh world, and every old communicator stays revoked") {
    faults::rebuild_after_failures<faults::over_threads>(9);
  }
  TEST_CASE("a sound world can be left for a fresh one") { faults::rebuild_when_sound<faults::over_threads>(); }
  TEST_CASE("a world cannot be rebuilt without a rank that has ended") { faults::rebuild_in_vain<faults::over_threads, peer_failed>(true); }
  TEST_CASE("a world cannot be rebuilt without a rank that does not come in time") {
    faults::rebuild_in_vain<faults::over_threads, timeout>(false);
  }

  TEST_CASE("a rank that goes to rebuild while others wait for it wakes them") {
    const auto begin = steady::now();
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      try {
        if (world.rank() != 2) world.barrier(e);
        world = world.rebuild();
      } catch (const peer_failed& f) {
        CHECK(world.rank() != 2);
        CHECK(f.cause().rank == 2);
        world = world.rebuild();
      }
      world.barrier(e);
    });
    CHECK(steady::now() - begin < 5s);
  }
  TEST_CASE("what a rank threw and caught, the others hear when it goes to rebuild") {
    std::atomic<int> told{0};
    run_ranks<4>([&](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      try {
        if (world.rank() == 2) throw error("moefold: rank 2 has no more of it");
        world.barrier(e);
      } catch (const peer_failed& f) {
        told += f.cause().rank == 2 && std::string_view(f.what()).find("has no more of it") != std::string_view::npos;
        world = world.rebuild();
      } catch (const error&) {
        world = world.rebuild();
      }
      world.barrier(e);
    });
    CHECK(told == 3);
  }
  TEST_CASE("only the communicator of the whole world is rebuilt, and only once") {
    CHECK(message_of([] {
            run_ranks<2>([](thread_comm& world) {
              thread_comm half = world.split(world.rank(), 0, "tp");
              half.rebuild();
            });
          }).find("not for tp") != std::string::npos);
    CHECK(message_of([] {
            run_ranks<2>([](thread_comm& world) {
              thread_comm fresh = world.rebuild();
              world.rebuild();
            });
          }).find("of a world that was rebuilt") != std::string::npos);
  }
  TEST_CASE("what decorates a communicator decorates the rebuilt one") {
    run_ranks<2>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      traffic_log log;
      const std::vector<fault> none;
      recording<chaos<thread_comm>> both({std::move(world), none}, log);
      both.barrier(e);
      both = both.rebuild();
      both.barrier(e);
      CHECK(log("world", operation::barrier).calls == 2);
    });
    self_comm alone;
    CHECK(alone.rebuild().size() == 1);
  }

  TEST_CASE("helpers that wait for each other's ranks are a circle") {
    const std::string text = message_of([] {
      run_ranks<2>([](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        thread_comm beside = world.apart("grads");
        float number[1] = {1};
        if (world.rank() == 0) beside.all_reduce(e, number, number, sum{}).wait(e);
        world.barrier(e);
        if (world.rank() == 1) beside.all_reduce(e, number, number, sum{}).wait(e);
      });
    });
    CAPTURE(text);
    CHECK(text.find("rank 0 waits for its helper; the helper of rank 0 waits in all_reduce #0 on grads for rank 1; "
                    "the helper of rank 1 has nothing to do until rank 1 goes on; rank 1 waits in barrier #1 on world for rank 0") !=
          std::string::npos);
  }
  TEST_CASE("a letter that cannot come because its sender waits elsewhere is a circle") {
    const std::string text = message_of([] {
      run_ranks<3>([](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        thread_comm others = world.split(world.rank() > 0, world.rank(), "others");
        float number[1] = {1};
        if (world.rank() == 0) world.recv(e, number, 1);
        if (world.rank() == 1) others.barrier(e), world.send(e, number, 0);
        if (world.rank() == 2) world.recv(e, number, 0);
      });
    });
    CAPTURE(text);
    CHECK(text.find("rank 0 waits in recv #0 on world for rank 1") != std::string::npos);
    CHECK(text.find("rank 1 waits in barrier #0 on others for rank 2") != std::string::npos);
  }
  TEST_CASE("ranks that are slow, or call in another order than they are waited for, are no circle") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      thread_comm pairs = world.split(world.rank() / 2, world.rank(), "pairs"), beside = world.apart("beside");
      float number[1] = {1}, other[1] = {1};
      for (int i = 0; i < 3; ++i) {
        const auto sum_of = beside.all_reduce(e, other, other, sum{});  // done while rank i computes or waits for its partner
        if (world.rank() == i) std::this_thread::sleep_for(120ms);
        if (world.rank() % 2 == 0) {
          pairs.recv(e, number, 1);  // long before it is sent, when the sender first comes through with the others
          pairs.send(e, number, 1);
        } else {
          if (world.rank() == 3) std::this_thread::sleep_for(90ms);
          pairs.send(e, number, 0);
          pairs.recv(e, number, 0);
        }
        sum_of.wait(e);
        world.barrier(e);
      }
    });
  }

  TEST_CASE("the straggler is who computes for long, not who had to wait for it before it came late to others") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      thread_comm pairs = world.split(world.rank() / 2, world.rank(), "pairs"), rest = world.split(world.rank() == 1, world.rank(), "rest");
      world.barrier(e);
      for (int i = 0; i < 3; ++i) {
        if (world.rank() == 1) std::this_thread::sleep_for(60ms);
        pairs.barrier(e);  // rank 0 comes out late,
        rest.barrier(e);   // and so is late here, where rank 1 is not
      }
      world.barrier(e);
      const auto counts = world.stragglers();
      CHECK(slowest(counts) == 1);
      CHECK(counts[1].late > 150ms);
      CHECK(2 * counts[0].late < counts[1].late);
    });
  }

  TEST_CASE("while a rank is starting, each of its calls has the first deadline") {
    const thread_options options{.first_deadline = 2s, .deadline = 60ms};
    const auto slow = [](bool starting) {
      return [starting](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        world.barrier(e);
        world.starting(starting);
        if (world.rank() == 1) std::this_thread::sleep_for(250ms);
        world.barrier(e);
        world.starting(false);
      };
    };
    run_ranks<2>(slow(true), options);
    CHECK_THROWS_AS(run_ranks<2>(slow(false), options), timeout);
  }
}
