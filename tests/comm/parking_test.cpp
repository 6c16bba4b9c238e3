#include <moefold/comm/parking.hpp>

#include <doctest/doctest.h>

#include <thread>
#include <vector>

using namespace moefold;
using namespace std::chrono_literals;

TEST_SUITE("comm/parking") {
  TEST_CASE("a changed word does not wait") {
    parking_word word;
    const auto seen = word.load();
    word.advance();
    spin_habit habit;
    CHECK(word.wait(seen, habit, steady::now()));
    CHECK(parking_word::advanced(seen, word.load()));
    CHECK_FALSE(parking_word::closed(word.load()));
  }
  TEST_CASE("an unchanged word waits until the deadline, not less and not much longer") {
    parking_word word;
    const auto begin = steady::now();
    spin_habit habit(10);
    CHECK_FALSE(word.wait(word.load(), habit, begin + 50ms));
    CHECK(steady::now() - begin >= 50ms);
    CHECK(steady::now() - begin < 2s);
  }
  TEST_CASE("spins in vain, one after the other, are followed by ever more waits without one, until one pays") {
    spin_habit habit(200);
    for (int rest : {0, 1, 3, 7, 15, 31, 63, 63}) {
      CHECK(habit.next() == 200);
      habit.in_vain();
      for (int i = 0; i < rest; ++i) CHECK(habit.next() == 0);
    }
    CHECK(habit.next() == 200);
    habit.paid();
    habit.in_vain();
    CHECK(habit.next() == 200);
    CHECK(spin_habit().next() == 0);  // more ranks than cores: never
  }
  TEST_CASE("a waiter knows how long it slept, and that it did not when the word had changed") {
    parking_word word;
    spin_habit habit(10);
    CHECK_FALSE(word.wait(word.load(), habit, steady::now() + 30ms));
    CHECK(habit.asleep() >= 25ms);
    CHECK(habit.asleep() < 2s);
    const auto before = habit.asleep();
    const auto seen = word.load();
    word.advance();
    CHECK(word.wait(seen, habit, steady::now() + 30ms));
    CHECK(habit.asleep() == before);
  }
  TEST_CASE("closing wakes everybody, for ever, and is told apart from an advance") {
    parking_word word;
    const auto seen = word.load();
    std::vector<std::thread> sleepers;
    std::atomic<int> awake{0};
    for (int i = 0; i < 4; ++i)
      sleepers.emplace_back([&] {
        spin_habit habit;
        awake += word.wait(seen, habit, steady::now() + 10s);
      });
    std::this_thread::sleep_for(20ms);
    CHECK(awake == 0);
    word.close();
    for (std::thread& t : sleepers) t.join();
    CHECK(awake == 4);
    CHECK(parking_word::closed(word.load()));
    CHECK_FALSE(parking_word::advanced(seen, word.load()));
    word.advance();
    CHECK(parking_word::closed(word.load()));
    CHECK(parking_word::advanced(seen, word.load()));
  }
  TEST_CASE("no wake is lost between two threads that take turns") {
    for (int spins : {0, 100}) {
      parking_word ping, pong;
      constexpr int rounds = 5000;
      std::thread other([&] {
        spin_habit habit(spins);
        for (std::uint32_t i = 0; i < rounds; ++i) {
          CHECK(ping.wait(2 * i, habit, steady::now() + 10s));
          pong.advance();
        }
      });
      spin_habit habit(spins);
      for (std::uint32_t i = 0; i < rounds; ++i) {
        ping.advance();
        REQUIRE(pong.wait(2 * i, habit, steady::now() + 10s));
      }
      other.join();
    }
  }
}
