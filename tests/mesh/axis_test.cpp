#include <moefold/mesh/axis.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("mesh/axis") {
  TEST_CASE("an axis carries its tag and its extent") {
    static_assert(std::same_as<tp<2>::tag, tag::tp> && tp<2>::extent == 2);
    static_assert(edp<dyn>::tag::id == axis_id::edp && edp<dyn>::extent == dyn);
    CHECK(std::string(name_of(tag::etp::id)) == "etp");
  }
  TEST_CASE("a set holds exactly the axes it was made of") {
    constexpr axis_set set{axis_id::dp, axis_id::cp};
    static_assert(set.contains(axis_id::cp) && set.contains(axis_id::dp) && !set.contains(axis_id::tp) && !set.contains(axis_id::edp));
    static_assert(set.count() == 2 && !set.empty() && axis_set{}.empty() && axis_set{}.count() == 0);
    static_assert(set == set_of<tag::cp, tag::dp>);
    CHECK(set != axis_set{axis_id::cp});
  }
  TEST_CASE("union, intersection and difference of sets") {
    constexpr axis_set a{axis_id::tp, axis_id::cp}, b{axis_id::cp, axis_id::ep};
    static_assert((a | b) == axis_set{axis_id::tp, axis_id::cp, axis_id::ep});
    static_assert((a & b) == axis_set{axis_id::cp});
    static_assert(a - b == axis_set{axis_id::tp} && a.without(b) == a - b);
    static_assert((a | b).contains(a) && !a.contains(b) && a.contains(axis_set{}));
    CHECK((attention_axes::axes & moe_axes::axes) == axis_set{axis_id::pp});
  }
  TEST_CASE("a set's name lists its axes in one order, however it was built") {
    CHECK(axis_set{axis_id::dp, axis_id::cp}.name() == "cp x dp");
    CHECK(axis_set{axis_id::ep}.name() == "ep");
    CHECK(axis_set{}.name() == "none");
  }
  template <axis_set Axes>
  struct holder {
    static constexpr axis_set axes = Axes;
  };
  TEST_CASE("a set is a template argument") { CHECK(std::same_as<holder<set_of<tag::tp, tag::cp>>, holder<set_of<tag::cp, tag::tp>>>); }
}
