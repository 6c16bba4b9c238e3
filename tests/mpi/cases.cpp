#include "cases.hpp"

#include "../support/communicator_suite.hpp"

#include <moefold/comm/chaos.hpp>

#include <doctest/doctest.h>

#include <csignal>
#include <thread>

// Every process runs the same cases in one order. The whole fault matrix of the process communicator runs over queues (comm/process_test.cpp); here, a
// part of it through real MPI.
using namespace moefold;
using namespace std::chrono_literals;

namespace {

struct seen_failure {
  std::string text;
  root_cause cause;
  double milliseconds = 0;
};
/// What the run threw on this rank.
template <class Error, class F>
seen_failure failure_of(F&& f, process_options options = {}) {
  seen_failure seen;
  auto begin = steady::now();
  try {
    run_over_mpi(
        [&](process_comm& world) {
          host_context context;
          world.barrier(host_exec(context));
          begin = steady::now();
          try {
            f(world, host_exec(context));
          } catch (...) {
            seen.milliseconds = std::chrono::duration<double, std::milli>(steady::now() - begin).count();
            throw;
          }
        },
        options);
  } catch (const Error& e) {
    seen.text = e.what();
    if constexpr (std::derived_from<Error, comm_error>) seen.cause = e.cause();
  }
  return seen;
}
struct failed_on_purpose : std::runtime_error {
  using std::runtime_error::runtime_error;
};

int ranks() {
  int n = 0;
  run_over_mpi([&](process_comm& world) { n = world.size(); }, {});
  return n;
}
int my_rank() {
  int r = 0;
  run_over_mpi([&](process_comm& world) { r = world.rank(); }, {});
  return r;
}

}  // namespace

void moefold::work_until_death(process_comm& world, int victim, const char* how) {
  host_context context;
  const host_exec e(context);
  std::vector<float> data(100000, 1.0f);
  for (int step = 0;; ++step) {
    world.all_reduce(e, data, data, max{});
    if (step < 3 || world.rank() != victim) continue;
    const std::string_view way = how;
    if (way == "SIGKILL") std::raise(SIGKILL);
    if (way == "SIGSEGV") std::signal(SIGSEGV, SIG_DFL), std::raise(SIGSEGV);
    if (way == "exit") std::exit(3);
    if (way == "_Exit") std::_Exit(3);
    if (way == "throw") throw failed_on_purpose("on purpose");
    std::this_thread::sleep_for(1h);  // "hang"
  }
}

TEST_SUITE("mpi") {
  TEST_CASE("The communicator suite") {
    run_over_mpi([](process_comm& world) { check_communicator<float, std::int32_t>(world); }, {});
  }

  TEST_CASE("A world that has failed is rebuilt") {
    const int n = ranks();
    run_over_mpi(
        [&](process_comm& world) {
          host_context context;
          const host_exec e(context);
          std::vector<float> data(5000, 1.0f), more(5000, 1.0f);  // they outlive what works on them
          process_comm sub = world.split(0, world.rank(), "sub");
          process_comm beside = sub.apart("beside");
          for (int victim = 0; victim < n; ++victim) {
            try {
              auto t = beside.all_reduce(e, data, data, max{});
              if (world.rank() == victim) world.set_hook([](void*) { throw failed_on_purpose("one rank leaves"); }, nullptr);
              world.all_reduce(e, more, more, max{});
              t.wait(e);
              world.barrier(e);
              FAIL_CHECK("nobody failed");
            } catch (const std::exception&) {
            }
            CHECK_THROWS_AS(world.barrier(e), comm_revoked);
            world = world.rebuild();
            sub = world.split(0, world.rank(), "sub");
            beside = sub.apart("beside");
          }
          check_communicator<float>(world);
        },
        {});
  }

  TEST_CASE("F01: when a rank throws, all others are told of it, through MPI") {
    const int n = ranks(), me = my_rank();
    int cases = 0, passed = 0;
    double worst = 0;
    for (const char* op : {"barrier", "all_reduce", "all_to_all_v", "split"})
      for (int victim = 0; victim<n; victim += n> 4 ? 3 : 1) {
        const auto plan = parse_faults(sentence("rank=", victim, " axis=world op=", op, " seq=3 phase=inside do=throw"));
        const auto body = [&](process_comm& inner, host_exec e) {
          chaos<process_comm> world(std::move(inner), plan);
          std::vector<float> in(std::size_t(n) * 4000, 1.0f), out(in.size());
          const std::vector<std::size_t> counts(std::size_t(n), 4000);
          for (int i = 0; i < 20; ++i) {
            if (*op == 'b') world.barrier(e);
            if (op[4] == 'r') world.all_reduce(e, in, out, sum{});
            if (op[4] == 't') world.all_to_all_v(e, in, counts, out, counts);
            if (*op == 's') (void)world.split(0, 0);
          }
        };
        ++cases;
        const auto seen = me == victim ? failure_of<injected_fault>(body) : failure_of<peer_failed>(body);
        const bool good = seen.text.find("injected fault") != seen.text.npos && (me == victim || seen.cause.rank == victim);
        CAPTURE(op);
        CAPTURE(seen.text);
        CHECK(good);
        passed += good;
        worst = std::max(worst, seen.milliseconds);
      }
    if (me == 0) MESSAGE("F01: ", passed, " of ", cases, " cases over MPI, ", n, " processes; the slowest run ended after ", worst, " ms");
  }

  TEST_CASE("F04: when a rank does not arrive, all others time out at the deadline, through MPI") {
    const int me = my_rank(), victim = ranks() - 1;
    int passed = 0;
    for (const auto deadline : {200ms, 400ms}) {
      const auto seen = failure_of<timeout>(
          [&](process_comm& world, host_exec e) {
            if (me == victim) std::this_thread::sleep_for(deadline + 300ms);
            world.barrier(e);
          },
          {.first_deadline = deadline, .deadline = deadline});
      CAPTURE(seen.text);
      const bool good = seen.cause.rank == victim && seen.text.find(sentence("missing: ", victim)) != seen.text.npos;
      CHECK(good);
      passed += good;
      if (me != victim) CHECK(seen.milliseconds <= double(deadline.count()) + 1000);  // more processes than cores
    }
    if (me == 0)
      MESSAGE("F04: ", passed, " of 2 cases over MPI, ", ranks(), " processes");
    else
      (void)ranks();
  }

  TEST_CASE("F06: ranks that make different calls all get a signature mismatch, through MPI") {
    const int n = ranks(), me = my_rank();
    int passed = 0;
    for (int odd = 0; odd < 5; ++odd) {
      const auto seen = failure_of<signature_mismatch>([&](process_comm& world, host_exec e) {
        std::vector<float> in(std::size_t(n) * 3000, 1.0f), out(in.size(), -7.0f);
        if (me != odd % n)
          world.all_reduce(e, in, out, sum{});
        else if (odd == 0)
          world.barrier(e);
        else if (odd == 1)
          world.broadcast(e, out, 0);
        else if (odd == 2)
          world.all_to_all(e, in, out);
        else if (odd == 3)
          world.recv(e, out, (me + 1) % n);
        else
          (void)world.split(0, 0);
      });
      CAPTURE(seen.text);
      const bool good = seen.text.find("ranks disagree on world") != seen.text.npos;
      CHECK(good);
      passed += good;
    }
    if (me == 0) MESSAGE("F06: ", passed, " of 5 cases over MPI, ", n, " processes");
  }
}

TEST_SUITE("mpi_large") {
  TEST_CASE("F24: more than 2^31 bytes in one call") {
    run_over_mpi(
        [](process_comm& world) {
          host_context context;
          const host_exec e(context);
          std::vector<float> data((std::size_t(1) << 29) + 2, world.rank() == 0 ? 3.0f : 0.0f);  // 2^31 + 8 bytes
          if (world.rank() == 0) data.back() = 5.0f;
          world.broadcast(e, data, 0);
          CHECK(data.front() == 3.0f);
          CHECK(data[std::size_t(1) << 29] == 3.0f);
          CHECK(data.back() == 5.0f);
          world.all_reduce(e, data, data, sum{});
          CHECK(data.front() == 3.0f * float(world.size()));
          CHECK(data.back() == 5.0f * float(world.size()));
        },
        {});
  }
}
