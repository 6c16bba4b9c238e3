#include <moefold/comm/socket_mesh.hpp>

#include <doctest/doctest.h>

#include <moefold/comm/socket.hpp>

#include <support/free_port.hpp>

#include <atomic>

#include <sys/wait.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {

/// Each rank sends its rank to each other one; the sum of what has come.
int exchange(transport& t) {
  int sum = 0;
  for (int p = 0; p < t.size(); ++p) {
    if (p == t.rank()) continue;
    const auto mine = std::byte(t.rank() + 1);
    std::byte theirs{};
    auto s = t.send(p, 1, std::span(&mine, 1)), r = t.receive(p, 1, std::span(&theirs, 1));
    while (!t.test(s) || !t.test(r)) t.idle(100ms);
    sum += int(theirs);
  }
  return sum;
}

}  // namespace

TEST_SUITE("comm/socket_mesh") {
  TEST_CASE("every two ranks have a connection, by IPv4, IPv6 or a name, while strangers come and go") {
    std::atomic<bool> over{false};
    std::atomic<int> port{0};
    std::thread stranger([&] {  // tries every port of the ranks it can guess: those that follow the meeting place's
      while (!over) {
        for (int p = port; p > 0 && p < port + 40; ++p) {
          const detail::file_descriptor fd(::socket(AF_INET, SOCK_STREAM, 0));
          sockaddr_in in{};
          in.sin_family = AF_INET, in.sin_port = htons(std::uint16_t(p)), in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
          if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&in), sizeof in) == 0)
            (void)::send(fd.get(), "GET / HTTP/1.1\r\n\r\n   .... and so on, forty bytes and more", 56, MSG_NOSIGNAL);
        }
        std::this_thread::sleep_for(2ms);
      }
    });
    for (const char* host : {"127.0.0.1", "localhost", "::1", "0.0.0.0"})
      for (const int size : {1, 2, 3, 8}) {
        if (std::string_view(host) == "::1" && !detail::listen_at("::1", 0)) continue;  // a machine without IPv6
        CAPTURE(host);
        CAPTURE(size);
        const address at{host, port = free_port()};
        std::atomic<int> good{0};
        std::vector<std::thread> threads;
        for (int r = 0; r < size; ++r)
          threads.emplace_back([&, r] {
            socket_transport t(r, connect_all(r, size, at, {20s}));
            good += exchange(t) == size * (size + 1) / 2 - (r + 1);
            (void)exchange(t);  // nobody leaves before all are through
          });
        for (std::thread& t : threads) t.join();
        CHECK(good == size);
      }
    over = true;
    stranger.join();
  }
  TEST_CASE("who does not show the job's token is not let in") {
    const address at{"127.0.0.1", free_port()};
    std::atomic<int> port{0}, refused{0};
    std::thread rank0([&] {
      try {
        (void)connect_all(0, 2, at, {700ms});
      } catch (const timeout& e) {
        refused += std::string(e.what()).find("rank 0 has no connection to rank 1") != std::string::npos && e.cause().rank == 1;
      }
    });
    detail::mesh_card mine;
    const rendezvous_table table = gather_from_all(1, 2, at, std::as_bytes(std::span(&mine, 1)), {20s});
    detail::mesh_card card;
    std::memcpy(&card, table.bytes.data(), sizeof card);
    CHECK(card.token != detail::job_token{});
    const detail::file_descriptor fd(::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    REQUIRE(detail::connected(fd.get(), table.hosts[0].with_port(int(card.port)), 1000));
    detail::mesh_greeting wrong{detail::mesh_magic, card.token, 1, 0};
    wrong.token[15] ^= std::byte(1);
    CHECK(::send(fd.get(), &wrong, sizeof wrong, MSG_NOSIGNAL) == ssize_t(sizeof wrong));
    rank0.join();
    CHECK(refused == 1);
  }
  TEST_CASE("a rank that ends between rendezvous and connection is named") {
    const address at{"127.0.0.1", free_port()};
    std::thread rank0([&] {
      detail::mesh_card mine;
      mine.port = std::uint32_t(free_port());  // where nobody listens
      (void)gather_from_all(0, 2, at, std::as_bytes(std::span(&mine, 1)), {20s});
    });
    try {
      (void)connect_all(1, 2, at, {500ms});
      FAIL("nobody was there");
    } catch (const timeout& e) {
      CHECK(e.cause().rank == 0);
      CHECK(std::string(e.what()).find("rank 1 has no connection to rank 0") != std::string::npos);
    }
    rank0.join();
  }
  TEST_CASE("a process that is killed is known to all others within moments") {
    const address at{"127.0.0.1", free_port()};
    int report[2];
    REQUIRE(::pipe(report) == 0);
    std::vector<pid_t> children;
    for (int r = 0; r < 4; ++r) {
      const pid_t child = ::fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        int code = 1;
        try {
          socket_transport t(r, connect_all(r, 4, at, {20s}));
          code = exchange(t) == 10 - (r + 1) ? 2 : 3;
          (void)!::write(report[1], &r, sizeof r);
          std::byte never{};
          auto waits = t.receive(r == 2 ? 0 : 2, 9, std::span(&never, 1));
          while (!t.test(waits)) t.idle(1s);
        } catch (const transport_error& e) {
          if (e.peer() == 2 && std::string(e.what()).find("rank 2's process has ended") != std::string::npos && code == 2) code = 0;
        } catch (...) {
          code = 4;
        }
        ::_exit(code);
      }
      children.push_back(child);
    }
    for (int came = 0, r = 0; came < 4; ++came) REQUIRE(::read(report[0], &r, sizeof r) == sizeof r);
    const auto begin = std::chrono::steady_clock::now();
    ::kill(children[2], SIGKILL);
    for (int r = 0; r < 4; ++r) {
      int status = -1;
      CHECK(::waitpid(children[std::size_t(r)], &status, 0) == children[std::size_t(r)]);
      CHECK((r == 2 ? WIFSIGNALED(status) : WIFEXITED(status) && WEXITSTATUS(status) == 0));
    }
    const double milliseconds = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    MESSAGE("killed and known to 3 processes, which have ended, after ", milliseconds, " ms");
    CHECK(milliseconds < 2000);
    ::close(report[0]), ::close(report[1]);
  }
}
