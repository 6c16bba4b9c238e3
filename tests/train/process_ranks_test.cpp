#include <moefold/train/process_ranks.hpp>

#include <doctest/doctest.h>

#include <support/free_port.hpp>

#include <functional>

#include <sys/wait.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {

struct ended {
  int code = -1;
  std::string said;  // "config: ...", "error: ...", by the process that speaks; else "-"
};
/// What each of `size` processes comes to that does this with its ranks.
std::vector<ended> launched(int size, const std::function<int(const process_ranks&)>& what) {
  const address at{"127.0.0.1", free_port()};
  std::vector<std::pair<pid_t, int>> children;
  for (int r = 0; r < size; ++r) {
    int two[2];
    REQUIRE(::pipe(two) == 0);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      const launch_info me{launcher::variables, r, size, r, size, at, false};
      std::string said = "-";
      int code = 9;
      try {
        code = run_launched(me, what);
      } catch (const std::exception& e) {
        code = dynamic_cast<const config_error*>(&e) ? 2 : 1;
        if (speaks_of(me, e)) said = e.what();
      }
      (void)!::write(two[1], said.data(), said.size());
      ::_exit(code);
    }
    ::close(two[1]);
    children.emplace_back(child, two[0]);
  }
  std::vector<ended> all;
  for (const auto& [child, pipe] : children) {
    ended e;
    char text[4096];
    for (ssize_t n; (n = ::read(pipe, text, sizeof text)) > 0;) e.said.append(text, std::size_t(n));
    int status = -1;
    REQUIRE(::waitpid(child, &status, 0) == child);
    e.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    ::close(pipe);
    all.push_back(std::move(e));
  }
  return all;
}
int meet(process_comm& world) {
  host_context context;
  std::int32_t sum_of = world.rank();
  world.all_reduce(host_exec(context), std::span<const std::int32_t>(&sum_of, 1), std::span(&sum_of, 1), sum{}).wait(host_exec(context));
  return sum_of;
}

}  // namespace

TEST_SUITE("train/process_ranks") {
  TEST_CASE("processes run together, and their code is what the program returned") {
    for (const ended& e : launched(3, [](const process_ranks& ranks) {
           CHECK(ranks.world(0, 1) == 3);
           CHECK(ranks.text(3) == "3 ranks as processes (MOEFOLD_*), over TCP sockets");
           int code = 0, alone = 0;
           ranks.alone([&](process_comm& world) { alone = world.size(); });
           ranks.run(3, [&](process_comm& world) { code = meet(world); });
           return code + (alone == (ranks.speaks() ? 1 : 0) ? 0 : 50);
         })) {
      CHECK(e.code == 3);
      CHECK(e.said == "-");
    }
  }
  TEST_CASE("what all ranks see alike is said once, as it is") {
    for (const bool config : {true, false}) {
      const auto all = launched(3, [&](const process_ranks&) -> int {
        if (config) throw config_error("moefold: no such thing");
        throw error("moefold: no such thing");
      });
      for (int r = 0; r < 3; ++r) {
        CHECK(all[std::size_t(r)].code == (config ? 2 : 1));
        CHECK(all[std::size_t(r)].said == (r == 0 ? "moefold: no such thing" : "-"));
      }
    }
  }
  TEST_CASE("what one rank meets before the others run is everybody's error, said once with the rank's name") {
    const auto all = launched(4, [](const process_ranks& ranks) {
      int code = 0;
      bool mine = false;
      ranks.alone([&](process_comm&) { mine = true; });  // rank 0 alone
      if (mine) throw config_error("moefold: cannot read 'x'");
      ranks.run(4, [&](process_comm&) { code = 8; });
      return code;
    });
    for (int r = 0; r < 4; ++r) {
      CHECK(all[std::size_t(r)].code == 2);
      CHECK(all[std::size_t(r)].said == (r == 0 ? "moefold: rank 0: cannot read 'x'" : "-"));
    }
  }
  TEST_CASE("a rank that fails while they run, is killed, or hangs: one process says so") {
    ::setenv("MOEFOLD_TIMEOUT_FACTOR", "0.01", 1);  // 0.2 s
    const auto failing = [](int culprit, const std::function<void()>& how) {
      return launched(3, [=](const process_ranks& ranks) {
        ranks.run(3, [&](process_comm& world) {
          (void)meet(world);
          if (world.rank() == culprit) how();
          (void)meet(world);
        });
        return 0;
      });
    };
    for (const int culprit : {0, 1}) {
      CAPTURE(culprit);
      for (const auto& [how, words, exit] :
           {std::tuple{std::function<void()>([] { throw error("moefold: this went wrong"); }), std::string("this went wrong"), 1},
            {std::function<void()>([] { ::raise(SIGKILL); }), sentence("rank ", culprit, " is lost"), 128 + SIGKILL},
            {std::function<void()>([] { std::this_thread::sleep_for(1500ms); }), std::string("all_reduce #"), 1}}) {
        CAPTURE(words);
        const auto all = failing(culprit, how);
        std::string said;
        int speakers = 0;
        for (int r = 0; r < 3; ++r) {
          const ended& e = all[std::size_t(r)];
          CHECK(e.code == (r == culprit ? exit : 1));
          if (e.said != "-" && e.said != "") ++speakers, said = e.said;
        }
        CHECK(speakers == 1);
        CAPTURE(said);
        CHECK(said.find(words) != std::string::npos);
      }
    }
    ::unsetenv("MOEFOLD_TIMEOUT_FACTOR");
  }
  TEST_CASE("what they travel by can be said, and what is not built in is refused") {
    const launch_info me{launcher::variables, 0, 1, 0, 1, {}, false};
    CHECK(carrier_of(me)->name() == "TCP sockets");
    ::setenv("MOEFOLD_TRANSPORT", "pigeons", 1);
    CHECK_THROWS_WITH_AS(carrier_of(me), doctest::Contains("give mpi or sockets"), config_error);
#if !defined(MOEFOLD_WITH_MPI)
    ::setenv("MOEFOLD_TRANSPORT", "mpi", 1);
    CHECK_THROWS_WITH_AS(carrier_of(me), doctest::Contains("was built without MPI"), config_error);
#endif
    ::unsetenv("MOEFOLD_TRANSPORT");
  }
  TEST_CASE("another number of ranks than were started is refused") {
    const auto all = launched(2, [](const process_ranks& ranks) { return int(ranks.world(3, 1)); });
    CHECK(all[0].code == 2);
    CHECK(all[0].said.find("MOEFOLD_* started 2 processes and --ranks asks for 3") != std::string::npos);
  }
}
