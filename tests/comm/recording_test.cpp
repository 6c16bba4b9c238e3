#include <moefold/comm/recording.hpp>

#include "../support/communicator_suite.hpp"
#include "../support/packed_comm.hpp"
#include "../support/run_ranks.hpp"

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>

using namespace moefold;

static_assert(communicator<recording<self_comm>> && peer_readable<recording<thread_comm>> && hookable<recording<thread_comm>>);
static_assert(fetching<recording<self_comm>> && fetching<recording<thread_comm>> && !fetching<recording<test::packed_comm>>);

TEST_SUITE("comm/recording") {
  TEST_CASE("a recorded communicator is a communicator") {
    run_ranks<3>([](thread_comm& world) {
      traffic_log log;
      recording<thread_comm> c(std::move(world), log);
      check_communicator<float, bf16>(c);
      CHECK(log("world", operation::barrier).calls == 1);
      CHECK(log("odd", operation::all_gather).calls == (c.rank() == 1 ? 0 : 1));  // ranks 0 and 2; rank 1 is alone
    });
  }
  TEST_CASE("each operation counts what the rule says") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      traffic_log log;
      recording<thread_comm> c(std::move(world), log);
      const auto me = std::size_t(c.rank());
      std::vector<float> ten(10), forty(40);
      c.all_reduce(e, ten, ten, sum{});
      c.all_gather(e, ten, forty);
      c.reduce_scatter(e, forty, ten, max{});
      c.all_to_all(e, std::vector<float>(40), forty);
      c.broadcast(e, ten, 1);
      c.reduce(e, std::vector<float>(10), ten, sum{}, 0);
      c.barrier(e);
      const std::vector<std::size_t> counts{5, 0, 2, 3};
      c.all_gather_v(e, std::vector<float>(counts[me]), counts, ten);
      c.reduce_scatter_v(e, std::vector<float>(10), counts, std::span(forty).first(counts[me]), sum{});
      const std::vector<std::size_t> from(4, counts[me]);  // rank r gets counts[r] from everybody
      c.all_to_all_v(e, ten, counts, std::span(forty).first(4 * counts[me]), from);
      c.send(e, ten, (c.rank() + 1) % 4);
      c.recv(e, ten, (c.rank() + 3) % 4);
      const auto is = [&](operation op, std::uint64_t calls, std::uint64_t messages, std::uint64_t bytes) {
        CAPTURE(name_of(op));
        CHECK(log("world", op) == traffic_count{calls, messages, bytes});
      };
      is(operation::all_reduce, 1, 6, 2 * 3 * 3 * 4);
      is(operation::all_gather, 1, 3, 3 * 40);
      is(operation::reduce_scatter, 1, 3, 3 * 40);
      is(operation::all_to_all, 1, 3, 3 * 40);
      is(operation::broadcast, 1, 1, 30);
      is(operation::reduce, 1, 1, 30);
      is(operation::barrier, 1, 0, 0);
      is(operation::all_gather_v, 1, counts[me] ? 3 : 0, 3 * counts[me] * 4);
      is(operation::reduce_scatter_v, 1, counts[me] ? 2 : 3, (10 - counts[me]) * 4);
      is(operation::all_to_all_v, 1, counts[me] ? 2 : 3, (10 - counts[me]) * 4);
      is(operation::send, 1, 1, 40);
      is(operation::recv, 1, 0, 0);
      CHECK(log.total("world").calls == 12);
    });
  }
  TEST_CASE("fetch_v counts exactly as the all_to_all_v it stands for, before it fetches") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      traffic_log log;
      recording<thread_comm> c(std::move(world), log);
      recording<thread_comm> packed = c.split(0, c.rank(), "packed"), fetched = c.split(0, c.rank(), "fetched");
      const auto me = std::size_t(c.rank());
      const std::vector<std::size_t> counts{5, 0, 2, 3}, from(4, counts[me]);
      const std::vector<double> ten(10, 1.0 + c.rank());
      std::vector<double> out(4 * counts[me]);
      packed.all_to_all_v(e, ten, counts, out, from);
      double sum = 0;
      fetched.fetch_v<double>(e, ten.data(), counts, from, [&](auto&& peer) {
        CHECK(log("fetched", operation::all_to_all_v).calls == 1);
        for (int p = 0; p < 4; ++p) sum += peer(p)[0];
      });
      CHECK(sum == 10);
      CHECK(log("fetched", operation::all_to_all_v) == log("packed", operation::all_to_all_v));
      CHECK(log("fetched", operation::all_to_all_v) == traffic_count{1, counts[me] ? 2u : 3u, (10 - counts[me]) * 8});
    });
    traffic_log log;
    recording<self_comm> alone(self_comm{}, log);
    host_context context;
    const std::vector<std::size_t> three{3};
    alone.fetch_v<float>(host_exec(context), 0, three, three, [](auto&&) {});
    CHECK(log.total() == traffic_count{});  // nothing travels
  }
  TEST_CASE("counting follows the labels of a split and leaves groups of one rank out") {
    run_ranks<4>([](thread_comm& world) {
      host_context context;
      const host_exec e(context);
      traffic_log log;
      recording<thread_comm> c(std::move(world), log);
      auto tp = c.split(c.rank() / 2, c.rank(), "tp");
      auto alone = c.split(c.rank(), 0, "etp");
      std::vector<double> v(6);
      tp.all_reduce(e, v, v, sum{});
      alone.all_reduce(e, v, v, sum{});
      CHECK(log("world", operation::split) == traffic_count{2, 0, 0});
      CHECK(log("tp", operation::all_reduce) == traffic_count{1, 2, 2 * 3 * 8});
      CHECK(log("etp", operation::all_reduce) == traffic_count{});
      CHECK(log.table().find("tp") != std::string::npos);
      CHECK(log.table().find("etp") == std::string::npos);
    });
  }
  TEST_CASE("logs compare and subtract by label, whatever the order the labels came in") {
    traffic_log a, b;
    a.add(a.row("tp"), operation::send, {1, 1, 8});
    a.add(a.row("cp"), operation::send, {2, 2, 16});
    b.add(b.row("cp"), operation::send, {2, 2, 16});
    CHECK_FALSE(a == b);
    traffic_log only_tp;
    only_tp.add(only_tp.row("tp"), operation::send, {1, 1, 8});
    CHECK(a - b == only_tp);
    b.add(b.row("tp"), operation::send, {1, 1, 8});
    CHECK(a == b);
    CHECK(a - b == traffic_log{});
    CHECK(a.total() == traffic_count{3, 3, 24});
  }
  TEST_CASE("a cleared log goes on counting under the labels of the communicators that hold it") {
    run_ranks<2>([](thread_comm& world) {
      host_context context;
      traffic_log log;
      recording<thread_comm> c(std::move(world), log);
      recording<thread_comm> other = c.split(0, c.rank(), "other");
      log.clear();
      CHECK(log.total() == traffic_count{});
      other.barrier(host_exec(context));
      CHECK(log("other", operation::barrier).calls == 1);
      CHECK(log("world", operation::barrier).calls == 0);
    });
  }
  TEST_CASE("more labels than the table holds is an error that says so") {
    traffic_log log;
    for (std::size_t i = 0; i < traffic_log::max_labels; ++i) log.row(comm_label(std::to_string(i)));
    CHECK_THROWS_WITH_AS(log.row("one more"), doctest::Contains("32 labels"), error);
  }
}
