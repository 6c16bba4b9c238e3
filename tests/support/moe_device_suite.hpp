#pragma once
// The whole MoE layer on a device with any dispatcher, against the same oracle as on the host (moe_suite.hpp): on one rank alone, and on thread ranks over
// device memory. Precisions, foldings and cases are values or few: a run on the emulator takes a while.
#include "device.hpp"
#include "moe_suite.hpp"

#include <moefold/comm/self.cuh>
#include <moefold/comm/thread.cuh>
#include <moefold/moefold.cuh>

namespace moefold::test {

/// Every third, fourth .. of the suite's cases: few, and over several calls all of them.
inline std::vector<moe_case> some_moe_cases(std::size_t first, std::size_t step) {
  const std::vector<moe_case> all = moe_cases();
  std::vector<moe_case> some;
  for (std::size_t i = first; i < all.size(); i += step) some.push_back(all[i]);
  return some;
}

/// fp64: to rounding, elementwise. Else by norm, to the limit; inputs and weights are then bf16 numbers.
template <class Policy, class Precision, class Comm = device_thread_comm>
void check_moe_on_device(const char* name, const std::vector<layout>& where, const std::vector<moe_case>& cases, double limit = 0) {
  using layer = moe_layer<Precision, Comm, Policy>;
  std::vector<moe_problem> problems;
  for (const moe_case& c : cases)
    if (limit == 0 || c.facts.jitter == 0) problems.emplace_back(c, limit > 0);  // jittered rows are stored: their choices may be others
  double worst = 0;
  int runs = 0;
  for (const layout& l : where) {
    CAPTURE(l.name());
    std::vector<moe_outcome> outcomes;
    for (const moe_problem& p : problems) outcomes.push_back(nothing_yet(l, p));
    std::mutex guard;
    const auto rank = [&](auto& world) {
      cuda_context context(0);
      const cuda_exec e(context);
      basic_arena<device_memory> keep;
      for (std::size_t i = 0; i < problems.size(); ++i)
        run_rank<Precision, layer>(e, world, l, problems[i], outcomes[i], guard, keep, i % 3 == 0);
    };
    if constexpr (std::is_same_v<Comm, device_self_comm>) {
      device_self_comm self;
      rank(self);
    } else {
      run_device_threads(int(l.world()), rank);
    }
    for (std::size_t i = 0; i < problems.size(); ++i, ++runs) {
      CAPTURE(problems[i].what.name());
      judge(outcomes[i], problems[i].answers(l), worst, limit);
    }
  }
  std::printf("%-36s %d runs on a device equal the single rank, largest error %.1e\n", name, runs, worst);
}

}  // namespace moefold::test
