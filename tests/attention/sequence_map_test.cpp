#include <moefold/attention/sequence_map.hpp>

#include <doctest/doctest.h>

using namespace moefold;
using list = std::vector<std::int32_t>;

TEST_SUITE("attention/sequence_map") {
  TEST_CASE("each rank holds an early and a late chunk, and all ranks hold every position once") {
    CHECK(context_positions(4, 1) == list{0, 1, 2, 3});
    CHECK(context_positions(5, 1).size() == 5);
    CHECK(context_positions(8, 2) == list{0, 1, 6, 7, 2, 3, 4, 5});
    CHECK(context_positions(8, 4) == list{0, 7, 1, 6, 2, 5, 3, 4});
  }
  TEST_CASE("a sequence that cannot be cut into two chunks a rank is refused") {
    CHECK_THROWS_WITH_AS(context_positions(6, 2), doctest::Contains("the sequence must be a multiple of 2*cp*tp = 4 (given 6); use 8"),
                         config_error);
    CHECK_THROWS_AS(context_positions(0, 1), config_error);
  }
  TEST_CASE("a part of the tables is that of one rank, or of neighbours, and documents are cut alike") {
    const list at = context_positions(8, 2), first{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};  // two sequences
    const sequence_map all{at, first}, second = all.part(1, 2);
    CHECK(list(second.position.begin(), second.position.end()) == list{2, 3, 4, 5});
    CHECK(list(second.first.begin(), second.first.end()) == list{8, 9, 10, 11, 12, 13, 14, 15});
    CHECK(all.part(0, 1).position.size() == 8);
    CHECK(sequence_map{at, {}}.part(1, 4).first.empty());
  }
  TEST_CASE("a document ends after its last token, and the next begins behind it") {
    const list tokens{5, 9, 1, 9, 9, 2, 3, 9};
    list first(8);
    document_starts(tokens, 9, first);
    CHECK(first == list{0, 0, 2, 2, 4, 5, 5, 5});
    document_starts(tokens, 77, first);
    CHECK(first == list(8, 0));
  }
}
