#include <moefold/checkpoint/text_list.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("checkpoint/text_list") {
  TEST_CASE("the list gives back what was added, and nothing else") {
    text_list list;
    for (const char* text : {"wq", "", "norm"}) list.add(text);
    CHECK(list.size() == 3);
    CHECK(list[0] == "wq");
    CHECK(list[1].empty());
    CHECK(list[2] == "norm");
    CHECK_THROWS(list[3]);
    list.add(std::string(3, '\0'));
    CHECK(list[3] == std::string(3, '\0'));
  }
}
