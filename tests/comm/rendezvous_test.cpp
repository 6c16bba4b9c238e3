#include <moefold/comm/rendezvous.hpp>

#include <doctest/doctest.h>

#include <support/free_port.hpp>

#include <array>
#include <atomic>

#include <sys/wait.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {

using blob = std::array<std::byte, 128>;
blob filled(int value) {
  blob b;
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = std::byte((value + int(i) * 7) & 0xff);
  return b;
}

/// What each rank threw, "" where it got rank 0's bytes.
std::vector<std::string> meet(int size, const address& at, rendezvous_options options, const std::vector<int>& who,
                              std::chrono::milliseconds first_late = 0ms) {
  std::vector<std::string> said(who.size());
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < who.size(); ++i)
    threads.emplace_back([&, i] {
      if (who[i] == 0) std::this_thread::sleep_for(first_late);
      blob mine = filled(who[i] == 0 ? 42 : 0);
      try {
        share_from_first(who[i], size, at, mine, options);
        said[i] = mine == filled(42) ? "" : "other bytes";
      } catch (const std::exception& e) {
        said[i] = e.what();
      }
    });
  for (std::thread& t : threads) t.join();
  return said;
}

}  // namespace

TEST_SUITE("comm/rendezvous") {
  TEST_CASE("everybody leaves with rank 0's bytes, however they spell its address") {
    for (const char* host : {"127.0.0.1", "localhost", "::1", "0.0.0.0"})
      for (const int size : {2, 3, 9}) {
        if (std::string_view(host) == "::1" && !detail::file_descriptor(::socket(AF_INET6, SOCK_STREAM, 0))) continue;
        CAPTURE(host);
        CAPTURE(size);
        std::vector<int> who;
        for (int r = size; r-- > 0;) who.push_back(r);
        const auto said = meet(size, {host, free_port()}, {20s}, who);
        if (std::string_view(host) == "::1" && said[0].find("Cannot assign") != std::string::npos) continue;  // a machine without IPv6
        for (const std::string& s : said) CHECK(s == "");
      }
  }
  TEST_CASE("one rank meets nobody") {
    blob mine = filled(3);
    share_from_first(0, 1, {}, mine);
    CHECK(mine == filled(3));
  }
  TEST_CASE("ranks that come before rank 0 wait for it") {
    for (const std::string& s : meet(3, {"127.0.0.1", free_port()}, {20s}, {0, 1, 2}, 300ms)) CHECK(s == "");
  }
  TEST_CASE("processes meet as threads do") {
    const address at{"127.0.0.1", free_port()};
    std::vector<pid_t> children;
    for (int r = 0; r < 4; ++r) {
      const pid_t child = ::fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        blob mine = filled(r == 0 ? 42 : 0);
        try {
          share_from_first(r, 4, at, mine, {20s});
          ::_exit(mine == filled(42) ? 0 : 1);
        } catch (...) {
          ::_exit(2);
        }
      }
      children.push_back(child);
    }
    for (const pid_t child : children) {
      int status = -1;
      CHECK(::waitpid(child, &status, 0) == child);
      CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
    }
  }
  TEST_CASE("who has not come is named to everybody who has") {
    const auto said = meet(5, {"127.0.0.1", free_port()}, {500ms}, {0, 1, 3});
    for (const std::string& s : said) {
      CAPTURE(s);
      CHECK(s.find("2 of 5 ranks have not come (missing: 2, 4)") != std::string::npos);
      CHECK(s == said[0]);
    }
    blob mine{};
    const address at{"127.0.0.1", free_port()};
    try {
      share_from_first(0, 2, at, mine, {100ms});
      FAIL("nobody came");
    } catch (const timeout& t) {
      CHECK(t.cause().rank == 1);
      CHECK(t.cause().elapsed >= 100ms);
    }
  }
  TEST_CASE("without rank 0 the others end too, and say so") {
    for (const std::string& s : meet(3, {"127.0.0.1", free_port()}, {300ms}, {1, 2}))
      CHECK(s.find("rank 0 could not be reached") != std::string::npos);
    CHECK(meet(2, {"no-such-host.invalid", 9}, {100ms}, {1})[0].find("its host name has no address") != std::string::npos);
  }
  TEST_CASE("two processes of one rank, or of other worlds, are a mismatch on every rank") {
    for (const std::string& s : meet(4, {"127.0.0.1", free_port()}, {20s}, {0, 2, 2}))
      CHECK(s.find("two processes say they are rank 2 of 4") != std::string::npos);
    const address at{"127.0.0.1", free_port()};
    std::string others, text;
    std::thread other([&] { others = meet(8, at, {20s}, {1})[0]; });
    text = meet(4, at, {20s}, {0})[0];
    other.join();
    CHECK(text == others);
    CHECK(text.find("rank 1 says there are 8 ranks, rank 0 says 4") != std::string::npos);
    blob mine{};
    CHECK_THROWS_AS(share_from_first(2, 2, at, mine), config_error);
    CHECK_THROWS_WITH_AS(share_from_first(0, 2, {}, mine), doctest::Contains("set MOEFOLD_RENDEZVOUS=host:port"), config_error);
  }
  TEST_CASE("a visitor that is none of ours disturbs nobody") {
    const address at{"127.0.0.1", free_port()};
    std::atomic<bool> over{false};
    std::thread stranger([&] {
      while (!over) {
        const detail::file_descriptor fd(::socket(AF_INET, SOCK_STREAM, 0));
        sockaddr_in in{};
        in.sin_family = AF_INET, in.sin_port = htons(std::uint16_t(at.port)), in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&in), sizeof in) == 0)
          (void)::send(fd.get(), "GET / HTTP/1.1\r\n\r\n   ....", 24, MSG_NOSIGNAL);
        std::this_thread::sleep_for(5ms);
      }
    });
    std::vector<std::string> said;
    std::thread late([&] {
      std::this_thread::sleep_for(100ms);
      said = meet(3, at, {20s}, {1, 2});
    });
    for (const std::string& s : meet(3, at, {20s}, {0})) CHECK(s == "");
    late.join();
    over = true;
    stranger.join();
    for (const std::string& s : said) CHECK(s == "");
  }
  TEST_CASE("everybody leaves with everybody's bytes, and with where everybody is") {
    for (const int size : {1, 2, 5}) {
      const address at{"127.0.0.1", free_port()};
      std::vector<std::thread> threads;
      std::atomic<int> good{0};
      for (int r = 0; r < size; ++r)
        threads.emplace_back([&, r] {
          const blob mine = filled(r);
          const rendezvous_table all = gather_from_all(r, size, at, mine, {20s});
          bool same = all.bytes.size() == std::size_t(size) * mine.size() && all.hosts.size() == std::size_t(size);
          for (int p = 0; same && p < size; ++p) {
            const blob theirs = filled(p);
            same = std::equal(theirs.begin(), theirs.end(), all.bytes.begin() + p * std::ptrdiff_t(theirs.size())) &&
                   (p == r || (all.hosts[std::size_t(p)].length > 0 && all.hosts[std::size_t(p)].loopback()));
          }
          good += same;
        });
      for (std::thread& t : threads) t.join();
      CHECK(good == size);
    }
  }
  TEST_CASE("who brings another number of bytes is a mismatch on every rank") {
    const address at{"127.0.0.1", free_port()};
    std::vector<std::string> said(3);
    std::vector<std::thread> threads;
    for (int r = 0; r < 3; ++r)
      threads.emplace_back([&, r] {
        const std::vector<std::byte> mine(r == 2 ? 7 : 8);
        try {
          (void)gather_from_all(r, 3, at, mine, {1s});
        } catch (const comm_error& e) {
          said[std::size_t(r)] = e.what();
        }
      });
    for (std::thread& t : threads) t.join();
    CHECK(said[0].find("rank 2 brings 7 bytes, rank 0 8") != std::string::npos);
    CHECK(said[2] == said[0]);
    CHECK((said[1] == said[0] || said[1].find("could not be reached") != std::string::npos));  // it came too late to hear
  }
  TEST_CASE("a port that is taken is an error that says so") {
    const address at{"127.0.0.1", free_port()};
    const detail::file_descriptor taken(::socket(AF_INET, SOCK_STREAM, 0));
    sockaddr_in in{};
    in.sin_family = AF_INET, in.sin_port = htons(std::uint16_t(at.port)), in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(taken.get(), reinterpret_cast<sockaddr*>(&in), sizeof in) == 0);
    REQUIRE(::listen(taken.get(), 1) == 0);
    blob mine{};
    CHECK_THROWS_WITH_AS(share_from_first(0, 2, at, mine, {1s}), doctest::Contains("is taken by another program"), config_error);
  }
}
