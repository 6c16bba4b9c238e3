#include <moefold/plan/words.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

std::string refused(const char* text) {
  try {
    parse_fixed(text);
  } catch (const config_error& wrong) {
    return wrong.what();
  }
  return "";
}

}  // namespace

TEST_SUITE("plan/words") {
  TEST_CASE("every number of a mapping can be fixed, in any order, and what is not said stays open") {
    const fixed_numbers f = parse_fixed("pp=8, tp=2,cp=3,dp=4,etp=5,ep=6,edp=7,vpp=9,micro_batch=10");
    CHECK(f.mapping == plan_mapping{2, 3, 4, 8, 5, 6, 7, 9, 10, {}});
    CHECK(!f.recompute);
    CHECK(parse_fixed("ep=8").mapping == plan_mapping{0, 0, 0, 0, 0, 8, 0, 0, 0, {}});
  }
  TEST_CASE("recompute rules are words and come back as the same rule") {
    const fixed_numbers f = parse_fixed("recompute=norms+activation,tp=2");
    CHECK(f.recompute);
    CHECK(f.mapping.recompute == selective<recompute_part::norms, recompute_part::activation>);
    for (unsigned parts = 0; parts < 1u << recompute_parts; ++parts)
      CHECK(recompute_of(recompute_word({std::uint8_t(parts), false})) == recompute_rule{std::uint8_t(parts), false});
    CHECK(recompute_of(recompute_word(recompute_full)) == recompute_full);
    CHECK(parse_fixed("recompute=none").recompute);
    CHECK_THROWS_AS(recompute_of("full+norms"), config_error);
    CHECK_THROWS_AS(recompute_of("norms+"), config_error);
  }
  TEST_CASE("what is not understood is named, with the nearest word") {
    CHECK(refused("tp=2,pq=3").find("no number to fix 'pq'; did you mean 'pp'?") != std::string::npos);
    CHECK(refused("tp").find("takes pairs like tp=2,pp=8 (given 'tp')") != std::string::npos);
    CHECK(refused("").find("takes pairs") != std::string::npos);
    CHECK(refused("tp=2,tp=2").find("names tp twice") != std::string::npos);
    for (const char* wrong : {"tp=0", "tp=-1", "tp=", "tp=2x", "tp=99999999999999999999", "tp=0x10"})
      CHECK(refused(wrong).find("--fix tp needs a whole number, 1 or more") != std::string::npos);
    CHECK(refused("recompute=norm").find("did you mean 'norms'?") != std::string::npos);
  }
  TEST_CASE("strategies by name") {
    for (int i = 0; i < plan_strategies; ++i) CHECK(strategy_of(name_of(plan_strategy(i))) == plan_strategy(i));
    CHECK_THROWS_WITH(strategy_of("fold"),
                      "moefold: there is no strategy 'fold'; did you mean 'folding'? There are: folding, mcore, tp-ep-dp, fsdp-ep, fsdp");
  }
  TEST_CASE("the distance of two words is the number of letters to change") {
    CHECK(detail::distance("", "abc") == 3);
    CHECK(detail::distance("abc", "abc") == 0);
    CHECK(detail::distance("kitten", "sitting") == 3);
  }
  TEST_CASE("a mapping in short leaves out what is 1 and what is open") {
    CHECK(short_text({2, 1, 8, 8, 1, 8, 2, 7, 1, {}}) == "tp2 dp8 pp8 | ep8 edp2 | v7 b1");
    CHECK(short_text({16, 1, 1, 1, 1, 1, 16, 0, 0, {}}) == "tp16 | edp16");
    CHECK(short_text({1, 1, 1, 1, 1, 1, 1, 1, 4, selective<recompute_part::norms, recompute_part::core_attention>}) ==
          "1 | 1 | b4 norms+attn");
    CHECK(short_text({1, 1, 1, 1, 1, 1, 1, 1, 4, recompute_full}) == "1 | 1 | b4 full");
  }
}
