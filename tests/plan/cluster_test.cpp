#include <moefold/plan/cluster.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("plan/cluster") {
  TEST_CASE("every known cluster is found by its name, and no other") {
    for (const cluster_spec* c : known_clusters) CHECK(find_cluster(c->name) == c);
    CHECK(find_cluster("dgx") == nullptr);
    CHECK(find_cluster("") == nullptr);
  }
  TEST_CASE("the numbers are those of the data sheets: dense peaks, one-way bandwidth") {
    CHECK(h100_80gb.bf16_flops == 989.5e12);  // the paper's convention of MFU
    CHECK(dgx_h100.inside.bandwidth == 450e9);
    CHECK(dgx_h100.between.bandwidth == 400e9 / 8);
    CHECK(gb200_nvl72.gpus_per_node == 72);
  }
  TEST_CASE("no cluster reaches more than its data sheets say, or hides more than there is") {
    for (const cluster_spec* c : known_clusters) {
      CAPTURE(std::string(c->name));
      const efficiency_spec& e = c->efficiency;
      for (const double share : {e.gemm, e.gemm8, e.hbm, e.attention_forward, e.attention_backward, c->inside.share, c->between.share}) {
        CHECK(share > 0);
        CHECK(share <= 1);
      }
      for (const double hidden : {e.hide_tp, e.hide_cp, e.hide_ep, e.hide_dp, e.hide_shards}) {
        CHECK(hidden >= 0);
        CHECK(hidden < 1);
      }
      CHECK(c->reserved < c->gpu.memory);
    }
  }
}
