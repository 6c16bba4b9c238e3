#include <moefold/train/calibrate.cuh>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("train/calibrate on a device") {
  TEST_CASE("a device is measured with the same operations, and becomes a cluster that a file takes") {
    calibration_options options = device_calibration();
    options.window = 1e-5, options.repeats = 1, options.ranks = 2;
    options.product = 16, options.stream = 1 << 11;
    options.sequence = 8, options.heads = 2, options.width = 8;
    options.largest_message = 1024;
    const calibration c = calibrate_devices(options);
    CHECK(c.measured.products.size() == 15);
    for (const timed_product& p : c.measured.products) CHECK(p.seconds > 0);
    CHECK(c.measured.calls.size() == 5);
    CHECK(c.measured.backward_seconds > 0);
    const cluster_spec& s = c.cluster.spec();
    CHECK(s.inside.curve.points == 1);
    CHECK(!s.between.curve.known());
    CHECK(s.gpus_per_node == 2);
    const std::string text = write_cluster(s, c.cluster.note());
    CHECK(write_cluster(read_cluster(text, "again").spec(), c.cluster.note()) == text);
  }
  TEST_CASE("a device is known by its name, and keeps its data sheet's peak; any other is measured") {
    CHECK(detail::cluster_of_device("NVIDIA H100 80GB HBM3").gpu.bf16_flops == 989.5e12);
    CHECK(detail::cluster_of_device("NVIDIA H200").gpu.hbm_bytes == 4.8e12);
    CHECK(detail::cluster_of_device("NVIDIA GB200").gpus_per_node == 72);
    CHECK(detail::cluster_of_device("NVIDIA A100").gpu.bf16_flops == 0);
  }
}
