#include <moefold/train/program_options.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("train/program_options") {
  TEST_CASE("a program trains unless it is asked to evaluate, to continue a text, or for no step") {
    program_options o;
    CHECK(o.trains());
    CHECK_NOTHROW(check_files(o));
    o.evaluate = true;
    CHECK(!o.trains());
    o = {};
    o.generate = "x";
    CHECK(!o.trains());
    o = {};
    o.train.steps = 0;
    CHECK(!o.trains());
    CHECK_THROWS_AS(check_files(o), config_error);  // nothing to load either
    o = {};
    o.keep = -1;
    CHECK_THROWS_AS(check_files(o), config_error);
    o = {};
    o.save = "somewhere";
    CHECK_THROWS_WITH_AS(check_files(o), doctest::Contains("program_options::files"), config_error);
  }
}
