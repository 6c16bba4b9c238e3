#include <moefold/schedule/check.hpp>

#include <doctest/doctest.h>
#include <moefold/schedule/interleaved.hpp>
#include <moefold/schedule/one_f_one_b.hpp>

#include <string>

using namespace moefold;

namespace {

using steps_t = std::vector<schedule_step>;
using enum step_kind;

// One schedule made wrong in one place: `Change` edits the correct list of a stage.
template <auto Change>
struct broken : one_f_one_b {
  static constexpr const char* name = "broken";
  static constexpr steps_t steps(int stage, int stages, int micro_batches) {
    steps_t list = one_f_one_b::steps(stage, stages, micro_batches);
    Change(stage, list);
    return list;
  }
};

constexpr void drop(steps_t& list, schedule_step step) { std::erase(list, step); }
constexpr void exchange(steps_t& list, schedule_step a, schedule_step b) {
  for (schedule_step& step : list) step = step == a ? b : step == b ? a : step;
}

template <class Schedule>
std::string reason(int stages = 2, int micro_batches = 3) {
  try {
    check_schedule<Schedule>(stages, micro_batches);
  } catch (const config_error& e) {
    return e.what();
  }
  return "";
}

bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

void two_swapped_receives(int stage, steps_t& list) {
  if (stage == 1) exchange(list, {receive_input, 0}, {receive_input, 1});
}
void forgotten_send(int stage, steps_t& list) {
  if (stage == 0) drop(list, {send_output, 2});
}
void forgotten_receive(int stage, steps_t& list) {
  if (stage == 0) list.erase(list.end() - 2, list.end());  // receive_gradient 2, backward 2
}
void forgotten_last_backward(int stage, steps_t& list) {
  if (stage == 1) drop(list, {backward, 2}), drop(list, {send_gradient, 2});
  if (stage == 0) drop(list, {backward, 2}), drop(list, {receive_gradient, 2});
}
void forward_twice(int stage, steps_t& list) {
  if (stage == 1) list.push_back({forward, 0});
}
void forward_without_input(int stage, steps_t& list) {
  if (stage == 1) drop(list, {receive_input, 0});
}
void backward_without_gradient(int stage, steps_t& list) {
  if (stage == 0) drop(list, {receive_gradient, 0});
}
void send_before_forward(int stage, steps_t& list) {
  if (stage == 0) exchange(list, {forward, 0}, {send_output, 0});
}
void input_on_first_stage(int stage, steps_t& list) {
  if (stage == 0) list.insert(list.begin(), {receive_input, 0});
}
void unknown_micro_batch(int stage, steps_t& list) {
  if (stage == 0) list.push_back({forward, 3});
}
// Stage 0 wants the gradient before it has sent the output: both stages wait for each other.
void embrace(int stage, steps_t& list) {
  if (stage == 0) drop(list, {receive_gradient, 0}), list.insert(list.begin(), {receive_gradient, 0});
}

void two_gradients_at_once(int stage, steps_t& list) {
  if (stage == 0)
    drop(list, {receive_gradient, 1}), list.insert(std::find(list.begin(), list.end(), schedule_step{backward, 0}), {receive_gradient, 1});
}
void late_gradient(int stage, steps_t& list) {
  if (stage == 1)
    drop(list, {send_gradient, 0}), list.insert(std::find(list.begin(), list.end(), schedule_step{send_gradient, 1}), {send_gradient, 0});
}
void unknown_chunk(int stage, steps_t& list) {
  if (stage == 0) list.push_back({forward, 0, 1});
}
void stray_weight(int stage, steps_t& list) {
  if (stage == 1) list.push_back({backward_weight, 0});
}
void half_a_backward(int stage, steps_t& list) {
  if (stage == 1) exchange(list, {backward, 2}, {backward_input, 2});
}

/// Interleaved over two chunks, made wrong.
template <auto Change>
struct broken_chunks : interleaved<2> {
  static constexpr const char* name = "broken";
  static constexpr steps_t steps(int stage, int stages, int micro_batches) {
    steps_t list = interleaved<2>::steps(stage, stages, micro_batches);
    Change(stage, list);
    return list;
  }
};
void swapped_chunks(int stage, steps_t& list) {
  if (stage == 0) exchange(list, {receive_input, 0, 1}, {receive_input, 1, 1});
}
void forgotten_chunk(int stage, steps_t& list) {
  if (stage == 0) drop(list, {backward, 1});
}
void skipped_chunk(int, steps_t& list) { exchange(list, {forward, 0, 0}, {forward, 0, 1}); }

struct generous : one_f_one_b {
  static constexpr const char* name = "generous";
  static constexpr int live(int, int, int) { return 99; }
};

struct hoarder : one_f_one_b {  // all forwards first, with the promise of 1F1B
  static constexpr const char* name = "hoarder";
  static constexpr steps_t steps(int stage, int stages, int micro_batches) {
    steps_t list = one_f_one_b::steps(stage, stages, micro_batches), forwards, backwards;
    for (const schedule_step& s : list) (s.kind <= send_output ? forwards : backwards).push_back(s);
    forwards.insert(forwards.end(), backwards.begin(), backwards.end());
    return forwards;
  }
};

}  // namespace

TEST_SUITE("schedule/check") {
  TEST_CASE("a message received out of order is found") {
    CHECK(has(reason<broken<two_swapped_receives>>(), "next message to arrive is that of micro-batch 0"));
  }
  TEST_CASE("a receive without a send is a deadlock") { CHECK(has(reason<broken<forgotten_send>>(), "waits for ever")); }
  TEST_CASE("two stages that wait for each other are a deadlock") { CHECK(has(reason<broken<embrace>>(), "waits for ever")); }
  TEST_CASE("a send without a receive is found") { CHECK(has(reason<broken<forgotten_receive>>(), "never received")); }
  TEST_CASE("a missing backward is found") { CHECK(has(reason<broken<forgotten_last_backward>>(), "has no backward")); }
  TEST_CASE("a second forward is found") { CHECK(has(reason<broken<forward_twice>>(), "one forward per stage")); }
  TEST_CASE("a forward without its input is found") { CHECK(has(reason<broken<forward_without_input>>(), "input has not been received")); }
  TEST_CASE("a backward without its gradient is found") {
    CHECK(has(reason<broken<backward_without_gradient>>(), "gradient has not been received"));
  }
  TEST_CASE("an output sent before its forward is found") { CHECK(has(reason<broken<send_before_forward>>(), "after its forward")); }
  TEST_CASE("a first stage that waits for input is found") {
    CHECK(has(reason<broken<input_on_first_stage>>(), "reads its tokens itself"));
  }
  TEST_CASE("a micro-batch that does not exist is found") { CHECK(has(reason<broken<unknown_micro_batch>>(), "no such micro-batch")); }
  TEST_CASE("more live micro-batches than promised are found") { CHECK(has(reason<hoarder>(), "promises at most 2")); }
  TEST_CASE("more memory than is needed is found too") { CHECK(has(reason<generous>(), "sets aside 99")); }
  TEST_CASE("a stage has room for one gradient that waits, and for one that is not sent yet") {
    CHECK(has(reason<broken<two_gradients_at_once>>(), "has not been used"));
    CHECK(has(reason<broken<late_gradient>>(), "has not been sent"));
  }
  TEST_CASE("wrong chunks and halves of a backward are found") {
    CHECK(has(reason<broken<unknown_chunk>>(), "there is no such chunk"));
    CHECK(has(reason<broken<stray_weight>>(), "weight gradients are made once"));
    CHECK(has(reason<broken<half_a_backward>>(), "micro-batch 2 has no backward_weight"));
    CHECK(has(reason<broken_chunks<swapped_chunks>>(2, 2), "that of micro-batch 0 in chunk 1"));
    CHECK(has(reason<broken_chunks<forgotten_chunk>>(2, 2), "micro-batch 1 in chunk 0 has no backward"));
    CHECK(has(reason<broken_chunks<skipped_chunk>>(1, 1), "the chunk before it has not run"));
  }
  TEST_CASE("the sentence names schedule, size, stage and step") {
    CHECK(reason<broken<forgotten_send>>() ==
          "moefold: schedule broken (2 stages, 3 micro-batches) cannot run: stage 0, receive_gradient 2: it waits for ever; no "
          "neighbour sends this message");
  }
  TEST_CASE("impossible sizes are refused") { CHECK_THROWS_AS(check_schedule<one_f_one_b>(0, 1), config_error); }
  TEST_CASE("1F1B with equal forward and backward ends after 2 (micro-batches + stages - 1) slots") {
    for (int stages = 1; stages <= 6; ++stages)
      for (int m = stages; m <= 12; ++m) {
        int end = 0;
        for (const played_step& p : play<one_f_one_b>(stages, m)) end = std::max(end, p.end);
        CHECK(end == 2 * (m + stages - 1));
      }
  }
}
