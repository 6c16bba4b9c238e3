#pragma once
// What rebuild() promises, for any communicator whose ranks are threads of this process; Runner as in support/fault_matrix.hpp.
#include <moefold/comm/failure.hpp>
#include <moefold/comm/parking.hpp>

#include "fault_matrix.hpp"

#include <optional>

namespace moefold::faults {

template <class C>
double sum_over(C& world, host_exec e) {
  double number[1] = {double(world.rank() + 1)};
  world.all_reduce(e, number, number, sum{}).wait(e);
  return number[0];
}
inline constexpr double whole_sum = ranks * (ranks + 1) / 2;

/// Fails `times` times, each time with another rank as the culprit that throws at one of the calls below, and goes on in a fresh world each time.
template <class Runner>
void rebuild_after_failures(int times) {
  using comm = typename Runner::comm;
  std::atomic<int> told{0}, revoked{0}, right{0}, thrown{0};
  Runner::run(ranks,
              [&](comm& world) {
                host_context context;
                const host_exec e(context);
                std::vector<comm> graves;  // communicators of worlds that are gone, destroyed when all is over
                for (int time = 0; time < times; ++time) {
                  comm pairs = world.split(world.rank() / 2, world.rank(), "pairs");
                  std::vector<float> numbers(3000, 1.0f), sums(3000);
                  const int victim = time % ranks;
                  try {
                    for (int i = 0;; ++i) {
                      std::optional<comm> beside;
                      std::optional<typename comm::ticket> ticket;
                      if constexpr (overlapping<comm>) {
                        beside.emplace(world.apart("beside"));
                        ticket = beside->all_reduce(e, numbers, sums, sum{});
                      }
                      if (world.rank() == victim && i == time % 3) throw injected_fault("moefold: injected fault");
                      float number[1] = {1};
                      pairs.all_reduce(e, number, number, sum{}).wait(e);
                      world.barrier(e).wait(e);
                      if (ticket) ticket->wait(e);
                    }
                  } catch (const injected_fault&) {
                    ++thrown;
                    comm fresh = world.rebuild();
                    std::swap(world, fresh);
                    graves.push_back(std::move(fresh));
                  } catch (const peer_failed& f) {
                    told += f.cause().rank == victim;  // of what it threw, or of the operation that it left in flight
                    comm fresh = world.rebuild();
                    std::swap(world, fresh);
                    graves.push_back(std::move(fresh));
                  }
                  graves.push_back(std::move(pairs));
                  for (comm& grave : graves) try {
                      grave.barrier(e).wait(e);
                    } catch (const comm_revoked& f) {
                      revoked += std::string_view(f.what()).find("rebuilt") != std::string_view::npos;
                    }
                  right += sum_over(world, e) == whole_sum && world.rank() >= 0 && world.size() == ranks &&
                           comm_label(world.label()) == comm_label("world");
                }
              },
              {});
  CHECK(thrown == times);
  CHECK(told == times * (ranks - 1));
  CHECK(right == times * ranks);
  CHECK(revoked == ranks * times * (times + 1));
}

/// Nothing has failed, and yet the ranks leave their world together.
template <class Runner>
void rebuild_when_sound() {
  using comm = typename Runner::comm;
  std::atomic<int> right{0}, revoked{0};
  Runner::run(ranks,
              [&](comm& world) {
                host_context context;
                const host_exec e(context);
                for (int i = 0; i < 3; ++i) {
                  comm old = world.split(0, world.rank(), "old");
                  right += sum_over(old, e) == whole_sum;
                  world = world.rebuild();
                  try {
                    old.barrier(e).wait(e);
                  } catch (const comm_revoked&) {
                    ++revoked;
                  }
                  right += sum_over(world, e) == whole_sum;
                }
              },
              {});
  CHECK(right == 6 * ranks);
  CHECK(revoked == 3 * ranks);
}

/// One rank ends, or never comes: every other rank is told who it is that the world cannot be rebuilt without.
template <class Runner, class Error>
void rebuild_in_vain(bool ends) {
  using comm = typename Runner::comm;
  std::atomic<int> told{0};
  std::atomic<bool> over{false};
  CHECK_THROWS(Runner::run(ranks,
                           [&](comm& world) {
                             host_context context;
                             const host_exec e(context);
                             const int victim = 5;
                             try {
                               if (world.rank() == victim) throw injected_fault("moefold: injected fault");
                               world.barrier(e).wait(e);
                             } catch (const injected_fault&) {
                               if (!ends)
                                 for (int i = 0; i < 400 && !over; ++i) std::this_thread::sleep_for(10ms);  // comes too late
                               throw;
                             } catch (const comm_error&) {
                             }
                             try {
                               comm fresh = world.rebuild();
                             } catch (const Error& f) {
                               const std::string_view text = f.what();
                               if (f.cause().rank == victim && text.find("rank 5") != text.npos) ++told;
                               if (told == ranks - 1) over = true;
                               throw;
                             }
                           },
                           {300ms, 300ms}));
  CHECK(told == ranks - 1);
}

}  // namespace moefold::faults
