#include <moefold/comm/thread_helper.hpp>

#include <doctest/doctest.h>

#include <stdexcept>
#include <vector>

using namespace moefold;
using namespace std::chrono_literals;

TEST_SUITE("comm/thread_helper") {
  TEST_CASE("jobs are done in the order of issue, on another thread, also when more are issued than fit in flight") {
    std::vector<int> order;
    thread_helper helper;
    bool elsewhere = false;
    const auto here = std::this_thread::get_id();
    helper.issue([&elsewhere, here] { elsewhere = std::this_thread::get_id() != here; });
    for (int i = 0; i < 1000; ++i) helper.issue([&order, i] { order.push_back(i); });
    CHECK(helper.issued() == 1001);
    CHECK(helper.wait(1001));
    CHECK(elsewhere);
    bool sorted = order.size() == 1000;
    for (std::size_t i = 0; i < order.size(); ++i) sorted = sorted && order[i] == int(i);
    CHECK(sorted);
  }
  TEST_CASE("issue returns while the job runs, wait does not") {
    std::atomic<bool> go{false}, ended{false};
    thread_helper helper;
    const auto number = helper.issue([&go, &ended] {
      while (!go) std::this_thread::yield();
      ended = true;
    });
    CHECK_FALSE(helper.done(number));
    go = true;
    CHECK(helper.wait(number));
    CHECK(ended);
  }
  TEST_CASE("a job that throws fails, and so do all after it, but not those before") {
    thread_helper helper;
    const auto good = helper.issue([] {});
    const auto bad = helper.issue([] { throw std::runtime_error("first"); });
    const auto worse = helper.issue([] { throw std::runtime_error("second"); });
    const auto after = helper.issue([] {});
    CHECK_FALSE(helper.wait(after));
    CHECK_FALSE(helper.wait(worse));
    CHECK_FALSE(helper.wait(bad));
    CHECK(helper.wait(good));
    CHECK(helper.first_failed() == bad);
    CHECK_THROWS_WITH(std::rethrow_exception(helper.failure()), "first");
  }
  TEST_CASE("its end comes after the last job, and nothing can be issued then") {
    int done = 0;
    {
      thread_helper helper;
      for (int i = 0; i < 20; ++i)
        helper.issue([&done] {
          std::this_thread::sleep_for(100us);
          ++done;
        });
    }
    CHECK(done == 20);
    thread_helper helper;
    helper.stop();
    helper.stop();
    CHECK_THROWS_AS(helper.issue([] {}), error);
  }
}
