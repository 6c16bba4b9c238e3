#include <moefold/train/progress.hpp>

#include <doctest/doctest.h>

#include <limits>

using namespace moefold;

namespace {

step_record sample() {
  return {.step = 120,
          .loss = 2.41213,
          .grad_norm = 0.8712,
          .learning_rate = 2.9e-4,
          .tokens_per_second = 9213,
          .moe_max_over_mean = 1.181,
          .comm_cpu_share = 0.068};
}
bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("train/progress") {
  TEST_CASE("the live line reads exactly like this") {
    CHECK(progress_line(sample(), 200, 21.3) ==
          "step  120/200 | loss 2.4121 | gnorm 0.87 | lr 2.9e-04 | 9.2k tok/s | moe 1.18x | comm 7% cpu | eta 0m21s");
  }
  TEST_CASE("an evaluated step also shows its held-out loss") {
    step_record r = sample();
    r.eval_loss = 2.5;
    CHECK(has(progress_line(r, 200, 0), "| loss 2.4121 | held-out 2.5000 | gnorm"));
  }
  TEST_CASE("balance losses and dropped pairs stand beside the load, where there are any") {
    step_record r = sample();
    r.balance = 0.0414, r.dropped = 0.031;
    CHECK(has(progress_line(r, 200, 0), "| moe 1.18x aux 0.041 drop 3.1% | comm"));
    r.balance.reset(), r.dropped = 0;
    CHECK(has(progress_line(r, 200, 0), "| moe 1.18x drop 0.0% | comm"));
  }
  TEST_CASE("a run of a million steps stays aligned") {
    CHECK(has(progress_line(sample(), 1000000, 0), "step     120/1000000 |"));
    CHECK(has(progress_line(sample(), 10, 0), "step  120/10 |"));
  }
  TEST_CASE("a diverged step is still one line") {
    step_record r = sample();
    r.loss = std::numeric_limits<double>::quiet_NaN();
    r.tokens_per_second = std::numeric_limits<double>::infinity();
    CHECK(has(progress_line(r, 200, std::numeric_limits<double>::quiet_NaN()), "| - tok/s |"));
    CHECK(has(progress_line(r, 200, std::numeric_limits<double>::quiet_NaN()), "eta -"));
  }
  TEST_CASE("the time left follows the pace of recent steps and forgets the first") {
    progress p(12);
    CHECK(has(p.line({.step = 1, .seconds = 60}), "eta 11m00s"));
    CHECK(has(p.line({.step = 2, .seconds = 1}), "eta 0m10s"));
    CHECK(has(p.line({.step = 3, .seconds = 1}), "eta 0m09s"));
    CHECK(has(p.line({.step = 12, .seconds = 1}), "eta 0m00s"));
  }
  TEST_CASE("the closing sentence says on which side of the entropy the loss is") {
    CHECK(closing_sentence(2.1, 3.35) ==
          "training loss 2.1000 nats per token, order-0 entropy of the text 3.3500: 1.2500 below it, the model has learnt from context");
    CHECK(has(closing_sentence(3.5, 3.35), "0.1500 above it"));
    CHECK(has(closing_sentence(std::numeric_limits<double>::quiet_NaN(), 3.35), "diverged"));
    CHECK(closing_sentence(2.1, std::numeric_limits<double>::quiet_NaN()) ==
          "training loss 2.1000 nats per token");  // of data too large to scan
  }
  TEST_CASE("a memory report is a table of the categories that held anything, and their total") {
    memory_report report;
    report.category[std::size_t(memory_category::parameters)] = {33554432, 33554432};
    report.category[std::size_t(memory_category::scratch)] = {0, 1536};
    report.total = {33554432, 33555968};
    CHECK(table_of(report).text() ==
          "memory           now      peak\n"
          "------------------------------\n"
          "parameters  32.0 MiB  32.0 MiB\n"
          "scratch          0 B   1.5 KiB\n"
          "------------------------------\n"
          "total       32.0 MiB  32.0 MiB\n");
    CHECK(table_of({}).text() == "memory  now  peak\n-----------------\ntotal   0 B   0 B\n");
  }
}
