#pragma once
// The fault matrix that every communicator of the host passes: 8 ranks as threads of this process, whatever carries their data.
//
//   F01  a rank throws       12 operations x 8 victims x 3 phases        all others: peer_failed, one culprit, p99 of detection <= 100 ms
//   F04  a rank hangs        12 operations x 2 deadlines                 all others: timeout with arrived and missing, within 100 ms of it
//   F05  a rank is slow      at random calls of many steps               nothing fails and the report names it; later than the deadline: as F04
//   F06  mismatched order    12 x 11 pairs of operations                 all ranks: signature_mismatch, no data written
//   F07  mismatched values   count, type, root, reduction, splits        the same
//   F08  the wrong group     21 pairs of axes                            all ranks: signature_mismatch that prints who waits for whom
// Runner: `comm`, its communicator; `name`; and run(ranks, f, deadlines), which calls f(world) on one thread per rank, fails the world with what f throws,
// and throws the root cause when all have ended. No case may take 5 s.
#include <moefold/comm/chaos.hpp>
#include <moefold/comm/failure.hpp>
#include <moefold/comm/parking.hpp>
#include <moefold/core/rng.hpp>
#include <moefold/mesh/extents.hpp>
#include <moefold/mesh/group.hpp>

#include "fault_report.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <limits>
#include <string>
#include <thread>
#include <vector>

namespace moefold::faults {

using namespace std::chrono_literals;

struct deadlines {
  std::chrono::nanoseconds first = 60s, later = 20s;
};

constexpr int ranks = 8;
constexpr float untouched = -77.0f;

// The twelve calls of the matrix; send and recv are one exchange around the ring.
constexpr std::array calls{operation::barrier,    operation::broadcast,    operation::reduce,         operation::all_reduce,
                           operation::all_gather, operation::all_gather_v, operation::reduce_scatter, operation::reduce_scatter_v,
                           operation::all_to_all, operation::all_to_all_v, operation::send,           operation::split};

// Buffers of one rank, large enough for every operation: what is received goes to `out`, which shows if anything was written.
struct buffers {
  std::size_t count;  // elements per peer
  std::vector<float> in = std::vector<float>(count * ranks, 1.0f);
  std::vector<float> out = std::vector<float>(count * ranks, untouched);
  std::vector<std::size_t> counts = std::vector<std::size_t>(ranks, count);

  std::span<const float> part() const { return std::span(in).first(count); }
  std::span<float> out_part() { return std::span(out).first(count); }
  bool clean() const {
    return std::all_of(out.begin(), out.end(), [](float x) { return x == untouched; });
  }
};

template <class C>
void make_call(C& c, host_exec e, operation op, buffers& b) {
  switch (op) {
    case operation::barrier: c.barrier(e); break;
    case operation::broadcast: c.broadcast(e, b.out_part(), 0); break;
    case operation::reduce: c.reduce(e, b.part(), b.out_part(), sum{}, 0); break;
    case operation::all_reduce: c.all_reduce(e, b.part(), b.out_part(), sum{}); break;
    case operation::all_gather: c.all_gather(e, b.part(), b.out); break;
    case operation::all_gather_v: c.all_gather_v(e, b.part(), b.counts, b.out); break;
    case operation::reduce_scatter: c.reduce_scatter(e, b.in, b.out_part(), sum{}); break;
    case operation::reduce_scatter_v: c.reduce_scatter_v(e, b.in, b.counts, b.out_part(), sum{}); break;
    case operation::all_to_all: c.all_to_all(e, b.in, b.out); break;
    case operation::all_to_all_v: c.all_to_all_v(e, b.in, b.counts, b.out, b.counts); break;
    case operation::send:
      c.send(e, b.part(), (c.rank() + 1) % c.size());
      c.recv(e, b.out_part(), (c.rank() + c.size() - 1) % c.size());
      break;
    default: c.split(c.rank() % 2, c.rank()); break;
  }
}

// What a rank saw of a failure.
struct outcome {
  enum kind_t { none, peer, late, mismatch, revoked, injected, other } kind = none;
  root_cause cause;
  std::string text;
  steady::time_point at{};
  bool clean = true;  // nothing was written
};

// Runs `body(world, exec, outcome)` on every rank and notes how each ends.
template <class Runner, class Body>
std::array<outcome, ranks> run(Body&& body, deadlines limits = {}, std::chrono::nanoseconds longest = 5s) {
  std::array<outcome, ranks> seen;
  const auto begin = steady::now();
  try {
    Runner::run(
        ranks,
        [&](typename Runner::comm& world) {
          host_context context;
          const host_exec e(context);
          outcome& mine = seen[std::size_t(world.rank())];
          const auto note = [&](outcome::kind_t kind, const error& failure, root_cause cause) {
            mine.at = steady::now();
            mine.kind = kind, mine.text = failure.what(), mine.cause = std::move(cause);
          };
          try {
            body(world, e, mine);
          } catch (const peer_failed& f) {
            note(outcome::peer, f, f.cause());
            throw;
          } catch (const timeout& f) {
            note(outcome::late, f, f.cause());
            throw;
          } catch (const signature_mismatch& f) {
            note(outcome::mismatch, f, f.cause());
            throw;
          } catch (const comm_revoked& f) {
            note(outcome::revoked, f, f.cause());
            throw;
          } catch (const injected_fault& f) {
            note(outcome::injected, f, {});
            mine.at = f.thrown_at;  // not when it got here: the others may know by then
            throw;
          }
        },
        limits);
  } catch (const std::exception&) {
  }
  CHECK(steady::now() - begin < longest);
  return seen;
}

/// f(0) .. f(cases - 1), four at a time: of what mostly sleeps.
template <class F>
void side_by_side(std::size_t cases, F&& f) {
  std::atomic<std::size_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] {
      for (std::size_t c = next++; c < cases; c = next++) f(c);
    });
  for (std::thread& t : threads) t.join();
}

inline bool same_cause(const root_cause& a, const root_cause& b) {
  return a.rank == b.rank && a.label == b.label && a.op == b.op && a.seq == b.seq && a.message == b.message;
}

// Every rank reports a mismatch with the same words, and wrote nothing.
inline bool all_mismatched(const std::array<outcome, ranks>& seen, std::string_view word = "ranks disagree on") {
  return std::all_of(seen.begin(), seen.end(), [&](const outcome& o) {
    return o.kind == outcome::mismatch && o.clean && same_cause(o.cause, seen[0].cause) && o.text.find(word) != o.text.npos;
  });
}

/// F01: when a rank throws at a call, all others learn of it, of the culprit and of nothing else.
template <class Runner>
void f01() {
  using comm = typename Runner::comm;
  int passed = 0, cases = 0;
  std::vector<double> milliseconds;
  for (operation op : calls)
    for (int victim = 0; victim < ranks; ++victim)
      for (const char* phase : {"before", "inside", "after"}) {
        const std::size_t count = cases % 2 == 0 ? 4 : 4000;  // inside the post, and outside
        const auto plan = parse_faults(sentence("rank=", victim, " axis=world op=", name_of(op),
                                                op == operation::send ? " seq=1" : " seq=2", " phase=", phase, " do=throw"));
        const auto seen = run<Runner>([&](comm& inner, host_exec e, outcome&) {
          chaos<comm> world(std::move(inner), plan);
          buffers b{count};
          world.barrier(e);
          make_call(world, e, op, b);
          for (int more = 0; more < 10; ++more) make_call(world, e, op, b);
          world.barrier(e);
        });
        ++cases;
        const outcome& thrower = seen[std::size_t(victim)];
        const outcome& witness = seen[victim == 0 ? 1 : 0];
        bool good = thrower.kind == outcome::injected;
        for (int r = 0; r < ranks; ++r) {
          const outcome& o = seen[std::size_t(r)];
          if (r == victim) continue;
          good = good && o.kind == outcome::peer && o.cause.rank == victim && same_cause(o.cause, witness.cause) &&
                 o.cause.axis() == "world" && o.text.find("injected fault") != o.text.npos;
          milliseconds.push_back(std::chrono::duration<double, std::milli>(o.at - thrower.at).count());
        }
        CAPTURE(name_of(op));
        CAPTURE(victim);
        CAPTURE(phase);
        CAPTURE(witness.text);
        CHECK(good);
        passed += good;
      }
  report_faults("F01", Runner::name, passed, cases, milliseconds);
  CHECK(cases == 288);
  CHECK(passed == 288);
  CHECK(percentile(milliseconds, 0.99) <= 100.0);
}

/// F04: when a rank does not arrive, all others time out at the deadline and list who arrived and who is missing.
template <class Runner>
void f04() {
  using comm = typename Runner::comm;
  struct result {
    bool good = true, in_time = true;
    double latest = 0;
    std::string text;
  };
  constexpr std::array limits{100ms, 300ms};
  std::array<result, limits.size() * calls.size()> results;
  side_by_side(results.size(), [&](std::size_t i) {
    const operation op = calls[i % calls.size()];
    const auto deadline = limits[i / calls.size()];
    const int victim = int(i) % ranks;
    const auto plan = parse_faults(sentence("rank=", victim, " op=", name_of(op), " seq=1 do=hang:", deadline.count() + 150));
    std::array<double, ranks> waited{};
    const auto seen = run<Runner>(
        [&](comm& inner, host_exec e, outcome&) {
          const auto me = std::size_t(inner.rank());
          chaos<comm> world(std::move(inner), plan);
          buffers b{1000};
          if (op == operation::send) make_call(world, e, op, b);
          world.barrier(e);
          const auto begin = steady::now();
          try {
            make_call(world, e, op, b);
            world.barrier(e);  // where ring neighbours that got their letter wait for the rest
          } catch (...) {
            waited[me] = std::chrono::duration<double, std::milli>(steady::now() - begin).count();
            throw;
          }
        },
        {2s, deadline});
    result& mine = results[i];
    const auto limit = double(deadline.count());
    for (int r = 0; r < ranks; ++r) {
      const outcome& o = seen[std::size_t(r)];
      if (r == victim) continue;
      mine.good = mine.good && o.kind == outcome::late && o.cause.rank == victim && o.text.find("arrived: ") != o.text.npos &&
                  o.text.find(sentence("missing: ", victim)) != o.text.npos && same_cause(o.cause, seen[victim == 0 ? 1 : 0].cause);
      mine.in_time = mine.in_time && waited[std::size_t(r)] >= 0.5 * limit && waited[std::size_t(r)] <= limit + 100;
      mine.latest = std::max(mine.latest, waited[std::size_t(r)] - limit);
    }
    // The first to notice does so not before the deadline of its own call; the others are woken by it.
    mine.in_time = mine.in_time && *std::max_element(waited.begin(), waited.end()) >= limit;
    mine.text = seen[victim == 0 ? 1 : 0].text;
  });
  int passed = 0;
  double latest = 0;
  for (const result& r : results) {
    CAPTURE(r.text);
    CHECK(r.good);
    CHECK(r.in_time);
    passed += r.good && r.in_time;
    latest = std::max(latest, r.latest);
  }
  report_faults("F04", Runner::name, passed, int(results.size()), sentence("latest ", latest, " ms after the deadline"));
  CHECK(passed == 24);
}

/// F05: a rank that is slow at one call of a step, by less than the deadline, fails nothing and is named by the report; by more, it is the one that all
/// others name when they time out, whomever they waited for themselves.
template <class Runner>
void f05(int steps, int late_steps, std::chrono::milliseconds deadline) {
  using comm = typename Runner::comm;
  using enum axis_id;
  const folding_extents fold = make_folding({{tp, 2}, {cp, 2}, {dp, 2}}, {{ep, 4}, {edp, 2}});
  constexpr std::array axes{tp, cp, ep, tp, edp, dp};  // a step: a call on each, then one on the world
  const auto step = [&](std::vector<comm>& groups, comm& world, host_exec e, int slow_at, std::chrono::nanoseconds time, auto&& entering) {
    float number[1] = {1};
    for (std::size_t i = 0; i <= axes.size(); ++i) {
      if (slow_at == int(i)) std::this_thread::sleep_for(time);
      entering();
      (i < axes.size() ? groups[i] : world).all_reduce(e, number, number, sum{}).wait(e);
    }
  };
  const auto groups_of = [&](comm& world) {
    std::vector<comm> groups;
    for (const axis_id axis : axes) {
      const extents& mesh = fold.attention.of(axis) > 1 ? fold.attention : fold.moe;
      groups.push_back(world.split(int(group_index(mesh, axis_set(axis), world.rank())), world.rank(), comm_label(name_of(axis))));
    }
    return groups;
  };

  int named = 0, done = 0, false_alarms = 0, machine_late = 0;  // a busy machine may keep a rank away for so long that it is late indeed
  std::array<steady::time_point, ranks> began{}, entered{};
  const auto seen = run<Runner>(
      [&](comm& world, host_exec e, outcome&) {
        std::vector<comm> groups = groups_of(world);
        const auto me = std::size_t(world.rank());
        const random_stream draw(5, "slow ranks");
        std::array<std::int64_t, ranks> before{}, late{};
        for (int s = 0; s < steps; ++s) {
          const std::uint64_t bits = draw.bits(std::uint64_t(s));
          const int victim = int(bits % ranks), at = int(bits / 8 % (axes.size() + 1));
          const auto time = deadline * (0.1 + 0.8 * double(bits / 64 % 1000) / 1000);
          for (int r = 0; r < ranks; ++r) before[std::size_t(r)] = world.stragglers()[r].late.count();
          began[me] = entered[me] = steady::now();
          bool alarm = false;
          try {
            world.barrier(e).wait(e);
            step(groups, world, e, world.rank() == victim ? at : -1, std::chrono::duration_cast<std::chrono::nanoseconds>(time),
                 [&] { entered[me] = steady::now(); });
            for (int r = 0; r < ranks; ++r) late[std::size_t(r)] = world.stragglers()[r].late.count() - before[std::size_t(r)];
            world.all_reduce(e, late, late, sum{}).wait(e);  // where each process has a table of its own
          } catch (const timeout&) {
            alarm = true;
            groups.clear();
            world = world.rebuild();
            groups = groups_of(world);
          }
          if (world.rank() == 0 && alarm)
            ++(*std::max_element(entered.begin(), entered.end()) - *std::min_element(began.begin(), began.end()) < deadline * 97 / 100
                   ? false_alarms
                   : machine_late);
          if (world.rank() == 0 && !alarm) {
            named += std::max_element(late.begin(), late.end()) - late.begin() == victim;
            ++done;
          }
          world.starting(true);  // between two steps nobody is measured
          world.barrier(e).wait(e);
          world.starting(false);
        }
      },
      {2s, deadline}, 5s + steps * deadline);
  for (const outcome& o : seen) CHECK_MESSAGE(o.kind == outcome::none, o.text);
  CHECK(false_alarms == 0);
  CHECK(done + machine_late == steps);
  CHECK(named >= done - done / 100);

  std::atomic<int> told{0};
  side_by_side(std::size_t(late_steps), [&](std::size_t i) {
    const int victim = int(i) % ranks, at = int(i % (axes.size() + 1));
    const auto late = run<Runner>(
        [&](comm& world, host_exec e, outcome&) {
          std::vector<comm> groups = groups_of(world);
          step(groups, world, e, -1, {}, [] {});
          step(groups, world, e, world.rank() == victim ? at : -1, 2 * deadline, [] {});
        },
        {2s, deadline});
    told += std::all_of(late.begin(), late.end(), [&](const outcome& o) { return o.kind == outcome::late && o.cause.rank == victim; });
    for (const outcome& o : late)
      if (o.cause.rank != victim) CHECK_MESSAGE(false, "rank ", victim, " was late, and the error says: ", o.text);
  });
  CHECK(told == late_steps);
  report_faults("F05", Runner::name, named, done,
                sentence(false_alarms, " false alarms; in ", machine_late, " steps more the machine was late; ", told.load(), " of ",
                         late_steps, " late ranks timed out and were blamed"));
}

/// F06: ranks that make different calls all get a signature mismatch, and no data is written.
template <class Runner>
void f06() {
  using comm = typename Runner::comm;
  int passed = 0, cases = 0;
  for (operation usual : calls)
    for (operation odd : calls) {
      if (usual == odd) continue;
      const int victim = cases++ % ranks;
      const std::size_t count = cases % 2 == 0 ? 4 : 4000;
      const auto seen = run<Runner>([&](comm& world, host_exec e, outcome& mine) {
        buffers b{count};
        world.barrier(e);
        struct look {  // at the buffers, on the way out
          buffers& b;
          outcome& mine;
          bool letters;
          ~look() { mine.clean = letters || b.clean(); }
        } at_end{b, mine, usual == operation::send};  // letters between ranks that agree do arrive
        make_call(world, e, world.rank() == victim ? odd : usual, b);
        world.barrier(e);
      });
      const bool good = all_mismatched(seen);
      CAPTURE(name_of(usual));
      CAPTURE(name_of(odd));
      CAPTURE(victim);
      CAPTURE(seen[0].text);
      CHECK(good);
      passed += good;
    }
  report_faults("F06", Runner::name, passed, cases);
  CHECK(cases == 132);
  CHECK(passed == 132);
}

/// F07: ranks that disagree on count, type, root, reduction or splits all get a signature mismatch, and no data is written.
template <class Runner>
void f07() {
  using comm = typename Runner::comm;
  int passed = 0, cases = 0;
  const auto check = [&](std::string_view what, auto&& honest, auto&& lie) {
    const int victim = cases++ % ranks;
    const auto seen = run<Runner>([&](comm& world, host_exec e, outcome& mine) {
      buffers b{4000};
      world.barrier(e);
      struct look {
        buffers& b;
        outcome& mine;
        bool reads;
        ~look() { mine.clean = reads || b.clean(); }
      } at_end{b, mine, what.starts_with("recv")};
      if (world.rank() == victim)
        lie(world, e, b);
      else
        honest(world, e, b);
      world.barrier(e);
    });
    const bool good = all_mismatched(seen);
    CAPTURE(what);
    CAPTURE(victim);
    CAPTURE(seen[0].text);
    CHECK(good);
    passed += good;
  };
  const auto call = [](operation op) { return [op](comm& c, host_exec e, buffers& b) { make_call(c, e, op, b); }; };

  // Counts: +1, -1, 0, x2, 2^31, 2^63 elements. Such spans have no memory behind them: touching it would be the end of the test.
  constexpr std::size_t usual = 4000;
  for (const std::size_t count : {usual + 1, usual - 1, std::size_t{0}, 2 * usual, std::size_t{1} << 31, std::size_t{1} << 63}) {
    const auto fake_in = [count](buffers& b) { return std::span<const float>(b.in.data(), count); };
    const auto fake_out = [count](buffers& b) { return std::span<float>(b.out.data(), count); };
    check("count broadcast", call(operation::broadcast), [&](auto& c, auto e, auto& b) { c.broadcast(e, fake_out(b), 0); });
    check("count reduce", call(operation::reduce), [&](auto& c, auto e, auto& b) { c.reduce(e, fake_in(b), fake_out(b), sum{}, 0); });
    check("count all_reduce", call(operation::all_reduce),
          [&](auto& c, auto e, auto& b) { c.all_reduce(e, fake_in(b), fake_out(b), sum{}); });
    check("recv", call(operation::send), [&](auto& c, auto e, auto& b) {
      c.send(e, b.part(), (c.rank() + 1) % ranks);
      c.recv(e, fake_out(b), (c.rank() + ranks - 1) % ranks);
    });
    if (count > std::numeric_limits<std::size_t>::max() / ranks) continue;  // ranks x count is no size at all: refused on the rank itself
    const auto wide_in = [count](buffers& b) { return std::span<const float>(b.in.data(), count * ranks); };
    const auto wide_out = [count](buffers& b) { return std::span<float>(b.out.data(), count * ranks); };
    check("count all_gather", call(operation::all_gather), [&](auto& c, auto e, auto& b) { c.all_gather(e, fake_in(b), wide_out(b)); });
    check("count reduce_scatter", call(operation::reduce_scatter),
          [&](auto& c, auto e, auto& b) { c.reduce_scatter(e, wide_in(b), fake_out(b), sum{}); });
    check("count all_to_all", call(operation::all_to_all), [&](auto& c, auto e, auto& b) { c.all_to_all(e, wide_in(b), wide_out(b)); });

    // Splits: one entry of the counts differs.
    const auto lied = [count](const buffers& b, int which) {
      auto counts = b.counts;
      counts[std::size_t(which)] = count;
      return counts;
    };
    const auto sum_in = [](buffers& b, std::size_t total) { return std::span<const float>(b.in.data(), total); };
    const auto sum_out = [](buffers& b, std::size_t total) { return std::span<float>(b.out.data(), total); };
    const std::size_t total = usual * (ranks - 1) + count;
    check("splits all_gather_v, another's", call(operation::all_gather_v),
          [&](auto& c, auto e, auto& b) { c.all_gather_v(e, b.part(), lied(b, (c.rank() + 3) % ranks), sum_out(b, total)); });
    check("splits all_gather_v, its own", call(operation::all_gather_v),
          [&](auto& c, auto e, auto& b) { c.all_gather_v(e, fake_in(b), lied(b, c.rank()), sum_out(b, total)); });
    check("splits reduce_scatter_v", call(operation::reduce_scatter_v),
          [&](auto& c, auto e, auto& b) { c.reduce_scatter_v(e, sum_in(b, total), lied(b, (c.rank() + 3) % ranks), b.out_part(), sum{}); });
    for (int distance = 0; distance < ranks; distance += 3) {
      check("splits all_to_all_v, sent", call(operation::all_to_all_v), [&](auto& c, auto e, auto& b) {
        c.all_to_all_v(e, sum_in(b, total), lied(b, (c.rank() + distance) % ranks), b.out, b.counts);
      });
      check("splits all_to_all_v, expected", call(operation::all_to_all_v), [&](auto& c, auto e, auto& b) {
        c.all_to_all_v(e, b.in, b.counts, sum_out(b, total), lied(b, (c.rank() + distance) % ranks));
      });
    }
  }

  // Another type, by chaos: same counts, other elements.
  for (operation op : calls) {
    if (op == operation::barrier || op == operation::split) continue;
    const auto plan = parse_faults(sentence("op=", name_of(op), " do=dtype"));
    check(op == operation::send ? "recv" : "dtype", call(op), [&](comm& c, host_exec e, buffers& b) {
      chaos<comm> liar(std::move(c), plan);
      make_call(liar, e, op, b);
      liar.barrier(e);
    });
  }

  check("root broadcast", call(operation::broadcast), [](auto& c, auto e, auto& b) { c.broadcast(e, b.out_part(), 1); });
  check("root reduce", call(operation::reduce), [](auto& c, auto e, auto& b) { c.reduce(e, b.part(), b.out_part(), sum{}, 1); });
  check("reduction reduce", call(operation::reduce), [](auto& c, auto e, auto& b) { c.reduce(e, b.part(), b.out_part(), max{}, 0); });
  check("reduction all_reduce", call(operation::all_reduce),
        [](auto& c, auto e, auto& b) { c.all_reduce(e, b.part(), b.out_part(), max{}); });
  check("reduction reduce_scatter", call(operation::reduce_scatter),
        [](auto& c, auto e, auto& b) { c.reduce_scatter(e, b.in, b.out_part(), max{}); });
  check("reduction reduce_scatter_v", call(operation::reduce_scatter_v),
        [](auto& c, auto e, auto& b) { c.reduce_scatter_v(e, b.in, b.counts, b.out_part(), max{}); });
  report_faults("F07", Runner::name, passed, cases);
  CHECK(passed == cases);
}

/// F08: when one rank calls on one axis and the others on another, all ranks learn who waits for whom, and do so long before the deadline.
template <class Runner>
void f08() {
  using comm = typename Runner::comm;
  using enum axis_id;
  constexpr std::array axes{tp, cp, dp, pp, ep, etp, edp};
  const std::array meshes{make_folding({{tp, 2}, {cp, 2}, {dp, 2}}, {{etp, 2}, {ep, 2}, {edp, 2}}),  // every pair without pp
                          make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{etp, 2}, {ep, 2}, {pp, 2}}),
                          make_folding({{tp, 2}, {dp, 2}, {pp, 2}}, {{etp, 2}, {edp, 2}, {pp, 2}})};
  const auto has = [](const folding_extents& fold, axis_id a) { return fold.attention.of(a) > 1 || fold.moe.of(a) > 1; };
  int passed = 0, cases = 0, named = 0;
  std::vector<double> milliseconds;
  for (std::size_t a = 0; a < axes.size(); ++a)
    for (std::size_t b = a + 1; b < axes.size(); ++b) {
      const auto fold = std::find_if(meshes.begin(), meshes.end(), [&](const auto& m) { return has(m, axes[a]) && has(m, axes[b]); });
      REQUIRE(fold != meshes.end());
      const int victim = cases++ % ranks;
      std::array<steady::time_point, ranks> begin{};
      const auto seen = run<Runner>(
          [&](comm& world, host_exec e, outcome&) {
            const auto over = [&](axis_id axis) {
              const extents& mesh = fold->attention.of(axis) > 1 ? fold->attention : fold->moe;
              const extent_t rank = world.rank();
              return world.split(int(group_index(mesh, axis_set(axis), rank)), int(rank), comm_label(name_of(axis)));
            };
            comm usual = over(axes[a]), odd = over(axes[b]);
            world.barrier(e);
            begin[std::size_t(world.rank())] = steady::now();
            float number[1] = {1};
            (world.rank() == victim ? odd : usual).all_reduce(e, number, number, sum{});
            world.barrier(e);
          },
          {2s, 2s});
      bool good = true;
      for (int r = 0; r < ranks; ++r) {
        const outcome& o = seen[std::size_t(r)];
        const std::string odd_call = sentence("rank ", victim, " waits in all_reduce #0 on ", name_of(axes[b]), " for rank ");
        good = good && o.kind == outcome::mismatch && same_cause(o.cause, seen[0].cause) && o.text.find(odd_call) != o.text.npos;
        milliseconds.push_back(std::chrono::duration<double, std::milli>(o.at - begin[std::size_t(r)]).count());
      }
      good = good && milliseconds.back() < 1000;
      named += seen[0].cause.rank == victim;
      CAPTURE(name_of(axes[a]));
      CAPTURE(name_of(axes[b]));
      CAPTURE(victim);
      CAPTURE(seen[0].text);
      CHECK(good);
      passed += good;
    }
  report_faults("F08", Runner::name, passed, cases, milliseconds, sentence("the odd rank blamed in ", named));
  CHECK(cases == 21);
  CHECK(passed == 21);
}

}  // namespace moefold::faults
