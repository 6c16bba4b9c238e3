#include "../support/over_threads.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <iostream>

// The fault matrix over threads.
using namespace moefold;
using namespace std::chrono_literals;

namespace {

/// Runs body(begin_round) in a process of its own, which is stopped for `time` in each round soon after it has called begin_round(). Returns its exit code,
/// 1 for an exception.
template <class Body>
int run_stopped(std::chrono::milliseconds time, Body&& body) {
  int rounds[2];
  REQUIRE(pipe(rounds) == 0);
  std::cout.flush();  // or the child would print it again
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    int code = 0;
    try {
      body([&] { (void)!write(rounds[1], "r", 1); });
    } catch (const std::exception& f) {
      std::fprintf(stderr, "%s\n", f.what());
      code = 1;
    }
    _exit(code);
  }
  close(rounds[1]);
  for (char round; read(rounds[0], &round, 1) == 1;) {
    std::this_thread::sleep_for(5ms);
    kill(child, SIGSTOP);
    std::this_thread::sleep_for(time);
    kill(child, SIGCONT);
  }
  close(rounds[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace

TEST_SUITE("comm/faults") {
  TEST_CASE("F01: when a rank throws at a call, all others learn of it, of the culprit and of nothing else") {
    faults::f01<faults::over_threads>();
  }
  TEST_CASE("F04: when a rank does not arrive, all others time out at the deadline and list who arrived and who is missing") {
    faults::f04<faults::over_threads>();
  }
  TEST_CASE("F05: a slow rank fails nothing and is named as the straggler; one that is later than the deadline is named by all others") {
    const bool soak = std::getenv("MOEFOLD_SOAK") != nullptr;
    faults::f05<faults::over_threads>(soak ? 1000 : 6, soak ? 56 : 4, 400ms);
  }
  TEST_CASE("F06: ranks that make different calls all get a signature mismatch, and no data is written") {
    faults::f06<faults::over_threads>();
  }
  TEST_CASE("F07: ranks that disagree on count, type, root, reduction or splits all get a signature mismatch, and no data is written") {
    faults::f07<faults::over_threads>();
  }
  TEST_CASE("F08: when one rank calls on one axis and the others on another, all learn who waits for whom long before the deadline") {
    faults::f08<faults::over_threads>();
  }
  TEST_CASE("F28: 64 ranks on few cores, all of them stopped for a second now and then, are not taken for late") {
    const int times = std::getenv("MOEFOLD_SOAK") ? 1000 : 2;
    const auto begin = steady::now();
    const int code = run_stopped(1s, [&](auto&& begin_round) {
      run_ranks<64>([&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        thread_comm pairs = world.split(world.rank() / 2, world.rank(), "pairs");
        float number[1] = {1};
        for (int i = 0; i < times; ++i) {
          if (world.rank() == i % 64) begin_round();
          const auto until = steady::now() + 50ms;  // in it the stop strikes, wherever the ranks are
          for (bool more = true; more; more = number[0] > 0) {
            pairs.all_reduce(e, number, number, max{});
            number[0] = world.rank() == 0 && steady::now() < until ? 1.0f : 0.0f;
            world.broadcast(e, number, 0);
          }
        }
      });
    });
    const int passed = code == 0 ? times : 0;
    report_faults("F28", "threads", passed, times, "0 false alarms");
    CHECK(passed == times);
    CHECK(steady::now() - begin > times * 1000ms);
  }
}
