#include <moefold/train/rejoin.hpp>

#include "../support/fault_report.hpp"
#include "../support/run_ranks.hpp"

#include <moefold/comm/chaos.hpp>

#include <algorithm>
#include <array>
#include <map>
#include <set>

// A training step fails at each of its collective calls in turn. The calls are those that the flight recorder saw in a clean step.
//   F02  4 meshes x every call of a step x 2 victims x one of the phases in turn: the step ends on all ranks with one culprit, the world is rebuilt, the
//        run goes on from its save, and its next losses are those of a run without failures, bit for bit
using namespace moefold;

namespace {

constexpr int ranks = 8;
constexpr extent_t sequence = 16;
constexpr model_shape model{.layers = 4,
                            .hidden = 16,
                            .heads = 4,
                            .kv_heads = 4,
                            .head_dim = 4,
                            .experts = 8,
                            .ffn = 8,
                            .vocabulary = 64,
                            .score = score_function::sigmoid,
                            .expert_bias = true};
using chaotic = chaos<thread_comm>;
using trainer_type = basic_trainer<policies_of<run_defaults>, chaotic>;

struct site {
  comm_label axis;
  operation op;
  std::uint64_t seq;
  bool operator<(const site& o) const { return std::tuple(axis.view(), op, seq) < std::tuple(o.axis.view(), o.op, o.seq); }
};
using sites = std::map<site, std::set<int>>;  // and the ranks that make the call

struct kind_of_call {
  std::uint64_t collective = 0, sent = 0, received = 0;
  std::uint64_t next(operation op) { return op == operation::send ? sent++ : op == operation::recv ? received++ : collective++; }
};

/// Adds what a rank has called on a lane from its `first` call on, with the numbers that chaos gives to calls.
void add_sites(const flight_recorder& recorder, int rank, int lane, std::uint64_t first, sites& all) {
  const flight_ring& ring = recorder.ring(rank, lane);
  REQUIRE(ring.calls() <= flight_ring::entries);
  std::map<std::uint64_t, kind_of_call> numbers;  // by communicator
  ring.for_each([&](const flight_entry& e) {
    if (e.what.op == operation::close) return;
    const std::uint64_t seq = numbers[e.group.id].next(e.what.op);
    if (e.number >= first && e.group.size > 1) all[{recorder.labels()[e.group.label], e.what.op, seq}].insert(rank);
  });
}

struct outcome {
  int culprit = -1;  // -1: the step ended well; the own rank: it threw
  steady::time_point at{};
};
struct one_case {
  fault planned;
  std::array<outcome, ranks> seen{};
  bool same = true;  // the good step before it was the reference's
};

const dataset& data() {
  static const dataset tokens = [] {
    std::string text;
    for (std::size_t i = 0; i < 2000; ++i) text += char((i * i / 7 + i) % 61);
    return dataset(token_stream::from_bytes(text), sequence, 1);
  }();
  return tokens;
}

bool same(const step_result& a, const step_result& b) {
  return std::memcmp(&a.loss, &b.loss, sizeof a.loss) == 0 && std::memcmp(&a.grad_norm, &b.grad_norm, sizeof a.grad_norm) == 0;
}

/// Every `stride`-th case of one mesh.
void fail_everywhere(const folding_extents& fold, std::size_t stride, int& passed, int& all, int& recorded, int& covered,
                     std::vector<double>& milliseconds) {
  std::mutex guard;
  sites found;
  std::vector<one_case> cases;
  bool goes_on = true;
  run_ranks(ranks, [&](thread_comm& world) {
    const int rank = world.rank();
    host_context context;
    const host_exec e(context);
    std::array<fault, 1> plan{};
    const auto nothing = [&] { plan[0].rank = -1; };
    trainer_options options;
    options.global_batch = 4, options.bucket = 1, options.steps = 20, options.warmup = 2;
    std::optional<trainer_type> t;
    memory_save kept;
    const auto make = [&](chaotic of) { t.emplace(chaotic(std::move(of.inner()), plan), model, sequence, fold, options, data()); };
    nothing();
    make(chaotic(std::move(world), plan));
    t->step(), t->step();
    kept.take(*t);
    std::array<step_result, 3> reference{t->step(), t->step(), t->step()};

    // A clean step of a trainer that has gone on from the save, as all that fail below.
    rejoin(t, kept, make);
    CHECK(same(t->step(), reference[0]));
    t->parameters();  // nothing is in flight
    std::array<std::uint64_t, thread_world::lanes> before{};
    flight_recorder* recorder = nullptr;
    flight_recorder::for_each([&](flight_recorder& r) { recorder = &r; });  // the last one made is that of the rebuilt world
    for (int lane = 0; lane < thread_world::lanes; ++lane) before[std::size_t(lane)] = recorder->ring(rank, lane).calls();
    CHECK(same(t->step(), reference[1]));
    t->parameters();
    {
      const std::lock_guard lock(guard);
      for (int lane = 0; lane < thread_world::lanes; ++lane) add_sites(*recorder, rank, lane, before[std::size_t(lane)], found);
    }
    t->world().barrier(e);
    if (rank == 0) {
      std::size_t number = 0;
      for (const auto& [s, members] : found)
        for (const int victim : std::set<int>{*members.begin(), *members.rbegin()}) {
          fault f;
          f.rank = victim, f.axis = s.axis, f.op = s.op, f.seq = s.seq, f.phase = fault::phase_t(number % 3);
          if (number++ % stride == 0) cases.push_back({f});
        }
    }
    t->world().barrier(e);
    const auto go_on = [&](std::size_t next) {
      if (next < cases.size())
        plan[0] = cases[next].planned;
      else
        nothing();
      rejoin(t, kept, make);
    };

    go_on(0);
    for (std::size_t i = 0; i < cases.size(); ++i) {
      outcome& mine = cases[i].seen[std::size_t(rank)];
      try {
        if (!same(t->step(), reference[0])) {
          const std::lock_guard lock(guard);
          cases[i].same = false;
        }
        t->step();
        t->parameters();
        t->world().barrier(e);
      } catch (const injected_fault& f) {
        mine = {rank, f.thrown_at};
        go_on(i + 1);
        continue;
      } catch (const peer_failed& f) {
        mine = {f.cause().rank, steady::now()};
        go_on(i + 1);
        continue;
      }
      go_on(i + 1);
    }
    for (const step_result& r : reference)
      if (!same(t->step(), r)) goes_on = false;
  });
  CHECK(goes_on);
  std::set<site> hit;
  for (const one_case& c : cases) {
    const int victim = *c.planned.rank;
    bool good = c.same;
    for (const outcome& o : c.seen) {
      good = good && o.culprit == victim;
      if (&o != &c.seen[std::size_t(victim)])
        milliseconds.push_back(std::chrono::duration<double, std::milli>(o.at - c.seen[std::size_t(victim)].at).count());
    }
    CAPTURE(victim);
    CAPTURE(std::string(c.planned.axis.view()));
    CAPTURE(std::string(name_of(*c.planned.op)));
    CAPTURE(*c.planned.seq);
    CAPTURE(int(c.planned.phase));
    CHECK(good);
    passed += good;
    if (good) hit.insert({c.planned.axis, *c.planned.op, *c.planned.seq});
  }
  all += int(cases.size());
  recorded += int(found.size());
  covered += int(hit.size());
}

}  // namespace

TEST_SUITE("train/rejoin") {
  TEST_CASE(
      "F02: a step that fails at any of its calls ends on all ranks, and the run goes on in a rebuilt world as if nothing had happened") {
    using enum axis_id;
    const std::array meshes{make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}}),
                            make_folding({{tp, 4}, {dp, 2}}, {{etp, 2}, {ep, 4}}), make_folding({{cp, 2}, {dp, 4}}, {{ep, 8}}),
                            make_folding({{tp, 2}, {pp, 4}}, {{etp, 2}, {pp, 4}})};
    const std::size_t stride = std::getenv("MOEFOLD_SOAK") ? 1 : 11;
    int passed = 0, cases = 0, recorded = 0, covered = 0;
    std::vector<double> milliseconds;
    for (const folding_extents& fold : meshes) fail_everywhere(fold, stride, passed, cases, recorded, covered, milliseconds);
    report_faults("F02", "threads", passed, cases, milliseconds,
                  sentence(covered, " of ", recorded, " calls recorded in a step of 4 meshes"));
    CHECK(passed == cases);
    if (stride == 1) CHECK(covered == recorded);
    CHECK(percentile(milliseconds, 0.99) <= 100);
  }

  TEST_CASE("a save in memory is refused by a trainer that is no twin of the one it was taken from") {
    run_ranks<2>([](thread_comm& world) {
      const std::vector<fault> none;
      trainer_options options;
      options.global_batch = 4;
      const auto fold = make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}});
      model_shape wider = model;
      wider.ffn = 16;
      std::optional<trainer_type> t;
      t.emplace(chaotic(std::move(world), none), model, sequence, fold, options, data());
      memory_save kept;
      CHECK(kept.empty());
      t->step();
      kept.take(*t);
      CHECK(kept.position().step == 1);
      CHECK_THROWS_WITH_AS(rejoin(t, kept, [&](chaotic of) { t.emplace(std::move(of), wider, sequence, fold, options, data()); }),
                           doctest::Contains("restore it into a trainer of the same model"), config_error);
    });
  }

  TEST_CASE("until its first step has ended a trainer's ranks may be late; then lateness is a failure") {
    int ended = 0;
    CHECK_THROWS_AS(run_ranks<2>(
                        [&](thread_comm& world) {
                          const std::vector<fault> none;
                          trainer_options options;
                          options.global_batch = 4;
                          const auto fold = make_folding({{axis_id::dp, 2}}, {{axis_id::edp, 2}});
                          trainer_type t(chaotic(std::move(world), none), model, sequence, fold, options, data());
                          for (int i = 0; i < 2; ++i) {
                            if (t.world().rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(600));
                            t.step();
                            if (t.world().rank() == 0) ++ended;
                          }
                        },
                        {.deadline = std::chrono::milliseconds(300)}),
                    timeout);
    CHECK(ended == 1);
  }
}
