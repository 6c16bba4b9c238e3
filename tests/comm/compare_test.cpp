#include <moefold/comm/compare.hpp>

#include <doctest/doctest.h>

// The thread communicator's fault matrix (comm/faults_test.cpp) runs through the same functions; here, what they say.
using namespace moefold;

namespace {
struct post {
  signature what;
  std::vector<std::size_t> send_counts, recv_counts;
};
std::optional<disagreement> compare(const std::vector<post>& posts) {
  return compare_posts(
      int(posts.size()), "tp", [&](int r) -> const post& { return posts[std::size_t(r)]; }, [](int r) { return 10 + r; });
}
}  // namespace

TEST_SUITE("comm/compare") {
  TEST_CASE("Equal calls are no disagreement, and the smaller camp holds the culprit") {
    const signature reduce{operation::all_reduce, dtype::fp32, "sum", -1, 10, 4}, barrier{operation::barrier, dtype::uint8, "", -1, 0, 4};
    CHECK(!compare({{reduce, {}, {}}, {reduce, {}, {}}, {reduce, {}, {}}}));
    const auto found = compare({{barrier, {}, {}}, {reduce, {}, {}}, {reduce, {}, {}}});
    REQUIRE(found);
    CHECK(found->culprit == 0);
    CHECK(found->what == barrier);
    CHECK(found->message ==
          "ranks disagree on tp: all_reduce #4 of 10 x fp32, sum (ranks 11, 12) but barrier #4 (ranks 10); all ranks must "
          "make the same calls in one order");
    CHECK(compare({{barrier, {}, {}}, {reduce, {}, {}}})->culprit == 1);
  }
  TEST_CASE("Of an exchange, what one rank sends is what the other expects") {
    const signature exchange{operation::all_to_all_v, dtype::bf16};
    CHECK(!compare({{exchange, {1, 2}, {1, 3}}, {exchange, {3, 4}, {2, 4}}}));
    const auto found = compare({{exchange, {1, 2}, {1, 3}}, {exchange, {3, 4}, {5, 4}}});
    REQUIRE(found);
    CHECK(found->culprit == 0);
    CHECK(found->message.find("rank 10 sends 2 elements to rank 11, which expects 5") != found->message.npos);
  }
  TEST_CASE("Of other operations with counts, every rank gives the same ones") {
    const signature gather{operation::all_gather_v, dtype::fp32};
    CHECK(!compare({{gather, {1, 2}, {}}, {gather, {1, 2}, {}}}));
    const auto found = compare({{gather, {1, 2}, {}}, {gather, {1, 7}, {}}});
    REQUIRE(found);
    CHECK(found->culprit == 1);
    CHECK(found->message.find("for rank 11 rank 10 says 2 elements, rank 11 says 7") != found->message.npos);
  }
  TEST_CASE("Where data lies is said only of calls that differ in it") {
    signature host{operation::barrier}, device = host;
    device.device = true;
    CHECK(described(device, false) == describe(host));
    CHECK(compare({{host, {}, {}}, {device, {}, {}}})->message.find("in device memory") != std::string::npos);
  }
}
