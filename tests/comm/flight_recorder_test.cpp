#include <moefold/comm/flight_recorder.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <thread>

using namespace moefold;

namespace {
std::chrono::steady_clock::time_point at(std::int64_t nanoseconds) {
  return std::chrono::steady_clock::time_point(std::chrono::nanoseconds(nanoseconds));
}
}  // namespace

TEST_SUITE("comm/flight_recorder") {
  TEST_CASE("an entry says everything about its call, while it runs and after it has ended") {
    flight_ring ring;
    CHECK(ring.calls() == 0);
    CHECK_FALSE(ring.read(0));
    const flight_group group{0xfeedfacecafebeef, 7, 12, 11};
    const signature what{operation::reduce, dtype::bf16, "max", 5, std::uint64_t{1} << 63, 1234567890123, true};
    const std::uint64_t number = ring.enter(group, what, at(1000));
    auto e = ring.read(number);
    REQUIRE(e);
    CHECK(e->what == what);
    CHECK(e->group.id == group.id);
    CHECK(e->group.label == 7);
    CHECK(e->group.size == 12);
    CHECK(e->group.rank == 11);
    CHECK(e->state == flight_state::inside);
    CHECK(e->start == 1000);
    CHECK(e->end == 0);
    ring.leave(number, flight_state::failed, at(2500));
    e = ring.read(number);
    REQUIRE(e);
    CHECK(e->what == what);
    CHECK(e->state == flight_state::failed);
    CHECK(e->end == 2500);
    for (const char* reduction : {"", "sum", "max", "apart"}) {
      const auto again = ring.read(ring.enter(group, {operation::split, dtype::uint8, reduction}, at(1)));
      REQUIRE(again);
      CHECK(again->what.reduction == std::string_view(reduction));
      CHECK(again->what.root == -1);
    }
  }
  TEST_CASE("the newest entry overwrites the oldest, and the order stays") {
    flight_ring ring;
    const std::uint64_t calls = 3 * flight_ring::entries + 17;
    for (std::uint64_t i = 0; i < calls; ++i)
      ring.leave(ring.enter({}, {.op = operation::barrier, .seq = i}, at(std::int64_t(i))), flight_state::done, at(std::int64_t(i + 1)));
    CHECK(ring.calls() == calls);
    std::uint64_t next = calls - flight_ring::entries;
    CHECK_FALSE(ring.read(next - 1));
    CHECK_FALSE(ring.read(calls));
    ring.for_each([&](const flight_entry& e) {
      CHECK(e.number == next);
      CHECK(e.what.seq == next++);
    });
    CHECK(next == calls);
  }
  TEST_CASE("a call that ends after its entry was overwritten changes no other") {
    flight_ring ring;
    const std::uint64_t outer = ring.enter({}, {.op = operation::expose}, at(1));
    for (std::size_t i = 0; i < flight_ring::entries; ++i) ring.enter({}, {.seq = i}, at(2));
    ring.leave(outer, flight_state::failed, at(3));
    ring.for_each([](const flight_entry& e) { CHECK(e.state == flight_state::inside); });
  }
  TEST_CASE("readers beside the writer see whole entries only") {
    flight_ring ring;
    std::atomic<bool> more{true};
    const auto write = [&] {  // every word of an entry follows from its number
      for (std::uint64_t n = 0; n < 40'000; ++n) {
        const flight_group group{n * 3, std::uint32_t(n % 256), std::uint32_t(n), std::uint32_t(n / 2)};
        ring.enter(group, {operation(n % operations), dtype(n % 8), n % 2 ? "sum" : "", int(n % 1000), n * 5, n * 7}, at(std::int64_t(n)));
        ring.leave(n, flight_state::done, at(std::int64_t(n + 1)));
        if (n % 1024 == 0) std::this_thread::yield();
      }
      more = false;
    };
    const auto read = [&](std::uint64_t& seen, std::uint64_t& wrong) {
      while (more) {
        const std::uint64_t last = ring.calls();
        for (std::uint64_t n = last > 8 ? last - 8 : 0; n < last + 2; ++n) {
          const auto e = ring.read(n % 3 == 0 && n > 4090 ? n - 4090 : n);  // the newest, and those about to be overwritten
          if (!e) continue;
          const std::uint64_t k = e->number;
          const bool ended = e->state == flight_state::done && e->end == std::int64_t(k + 1);
          ++seen;
          wrong += !(e->group.id == k * 3 && e->group.label == k % 256 && e->group.size == k && e->group.rank == k / 2 &&
                     e->what.op == operation(k % operations) && e->what.type == dtype(k % 8) && e->what.root == int(k % 1000) &&
                     e->what.count == k * 5 && e->what.seq == k * 7 && e->start == std::int64_t(k) &&
                     (ended || e->state == flight_state::inside));
        }
      }
    };
    std::uint64_t seen[2] = {}, wrong[2] = {};
    std::thread a([&] { read(seen[0], wrong[0]); }), b([&] { read(seen[1], wrong[1]); }), writer(write);
    for (std::thread* t : {&a, &b, &writer}) t->join();
    MESSAGE((seen[0] + seen[1]), " entries read beside the writer");
    CHECK(wrong[0] + wrong[1] == 0);
  }
  TEST_CASE("labels are numbered once, and those beyond the room have a name too") {
    flight_labels labels;
    CHECK(labels.number_of("world") == 0);
    CHECK(labels.number_of("cp x dp") == 1);
    CHECK(labels.number_of("world") == 0);
    CHECK(labels[1] == comm_label("cp x dp"));
    CHECK(labels[2] == comm_label("..."));
    for (int i = 0; i < 300; ++i) labels.number_of(comm_label(sentence("g", i)));
    CHECK(labels.number_of("one more") == flight_labels::most);
    CHECK(labels[flight_labels::most] == comm_label("..."));
    CHECK(labels[flight_labels::most - 1] == comm_label("g253"));
  }
  TEST_CASE("communicators have ids of their own") {
    std::vector<std::uint64_t> ids;
    for (std::uint64_t of : {0, 1})
      for (std::uint64_t number = 0; number < 30; ++number)
        for (std::uint64_t first = 0; first < 30; ++first) ids.push_back(flight_id(number, first, of));
    std::sort(ids.begin(), ids.end());
    CHECK(std::unique(ids.begin(), ids.end()) == ids.end());
  }
  TEST_CASE("a recorder has a ring per rank that lives here and lane") {
    flight_recorder recorder(8, 4, 2, 2);
    CHECK(recorder.here() == 2);
    recorder.ring(5, 1).enter({}, {.op = operation::send}, at(0));
    CHECK(recorder.ring(4, 0).calls() + recorder.ring(4, 1).calls() + recorder.ring(5, 0).calls() == 0);
    CHECK(recorder.ring(5, 1).calls() == 1);
  }
}
