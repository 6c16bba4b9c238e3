#include <moefold/mesh/describe.hpp>

#include <moefold/mesh/coordinate.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

using namespace moefold;

TEST_SUITE("mesh/describe") {
  TEST_CASE("the paper's worked example reads like the paper") {
    const std::string table = describe(resolve<folding<mesh<tp<2>, cp<2>, dp<1>, pp<2>>, mesh<etp<1>, ep<4>, edp<1>, pp<2>>>>());
    CHECK(table ==
          "                axis             ranks   groups\n"
          "attention       tp                   2   {0 1} {2 3} {4 5} {6 7}\n"
          "                cp                   2   {0 2} {1 3} {4 6} {5 7}\n"
          "                dp                   1   each rank alone\n"
          "                pp                   2   {0 4} {1 5} {2 6} {3 7}\n"
          "MoE             etp                  1   each rank alone\n"
          "                ep                   4   {0 1 2 3} {4 5 6 7}\n"
          "                edp                  1   each rank alone\n"
          "                pp                   2   {0 4} {1 5} {2 6} {3 7}\n"
          "one stage       all but pp           4   {0 1 2 3} {4 5 6 7}\n"
          "gradients are summed over\n"
          "  attention     cp x dp              2   {0 2} {1 3} {4 6} {5 7}\n"
          "  norm, router  tp x cp x dp         4   {0 1 2 3} {4 5 6 7}\n"
          "  experts       edp                  1   each rank alone\n"
          "ep is folded over tp x cp\n");
  }
  TEST_CASE("a world of a million ranks fits into 100 columns") {
    const std::string table =
        describe(resolve<folding<mesh<tp<8>, cp<4>, dp<dyn>, pp<16>>, mesh<etp<2>, ep<64>, edp<dyn>, pp<16>>>>(1 << 20));
    std::size_t begin = 0, lines = 0;
    for (std::size_t end; (end = table.find('\n', begin)) != std::string::npos; begin = end + 1, ++lines)
      CHECK(end - begin <= 100);  // in bytes, so the columns are fewer
    CHECK(begin == table.size());
    CHECK(lines == 16);
    CHECK(table.find("{0 1 2 … 65535}") != std::string::npos);
  }
  TEST_CASE("a single rank has a table too") { CHECK(describe(folding_extents{}).find("{0}") != std::string::npos); }

  TEST_CASE("folded_over names exactly the attention axes that change inside some group") {
    const std::vector<extent_t> parts[] = {{2, 2, 2, 3}, {3, 2, 4, 1}, {4, 6, 1, 1}, {1, 3, 2, 4}, {12, 1, 2, 1}};
    for (const auto& a : parts)
      for (auto m : parts) {
        m.pop_back();  // the MoE mesh has three axes besides pp
        m[2] *= 24 / (m[0] * m[1] * m[2]);
        const folding_extents f{{{axis_id::tp, a[0]}, {axis_id::cp, a[1]}, {axis_id::dp, a[2]}, {axis_id::pp, a[3]}},
                                {{axis_id::etp, m[0]}, {axis_id::ep, m[1]}, {axis_id::edp, m[2]}}};
        for (const axis_extent& axis : f.moe.list()) {
          axis_set expected;
          for (extent_t rank = 0; rank < 24; ++rank) {
            const coordinate here = coordinate_of(f.attention, rank);
            for (extent_t peer : group_of(f.moe, axis.axis, rank))
              for (const axis_extent& on : f.attention.list())
                if (coordinate_of(f.attention, peer)[on.axis] != here[on.axis]) expected = expected | on.axis;
          }
          CHECK(folded_over(f, axis.axis) == expected);
        }
      }
  }
}
