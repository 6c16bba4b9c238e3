#include <moefold/train/stop_signals.hpp>

#include <doctest/doctest.h>

#include <chrono>
#include <functional>
#include <thread>

#include <sys/wait.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {

/// How a process ends that does this: its exit code, or minus the signal that killed it.
int end_of(const std::function<int()>& what) {
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    for (const int signal : {SIGINT, SIGTERM}) ::signal(signal, SIG_DFL);  // not the test program's own
    ::_exit(what());
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace

TEST_SUITE("train/stop_signals") {
  TEST_CASE("the first signal is noted and the process goes on") {
    for (const int signal : {SIGINT, SIGTERM}) {
      const stop_signals signals;
      CHECK(signals.asked() == 0);
      ::raise(signal);
      CHECK(signals.asked() == signal);
    }
  }
  TEST_CASE("a second one ends the process at once, with 128 and its number") {
    for (const int second : {SIGINT, SIGTERM})
      CHECK(end_of([&] {
              const stop_signals signals;
              ::raise(SIGTERM);
              std::this_thread::sleep_for(250ms);
              ::raise(second);
              return 1;
            }) == 128 + second);
  }
  TEST_CASE("a signal that is told twice in a moment is one") {
    CHECK(end_of([] {
            const stop_signals signals;
            ::raise(SIGTERM);
            ::raise(SIGTERM);
            return signals.asked() == SIGTERM ? 0 : 1;
          }) == 0);
  }
  TEST_CASE("afterwards signals do what they did before") {
    CHECK(end_of([] {
            { const stop_signals signals; }
            ::raise(SIGTERM);
            return 1;
          }) == -SIGTERM);
  }
  TEST_CASE("there is one at a time, and the next one has heard nothing") {
    {
      const stop_signals signals;
      CHECK_THROWS_WITH_AS(stop_signals(), doctest::Contains("one at a time"), error);
      ::raise(SIGINT);
    }
    const stop_signals signals;
    CHECK(signals.asked() == 0);
  }
  TEST_CASE("exit codes are what a shell makes of a signal") {
    CHECK(stop_signals::exit_code(SIGINT) == 130);
    CHECK(stop_signals::exit_code(SIGTERM) == 143);
    CHECK(stop_signals::name_of(SIGTERM) == "SIGTERM");
    CHECK(stop_signals::name_of(SIGUSR1) == "signal 10");
  }
}
