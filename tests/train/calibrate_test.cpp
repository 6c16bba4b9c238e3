#include <moefold/train/calibrate.hpp>

#include <doctest/doctest.h>

#include <set>

using namespace moefold;

namespace {

/// So small that it takes no time; the numbers mean nothing.
calibration_options tiny(int ranks) {
  calibration_options options;
  options.ranks = ranks;
  options.window = 1e-5, options.repeats = 1;
  options.product = 32, options.stream = 1 << 12;
  options.sequence = 16, options.heads = 2, options.width = 8;
  options.largest_message = 1 << 14;
  return options;
}

}  // namespace

TEST_SUITE("train/calibrate") {
  TEST_CASE("everything a cluster is made of is measured, and every line of it is told") {
    int lines = 0;
    const calibration c = calibrate(tiny(4), [&](const std::string& line) { lines += !line.empty(); });
    const measurements& m = c.measured;
    CHECK(m.products.size() == 15);
    CHECK(m.streams.size() == 3);
    CHECK(m.calls.size() == 2 * 3 * 5);  // groups of 2 and 4, three sizes, five operations
    CHECK(lines == 2 + 15 + 1 + 2 * 3);
    for (const timed_product& p : m.products) CHECK(p.seconds > 0);
    for (const timed_stream& s : m.streams) CHECK(s.seconds > 0);
    std::set<operation> operations;
    for (const timed_call& call : m.calls) {
      CHECK(call.seconds > 0);
      CHECK(call.bytes > 500);
      operations.insert(call.op);
    }
    CHECK(operations.size() == 5);
    CHECK(m.copy_rate > 0);
    CHECK(m.forward_seconds > 0);
    CHECK(m.backward_seconds > 0);
    CHECK(m.launch_seconds > 0);
    CHECK(m.barrier_seconds > 0);
  }
  TEST_CASE("what is measured is a cluster that a file takes and gives back") {
    const calibration c = calibrate(tiny(2));
    const cluster_spec& s = c.cluster.spec();
    CHECK(s.gpus_per_node == 2);
    CHECK(s.inside.curve.points == 3);
    CHECK(s.gpu.bf16_flops > 0);
    CHECK(s.gpu.hbm_bytes > 0);
    CHECK(s.gpu.memory > 0);
    const std::string text = write_cluster(s, c.cluster.note());
    CHECK(write_cluster(read_cluster(text, "again").spec(), c.cluster.note()) == text);
    CHECK(c.cluster.note().find("2 ranks") != std::string::npos);
    CHECK(describe(c).find("GFLOP/s") != std::string::npos);
    CHECK(table_of_products(c).text().find("grouped, ragged") != std::string::npos);
  }
  TEST_CASE("calls send as many bytes as they say, whatever the group") {
    calibration_options options = tiny(3);
    options.largest_message = 1 << 12;
    for (const timed_call& call : calibrate(options).measured.calls) {
      CHECK(call.ranks == 3);
      CHECK(std::min(std::abs(call.bytes / 1024 - 1), std::abs(call.bytes / 4096 - 1)) < 0.05);
    }
  }
  TEST_CASE("one rank alone has nobody to talk to: the link stays a prior") {
    const calibration c = calibrate(tiny(1));
    CHECK(c.measured.calls.empty());
    CHECK(!c.cluster.spec().inside.curve.known());
    CHECK(c.cluster.spec().inside.bandwidth == laptop.inside.bandwidth);
  }
}
