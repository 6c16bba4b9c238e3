#include <moefold/train/cluster_file.hpp>

#include <doctest/doctest.h>
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/core/rng.hpp>
#include "../support/temporary_folder.hpp"

#include <array>

using namespace moefold;

namespace {

/// Every number of a cluster, links and efficiencies included, in one order.
std::vector<double> numbers_of(const cluster_spec& c) {
  std::vector<double> all;
  const auto add = [&](const char*, const auto& number, detail::cluster_number) { all.push_back(double(number)); };
  detail::for_each_number_of_cluster(c, add), detail::for_each_number_of_gpu(c.gpu, add);
  detail::for_each_number_of_efficiency(c.efficiency, add);
  for (const link_spec* l : {&c.inside, &c.between}) {
    detail::for_each_number_of_link(*l, add);
    for (int i = 0; i < l->curve.points; ++i)
      all.push_back(l->curve.bytes[std::size_t(i)]), all.push_back(l->curve.seconds[std::size_t(i)]);
  }
  return all;
}

/// A cluster whose numbers have no short decimal form.
cluster_spec random_cluster(std::uint64_t seed) {
  const random_stream random(seed, "cluster");
  std::uint64_t drawn = 0;
  cluster_spec c = dgx_h100;
  const auto draw = [&](const char*, auto& number, detail::cluster_number) {
    using T = std::remove_reference_t<decltype(number)>;
    number = std::integral<T> ? T(1 + random.bits(drawn++) % (1ull << 50)) : T(random.uniform(drawn++));
  };
  detail::for_each_number_of_cluster(c, draw), detail::for_each_number_of_gpu(c.gpu, draw);
  detail::for_each_number_of_efficiency(c.efficiency, draw);
  for (link_spec* l : {&c.inside, &c.between}) {
    detail::for_each_number_of_link(*l, draw);
    double bytes = 0, seconds = 0;
    l->curve.points = int(random.bits(drawn++) % 17);
    for (std::size_t i = 0; i < std::size_t(l->curve.points); ++i) {
      l->curve.bytes[i] = bytes += 1e6 * random.uniform(drawn++);
      l->curve.seconds[i] = seconds += 1e-3 * random.uniform(drawn++);
    }
  }
  return c;
}

constexpr const char* small = R"({
  "moefold_cluster": 1,
  "name": "two boxes",
  "gpu": {"name": "card", "bf16_flops_per_second": 1e12, "memory_bytes_per_second": 1e11, "memory_bytes": 1000000000, "processors": 8},
  "gpus_per_node": 4,
  "inside": {"bytes_per_second": 1e10, "latency_seconds": 1e-5, "curve_bytes": [1024, 65536], "curve_seconds": [1e-5, 2e-5]}
})";

/// The sentence that reading this text ends with.
std::string refusal_of(std::string text) {
  try {
    read_cluster(text, "c.json");
  } catch (const format_error& wrong) {
    return wrong.what();
  }
  return "";
}
std::string changed(const std::string& from, const std::string& to) {
  std::string text = small;
  const std::size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  return refusal_of(text.replace(at, from.size(), to));
}
bool has(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("train/cluster_file") {
  TEST_CASE("a cluster comes back from its file bit for bit") {
    for (const cluster_spec* known : known_clusters) {
      const stored_cluster again = read_cluster(write_cluster(*known, "as it was"), "again");
      CHECK(numbers_of(again.spec()) == numbers_of(*known));
      CHECK(std::string(again.spec().name) == known->name);
      CHECK(std::string(again.spec().gpu.name) == known->gpu.name);
      CHECK(again.note() == "as it was");
    }
    for (std::uint64_t seed = 0; seed < 200; ++seed) {
      const cluster_spec c = random_cluster(seed);
      const stored_cluster again = read_cluster(write_cluster(c), "again");
      CAPTURE(seed);
      CHECK(numbers_of(again.spec()) == numbers_of(c));
      CHECK(again.spec().inside.curve == c.inside.curve);
    }
  }
  TEST_CASE("a file names every number that a cluster has") {
    // name, gpu{name, 5 numbers}, gpus_per_node, two links, efficiency, reserved, mtbf, storage: a new field is named in train/cluster_file.hpp too
    CHECK(sizeof(gpu_spec) == 6 * 8);
    CHECK(sizeof(link_spec) == 4 * 8 + sizeof(time_curve));
    CHECK(sizeof(efficiency_spec) == 17 * 8);
    CHECK(sizeof(cluster_spec) == 5 * 8 + sizeof(gpu_spec) + 2 * sizeof(link_spec) + sizeof(efficiency_spec));
  }
  TEST_CASE("what is left out is the default: efficiencies, and between as inside") {
    const stored_cluster c = read_cluster(small, "c.json");
    CHECK(c.spec().efficiency.gemm == efficiency_spec{}.gemm);
    CHECK(c.spec().between.bandwidth == 1e10);
    CHECK(c.spec().between.curve.points == 2);
    CHECK(c.spec().gpu.processors == 8);
    CHECK(c.spec().mtbf == 0);
  }
  TEST_CASE("names live as long as a copy") {
    const stored_cluster copy = [] { return stored_cluster(read_cluster(small, "c.json")); }();
    CHECK(std::string(copy.spec().name) == "two boxes");
    CHECK(std::string(copy.spec().gpu.name) == "card");
  }
  TEST_CASE("an error names file, line and field") {
    CHECK(refusal_of("") != "");
    const std::string unknown = changed("\"gpus_per_node\": 4", "\"gpus_per_node\": 4, \"gpus_per_rack\": 72");
    CHECK(has(unknown, "'c.json'"));
    CHECK(has(unknown, "'gpus_per_rack': a cluster has no such field; it has "));
    CHECK(has(unknown, "(line 5)"));
    CHECK(has(changed("\"processors\": 8", "\"processors\": 0"), "'processors': found 0, needs 1 to "));
    CHECK(has(changed("1e12", "-1"), "'bf16_flops_per_second': found -1, needs a number above 0"));
    CHECK(has(changed(", \"processors\": 8", ""), "has no 'processors'"));
    CHECK(has(changed("\"latency_seconds\": 1e-5", "\"reached_share\": 1.5"), "needs a share above 0 and at most 1"));
    CHECK(has(changed("[1024, 65536]", "[65536, 1024]"), "sort the points"));
    CHECK(has(changed("[1024, 65536]", "[1024]"), "as many of both"));
    CHECK(has(changed(", \"curve_seconds\": [1e-5, 2e-5]", ""), "both curve_bytes and curve_seconds"));
    CHECK(has(changed("\"moefold_cluster\": 1", "\"moefold_cluster\": 2"), "this program reads version 1"));
    CHECK(has(changed("1e12", "\"fast\""), "found a text, needs a number"));
  }
  TEST_CASE("a file is written whole and read back; one that is not there is an error that says so") {
    const temporary_folder folder;
    const std::string path = folder.file("cluster.json");
    save_cluster(path, dgx_h200, "a note");
    CHECK(numbers_of(load_cluster(disk(), path).spec()) == numbers_of(dgx_h200));
    CHECK_THROWS_AS(load_cluster(disk(), path + ".none"), config_error);
  }
}
