#include <moefold/mesh/folding.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("mesh/folding") {
  TEST_CASE("16 attention ranks fold onto 16 MoE ranks") {
    using fold = folding<mesh<tp<2>, cp<2>, dp<2>, pp<2>>, mesh<etp<1>, ep<8>, edp<1>, pp<2>>>;
    static_assert(fold::attention::ranks == 16 && fold::ranks == 16);
    CHECK(extent_of<fold::moe, tag::ep> == 8);
  }
  TEST_CASE("nothing but the product and the pipeline ties the meshes: EP need not divide DP, ETP need not equal TP") {
    static_assert(folding<mesh<tp<6>, dp<1>>, mesh<ep<3>, edp<2>>>::ranks == 6);
    static_assert(folding<mesh<tp<4>, dp<2>>, mesh<etp<2>, ep<2>, edp<2>>>::ranks == 8);
    CHECK(folding<mesh<tp<1>, dp<4>>, mesh<etp<2>, edp<2>>>::ranks == 4);
  }
  TEST_CASE("the world of a folding is dyn only if both meshes are") {
    static_assert(folding<mesh<tp<2>, dp<dyn>>, mesh<ep<4>, edp<2>>>::ranks == 8);
    static_assert(folding<mesh<tp<2>, dp<4>>, mesh<ep<4>, edp<dyn>>>::ranks == 8);
    CHECK(folding<mesh<tp<2>, dp<dyn>>, mesh<ep<4>, edp<dyn>>>::ranks == dyn);
  }
  TEST_CASE("the pipeline may lie anywhere, as long as both meshes agree") {
    static_assert(folding<mesh<tp<2>, cp<2>, pp<2>, dp<2>>, mesh<ep<4>, pp<2>, edp<2>>>::ranks == 16);
    static_assert(folding<mesh<pp<4>, tp<2>>, mesh<pp<4>, ep<2>>>::ranks == 8);
    CHECK(folding<mesh<pp<1>, tp<2>>, mesh<ep<2>, pp<1>>>::ranks == 2);  // one stage: no group to compare
  }
  TEST_CASE("where a dyn extent hides the ranks inside pp, the ranks outside it are compared") {
    // pp slowest in both meshes: nothing lies outside, whatever the world
    static_assert(folding<mesh<tp<2>, dp<dyn>, pp<2>>, mesh<ep<4>, edp<dyn>, pp<2>>>::ranks == dyn);
    static_assert(detail::pipeline_numbers<mesh<tp<2>, dp<dyn>, pp<2>, cp<2>>, mesh<edp<dyn>, pp<2>, ep<4>>>.inside == 2);
    static_assert(detail::pipeline_numbers<mesh<tp<2>, dp<dyn>, pp<2>, cp<2>>, mesh<edp<dyn>, pp<2>, ep<4>>>.outside == 4);
    // dyn inside in one, outside in the other: only the world size decides (mesh/extents.hpp)
    CHECK(folding<mesh<tp<2>, dp<dyn>, pp<2>>, mesh<ep<4>, pp<2>, edp<dyn>>>::ranks == dyn);
  }
  TEST_CASE("the rules say the same sentence at run time, with the numbers") {
    CHECK_THROWS_WITH_AS(
        require_ranks(16, 8),
        "moefold: TP*CP*DP*PP must equal ETP*EP*EDP*PP; change edp, or write edp<dyn> (given attention_ranks = 16, moe_ranks = 8)",
        config_error);
    CHECK_THROWS_WITH_AS(require_stages(2, 4), doctest::Contains("give both the same pp"), config_error);
    CHECK_NOTHROW(require_stages(2, dyn));
  }
}
