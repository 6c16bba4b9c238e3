#pragma once
// What every schedule that trains must do: run for any number of stages and micro-batches, keep what it says, stand still as long as it says.
#include <moefold/schedule/check.hpp>

#include <doctest/doctest.h>

namespace moefold::testing {

template <timed_schedule Schedule>
void check_schedule_everywhere() {
  for (int stages = 1; stages <= 9; ++stages)
    for (int m = 0; m <= 20; ++m)
      for (const step_times& times : {step_times{1, 2, 1}, step_times{2, 5, 2}, step_times{3, 4, 1}}) {
        CAPTURE(stages);
        CAPTURE(m);
        CHECK(idle_slots<Schedule>(stages, m, times) == Schedule::idle(stages, m, times));
      }
}

}  // namespace moefold::testing
