// The example's dispatcher passes the library's suite, like the library's own.
#define main main_of_the_example
#include "../../examples/custom_dispatcher.cpp"
#undef main

#include <doctest/doctest.h>
#include "../support/dispatcher_suite.hpp"

TEST_SUITE("moe/custom_dispatcher") {
  TEST_CASE("the suite: alone and in the layer, on every folding and with every token rule, for starved experts and ranks without tokens") {
    moefold::test::dispatcher_suite<all_reduce_dispatcher>("examples/custom_dispatcher");
  }
}
