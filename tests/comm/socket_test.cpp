#include <moefold/comm/socket.hpp>

#include <doctest/doctest.h>

#include <support/socket_pairs.hpp>

#include <atomic>
#include <random>
#include <thread>

#include <sys/wait.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {

using bytes = std::vector<std::byte>;
bytes filled(std::size_t count, unsigned value) {
  bytes b(count);
  for (std::size_t i = 0; i < count; ++i) b[i] = std::byte((value * 31 + i * 7 + (i >> 8)) & 0xff);
  return b;
}

/// Waits until r is finished, and how many bytes it was; fails after 20 s.
std::size_t finish(transport& t, transport::request r) {
  std::size_t count = 0;
  for (const auto end = std::chrono::steady_clock::now() + 20s; !t.test(r, &count);) {
    require(std::chrono::steady_clock::now() < end, "a request never finished");
    t.idle(10ms);
  }
  CHECK_FALSE(r.pending());
  return count;
}
/// The same for two ranks that one thread moves.
void finish(transport& a, transport::request& of_a, transport& b, transport::request& of_b) {
  for (int i = 0;; ++i) {
    const bool one = a.test(of_a), other = b.test(of_b);
    if (one && other) return;
    require(i < 1'000'000, "a request never finished");
  }
}
constexpr std::size_t lengths[] = {0,
                                   1,
                                   100,
                                   socket_transport::eager_bytes - 1,
                                   socket_transport::eager_bytes,
                                   socket_transport::eager_bytes + 1,
                                   100'000,
                                   transport::most_bytes};

std::string thrown_by(auto&& f, int peer) {
  try {
    f();
  } catch (const transport_error& e) {
    CHECK(e.peer() == peer);
    return e.what();
  }
  return "nothing";
}
void wait_for_loss(transport& t, int peer) {
  bytes room(1);
  auto r = t.receive(peer, 4711, room);
  CHECK_THROWS_AS(finish(t, r), transport_error);
  t.abandon(r, nullptr);
}

}  // namespace

TEST_SUITE("comm/socket") {
  TEST_CASE("messages of any length arrive whole, whether the receive was started before or after") {
    auto two = socket_pairs(2);
    for (const bool first : {false, true})
      for (const std::size_t length : lengths) {
        CAPTURE(length);
        const bytes data = filled(length, 3);
        bytes room(length + 5);
        transport::request s, r;
        if (first) r = two[1]->receive(0, 7, room);
        s = two[0]->send(1, 7, data);
        for (int i = 0; i < 3; ++i) (void)two[0]->test(s);
        if (!first) r = two[1]->receive(0, 7, room);
        std::size_t count = 0;
        for (int i = 0; !two[1]->test(r, &count) && i < 1'000'000; ++i) (void)two[0]->test(s);
        finish(*two[0], s);
        CHECK(count == length);
        CHECK(std::equal(data.begin(), data.end(), room.begin()));
      }
  }
  TEST_CASE("messages of one tag come in their order, and tags know nothing of each other") {
    auto two = socket_pairs(2);
    std::vector<bytes> sent;
    std::vector<transport::request> sends;
    for (unsigned i = 0; i < 40; ++i) sent.push_back(filled(lengths[i % 7], i));
    for (unsigned i = 0; i < 40; ++i) sends.push_back(two[0]->send(1, i % 4, sent[i]));
    std::thread receiver([&] {
      for (const unsigned tag : {3u, 1u, 0u, 2u})
        for (unsigned i = tag; i < 40; i += 4) {
          bytes room(transport::most_bytes);
          room.resize(finish(*two[1], two[1]->receive(0, tag, room)));
          CHECK((room == sent[i]));
        }
    });
    for (const auto& s : sends) finish(*two[0], s);
    receiver.join();
  }
  TEST_CASE("what nobody asks for blocks nothing behind it") {
    auto two = socket_pairs(2);
    const bytes large = filled(transport::most_bytes, 1), small = filled(10, 2);
    std::vector<transport::request> waiting;
    for (int i = 0; i < 100; ++i) waiting.push_back(two[0]->send(1, 1, large));  // 100 MiB
    bytes room(10);
    auto s = two[0]->send(1, 2, small), r = two[1]->receive(0, 2, room);
    finish(*two[0], s, *two[1], r);
    CHECK((room == small));
    for (auto& w : waiting) {
      CHECK_FALSE(two[0]->test(w));
      two[0]->abandon(w, nullptr);
    }
  }
  TEST_CASE("small messages that nobody takes stop the sender at a bound, and come when they are taken") {
    auto two = socket_pairs(2);
    const bytes data = filled(socket_transport::eager_bytes, 1);
    constexpr std::size_t count = 2 * socket_transport::most_waiting / socket_transport::eager_bytes;
    std::vector<transport::request> sends;
    for (std::size_t i = 0; i < count; ++i) sends.push_back(two[0]->send(1, 1, data));
    bytes none(1);
    auto other = two[1]->receive(0, 2, none);
    for (int i = 0; i < 20'000; ++i) {
      (void)two[0]->test(sends.back());
      (void)two[1]->test(other);
    }
    CHECK(sends.back().pending());
    bytes room(data.size());
    for (std::size_t i = 0; i < count; ++i) {
      auto r = two[1]->receive(0, 1, room);
      finish(*two[0], sends[i], *two[1], r);
    }
    two[1]->abandon(other, nullptr);
    CHECK((room == data));
  }
  TEST_CASE("a message longer than its room is an error that says both, and the next one comes") {
    auto two = socket_pairs(2);
    for (const std::size_t length : {std::size_t(20), std::size_t(100'000)})
      for (const bool first : {true, false}) {
        const bytes data = filled(length, 1);
        bytes room(length - 1), good(length);
        transport::request r;
        if (first) r = two[1]->receive(0, 1, room);
        auto s = two[0]->send(1, 1, data), again = two[0]->send(1, 1, data);
        if (!first) {
          bytes none(1);
          auto waits = two[1]->receive(0, 9, none);
          for (int i = 0; i < 1000; ++i) (void)two[1]->test(waits);
          two[1]->abandon(waits, nullptr);
          r = two[1]->receive(0, 1, room);
        }
        const std::string text = thrown_by([&] { finish(*two[1], r); }, 0);
        CHECK(text.find(sentence("sent a message of ", length, " bytes to rank 1, which has room for ", length - 1)) != std::string::npos);
        two[1]->abandon(r, nullptr);
        two[0]->abandon(s, nullptr);
        auto rest = two[1]->receive(0, 1, good);
        finish(*two[0], again, *two[1], rest);
        CHECK((good == data));
      }
  }
  TEST_CASE("abandoned requests keep their memory as long as it may be touched, and disturb none that follow") {
    auto two = socket_pairs(2);
    std::mt19937 draw(1);
    for (int round = 0; round < 200; ++round) {
      const std::size_t length = lengths[draw() % 8];
      auto from = std::make_shared<bytes>(filled(length, 1)), to = std::make_shared<bytes>(length);
      const std::weak_ptr<bytes> watched = to;
      const std::uint32_t tag = 10 + std::uint32_t(round);
      auto s = two[0]->send(1, tag, *from);
      auto r = two[1]->receive(0, tag, *to);
      for (unsigned i = draw() % 4; i > 0; --i) (void)(draw() % 2 ? two[0]->test(s) : two[1]->test(r));
      two[0]->abandon(s, std::move(from));
      two[1]->abandon(r, std::move(to));
      const bytes data = filled(50'000, unsigned(round));
      bytes room(data.size());
      auto next = two[0]->send(1, 5, data), taken = two[1]->receive(0, 5, room);
      finish(*two[0], next, *two[1], taken);
      CHECK((room == data));
    }
  }
  TEST_CASE("a lost peer: what had arrived is delivered, then everything with it throws and names it; others go on") {
    auto three = socket_pairs(3);
    const bytes data = filled(1000, 1);
    finish(*three[2], three[2]->send(0, 1, data));
    bytes room(1000), never(10), large(100'000);
    auto started = three[0]->receive(2, 3, never);
    auto asks = three[0]->send(2, 3, large);
    three[2].reset();
    CHECK(thrown_by([&] { finish(*three[0], started); }, 2).find("rank 2's process has ended: ") != std::string::npos);
    CHECK(thrown_by([&] { finish(*three[0], asks); }, 2).find("rank 2's process has ended: ") != std::string::npos);
    three[0]->abandon(started, nullptr);
    three[0]->abandon(asks, nullptr);
    CHECK(finish(*three[0], three[0]->receive(2, 1, room)) == 1000);
    CHECK((room == data));
    CHECK(thrown_by([&] { (void)three[0]->receive(2, 1, room); }, 2) != "nothing");
    CHECK(thrown_by([&] { (void)three[0]->send(2, 1, data); }, 2) != "nothing");
    auto s = three[0]->send(1, 1, data), r = three[1]->receive(0, 1, room);
    finish(*three[0], s, *three[1], r);
  }
  TEST_CASE("abort closes everything, for the peers too") {
    auto two = socket_pairs(2);
    bytes room(1);
    auto r = two[0]->receive(1, 1, room);
    two[0]->abort(1);
    CHECK(thrown_by([&] { (void)two[0]->test(r); }, 1).find("rank 0 has ended the job") != std::string::npos);
    two[0]->abandon(r, nullptr);
    wait_for_loss(*two[1], 0);
  }
  TEST_CASE("wrong peers and lengths are refused") {
    auto two = socket_pairs(2);
    bytes room(transport::most_bytes + 1);
    for (const int peer : {-1, 0, 2}) CHECK_THROWS_AS((void)two[0]->send(peer, 1, room), error);
    CHECK_THROWS_WITH_AS((void)two[0]->send(1, 1, room), doctest::Contains("carries at most 1048576"), error);
    CHECK_THROWS_WITH_AS(socket_transport(0, std::vector<detail::file_descriptor>(2)), doctest::Contains("no socket to rank 1"), error);
  }
  TEST_CASE("many threads of many ranks send and receive at once") {
    for (const int ranks : {2, 3, 4, 8}) {
      auto all = socket_pairs(ranks);
      constexpr unsigned lanes = 2, rounds = 30;
      std::vector<std::thread> threads;
      std::atomic<int> wrong{0};
      for (int me = 0; me < ranks; ++me)
        for (unsigned lane = 0; lane < lanes; ++lane)
          threads.emplace_back([&, me, lane] {
            transport& t = *all[std::size_t(me)];
            for (unsigned round = 0; round < rounds; ++round) {
              std::vector<bytes> out, in;
              std::vector<transport::request> requests;
              for (int p = 0; p < ranks; ++p) {
                const auto length = [&](int from, int to) { return lengths[(unsigned(from * 5 + to * 3) + round + lane) % 7]; };
                out.push_back(filled(length(me, p), unsigned(me) * 100 + round));
                in.emplace_back(length(p, me));
              }
              for (int p = 0; p < ranks; ++p)
                if (p != me) {
                  requests.push_back(t.receive(p, lane, in[std::size_t(p)]));
                  requests.push_back(t.send(p, lane, out[std::size_t(p)]));
                }
              for (auto& r : requests) finish(t, r);
              for (int p = 0; p < ranks; ++p)
                if (p != me && in[std::size_t(p)] != filled(in[std::size_t(p)].size(), unsigned(p) * 100 + round)) ++wrong;
            }
          });
      for (std::thread& t : threads) t.join();
      CHECK(wrong == 0);
    }
  }
  TEST_CASE("a thread that idles is woken by what another thread has moved") {
    auto two = socket_pairs(2);
    const bytes data = filled(10, 1);
    for (int round = 0; round < 20; ++round) {
      bytes room(10);
      auto r = two[1]->receive(0, 1, room);
      std::atomic<bool> over{false};
      std::thread mover([&] {
        bytes none(1);
        auto other = two[1]->receive(0, 2, none);
        while (!over) (void)two[1]->test(other);
        two[1]->abandon(other, nullptr);
      });
      const auto begin = std::chrono::steady_clock::now();
      std::thread sender([&] {
        std::this_thread::sleep_for(2ms);
        finish(*two[0], two[0]->send(1, 1, data));
      });
      while (!two[1]->test(r)) two[1]->idle(5s);
      CHECK(std::chrono::steady_clock::now() - begin < 2s);
      over = true;
      sender.join();
      mover.join();
    }
  }
}
