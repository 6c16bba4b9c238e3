#include <moefold/plan/span.hpp>

#include <moefold/mesh/group.hpp>

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <set>

using namespace moefold;

namespace {

plan_mapping mapping(extent_t tp, extent_t cp, extent_t dp, extent_t pp, extent_t etp, extent_t ep) {
  return {tp, cp, dp, pp, etp, ep, tp * cp * dp / (etp * ep)};
}
plan_job job(plan_strategy strategy = plan_strategy::folding) {
  plan_job j;
  j.strategy = strategy;
  return j;
}

}  // namespace

TEST_SUITE("plan/span") {
  using enum axis_id;

  TEST_CASE("groups lie where the mesh puts them: counted rank by rank on the nodes of every group") {
    std::mt19937 draw(1);
    const auto power = [&](int most) { return extent_t{1} << (draw() % unsigned(most + 1)); };
    for (int i = 0; i < 400; ++i) {
      const plan_mapping m = [&] {
        for (;;) {
          const plan_mapping one = mapping(power(3), power(2), power(3), power(2), power(2), power(3));
          if (one.edp >= 1 && one.etp * one.ep * one.edp == one.tp * one.cp * one.dp) return one;
        }
      }();
      const folding_extents fold = folding_of(job(), m);
      for (const axis_set axes : {axis_set(tp), axis_set(cp), axis_set(dp), axis_set(pp), axis_set(etp), axis_set(ep), axis_set(edp),
                                  axis_set(cp, dp), axis_set(tp, cp, dp), axis_set(tp, cp)}) {
        const extents& mesh = (axes & axis_set(etp, ep, edp)).empty() ? fold.attention : fold.moe;
        extent_t fewest = m.gpus();
        std::set<extent_t> nodes;
        for (extent_t rank = 0; rank < m.gpus(); ++rank) {
          std::map<extent_t, extent_t> on_node;
          for (const extent_t member : group_of(mesh, axes, rank)) ++on_node[member / 8];
          for (const auto& entry : on_node) fewest = std::min(fewest, entry.second);
          if (rank == 0) nodes.insert(extent_t(on_node.size()));
        }
        const group_span span = span_of(job(), dgx_h100, m, axes);
        CAPTURE(describe(m));
        CAPTURE(axes.name());
        CHECK(span.ranks == mesh.of(axes));
        CHECK(span.per_node == fewest);
        CHECK(nodes.contains(span.nodes()));
      }
    }
  }
  TEST_CASE("groups that do not divide a node are taken where they lie worst: never on fewer nodes than any of them touches") {
    for (const extent_t gpus : {12, 24, 36, 40, 42, 96})
      for (extent_t t = 1; t <= gpus; ++t)
        for (extent_t c = 1; c * t <= gpus; ++c)
          for (extent_t p = 1; p * c * t <= gpus; ++p) {
            if (gpus % (t * c * p) != 0) continue;
            const plan_mapping m = mapping(t, c, gpus / (t * c * p), p, 1, 1);
            const folding_extents fold = folding_of(job(), m);
            for (const axis_set axes : {axis_set(tp), axis_set(cp), axis_set(dp), axis_set(pp), axis_set(cp, dp), axis_set(tp, cp, dp)}) {
              const group_span span = span_of(job(), dgx_h100, m, axes);
              std::size_t most = 0;
              for (extent_t rank = 0; rank < gpus; ++rank) {
                std::set<extent_t> nodes;
                for (const extent_t member : group_of(fold.attention, axes, rank)) nodes.insert(member / 8);
                most = std::max(most, nodes.size());
              }
              CAPTURE(describe(m));
              CAPTURE(axes.name());
              CHECK(span.ranks == fold.attention.of(axes));
              CHECK(span.nodes() >= extent_t(most));
              CHECK((most > 1 || span.nodes() <= 2));  // a few are taken for worse than they lie
              CHECK(span.nodes() <= span.ranks);
            }
          }
  }
  TEST_CASE("folding in one line: TP 2 and EP 8 stay on a node when folded, and span two when EP is tied to DP") {
    const plan_mapping folded = mapping(2, 1, 8, 8, 1, 8), tied = mapping(2, 1, 8, 8, 2, 8);
    CHECK(span_of(job(), dgx_h100, folded, ep) == group_span{8, 8});
    CHECK(span_of(job(plan_strategy::mcore), dgx_h100, tied, ep) == group_span{8, 4});
    CHECK(span_of(job(plan_strategy::mcore), dgx_h100, tied, ep).nodes() == 2);
  }
  TEST_CASE("a tied EP group steps over its CP groups, and its replicas fill what is between") {
    const plan_mapping m = mapping(2, 4, 4, 1, 2, 4);
    CHECK(span_of(job(plan_strategy::mcore), dgx_h100, m, ep) == group_span{4, 1});   // 8 apart
    CHECK(span_of(job(plan_strategy::mcore), dgx_h100, m, edp) == group_span{4, 4});  // the four CP ranks
  }
  TEST_CASE("an operation takes the slower of what stays inside the nodes and what leaves them") {
    const cluster_spec& c = dgx_h100;
    const double bytes = 64e6;
    const double inside = seconds_of(operation::all_to_all_v, bytes, {8, 8}, c),
                 spread = seconds_of(operation::all_to_all_v, bytes, {8, 4}, c);
    CHECK(inside == doctest::Approx(c.inside.latency + (bytes + c.inside.half) / c.inside.rate()));
    CHECK(spread == doctest::Approx(c.between.latency + (bytes * 4 / 7 + c.between.half) / c.between.rate()));
    const double gathered = seconds_of(operation::all_gather, bytes, {16, 8}, c);  // 8 cards carry what one node needs of the other
    CHECK(gathered == doctest::Approx(c.between.latency + std::max((bytes + c.inside.half) / c.inside.rate(),
                                                                   (bytes * 16 / 15 / 2 / 8 + c.between.half) / c.between.rate())));
    CHECK(seconds_of(operation::all_gather, bytes, {1, 1}, c) == 0);
    CHECK(seconds_of(operation::all_gather, 0, {8, 8}, c) == 0);
  }
}
