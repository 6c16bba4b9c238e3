#include <moefold/comm/call_sites.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("comm/call_sites") {
  TEST_CASE("a record is written and read back: every operation, type and reduction") {
    site_record sites;
    for (std::size_t i = 0; i < 60; ++i) {
      const char* reductions[] = {"", "sum", "max", "apart"};
      sites.push_back({int(i),
                       i % 2 ? "cp x dp" : "tp",
                       {operation(i % operations), dtype(i % 8), reductions[i % 4], int(i % 5) - 1, ~std::uint64_t{0} - i, i * i},
                       i << 50});
    }
    const std::string text = text_of(sites);
    CHECK(parse_sites(text) == sites);
    CHECK(parse_sites("# of a run\n\n" + text) == sites);
    CHECK(parse_sites("").empty());
  }
  TEST_CASE("a fault at a site matches its call, and not its neighbours'") {
    const call_site s{3, "ep", {operation::all_to_all_v, dtype::fp32, "", -1, 0, 17}, 4096};
    const fault f = s.at(fault::action_t::raise, fault::phase_t::inside);
    CHECK(describe(f) == "rank=3 axis=ep op=all_to_all_v seq=17 phase=inside do=throw");
    CHECK(f.matches(3, "ep", operation::all_to_all_v, 17));
    CHECK_FALSE(f.matches(3, "ep", operation::all_to_all_v, 18));
    CHECK_FALSE(f.matches(2, "ep", operation::all_to_all_v, 17));
  }
  TEST_CASE("what is no record is an error that quotes the line") {
    for (const char* line : {"rank=x", "colour=red", "op=gather", "type=fp31", "reduction=min", "reduction=", "seq=-1", "rank",
                             "bytes=99999999999999999999"}) {
      CAPTURE(line);
      CHECK_THROWS_WITH_AS(parse_sites(line), doctest::Contains(line), config_error);
    }
  }
}
