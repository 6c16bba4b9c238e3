#include <moefold/plan/pictures.hpp>

#include <doctest/doctest.h>

#include "support/plan_sample.hpp"

using namespace moefold;

namespace {

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}
/// The colour of a rank's cell in the row of an axis.
std::string fill_of(const std::string& svg, extent_t rank, const char* axis) {
  for (std::size_t at = svg.find("<title>rank "); at != std::string::npos; at = svg.find("<title>rank ", at + 1)) {
    const std::string tip = svg.substr(at, svg.find('<', at + 1) - at);
    if (!tip.starts_with(sentence("<title>rank ", rank, ":")) || tip.find(sentence(" the ", axis, " group")) == std::string::npos) continue;
    return svg.substr(svg.rfind("fill='", at) + 6, 7);
  }
  return "none";
}
bool balanced(const std::string& svg) {  // every element is closed, nothing is markup by accident
  return count(svg, "<text") == count(svg, "</text>") && count(svg, "<title>") == count(svg, "</title>") && count(svg, "<svg") == 1 &&
         svg.ends_with("</svg>\n") && count(svg, "<rect") == count(svg, "/>") - count(svg, "<path") + count(svg, "</rect>");
}

}  // namespace

TEST_SUITE("plan/pictures") {
  TEST_CASE("every GPU of the nodes that are drawn has a cell in the row of every axis with more than one rank") {
    const plan_mapping m{2, 1, 8, 8, 1, 8, 2, 7, 1, {}};
    const std::string svg = draw_groups(sample_question(), m);
    CHECK(balanced(svg));
    CHECK(count(svg, "<title>rank ") == 32 * 5);                 // 4 nodes of 8; tp, dp, pp, ep, edp
    CHECK(count(svg, "group of rank 0<") == 2 + 8 + 2 + 8 + 2);  // the members of rank 0's groups on these nodes
    for (extent_t rank = 1; rank < 32; ++rank) {
      CAPTURE(rank);
      CHECK((fill_of(svg, rank, "ep") == fill_of(svg, 0, "ep")) == (rank < 8));
      CHECK((fill_of(svg, rank, "dp") == fill_of(svg, 0, "dp")) == (rank < 16 && rank % 2 == 0));
    }
    CHECK(count(svg, "inside a node") == 2);
    CHECK(count(svg, "over 8 nodes") == 1);
    CHECK(count(svg, "and 12 more nodes") == 1);
  }
  TEST_CASE("a cluster that is smaller than a node, and one whose node is a rack, are drawn too") {
    plan_question q = sample_question();
    q.job.gpus = 4;
    const std::string small = draw_groups(q, {2, 1, 2, 1, 1, 4, 1, 1, 1, {}});
    CHECK(balanced(small));
    CHECK(count(small, "<title>rank ") == 4 * 3);
    CHECK(count(small, "more nodes") == 0);
    q.job.gpus = 144, q.cluster = gb200_nvl72;
    const std::string rack = draw_groups(q, {2, 1, 72, 1, 1, 8, 18, 1, 1, {}});
    CHECK(balanced(rack));
    CHECK(count(rack, "<title>rank ") == 72 * 4);
    CHECK(count(rack, "and 1 more nodes") == 1);
  }
  TEST_CASE("a bar is as long as its step, and has a piece for each part") {
    const std::vector<prediction> plans = {sample_plan(5, 0.5), sample_plan(10, 0.25)};
    const std::string svg = draw_times(sample_question(), plans);
    CHECK(balanced(svg));
    CHECK(count(svg, "<title>matrix products: ") == 2);
    CHECK(count(svg, "<title>waiting: ep: ") == 2);
    CHECK(count(svg, "<title>waiting: cp: ") == 0);
    CHECK(svg.find("width='512'") != std::string::npos);  // 0.8 of the longest bar's 640
    CHECK(svg.find("width='256'") != std::string::npos);
    CHECK(svg.find("5.00 s, MFU 50.0 %") != std::string::npos);
  }
  TEST_CASE("a model's name that looks like markup stays text") {
    plan_question q = sample_question();
    q.model = "a<b>&c";
    CHECK(balanced(draw_times(q, {sample_plan(5, 0.5)})));
    CHECK(draw_times(q, {}).find("a&lt;b&gt;&amp;c") != std::string::npos);
  }
}
