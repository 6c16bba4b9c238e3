#include <moefold/attention/cp_all_to_all.hpp>

#include "../support/context_suite.hpp"

using namespace moefold;

TEST_SUITE("attention/cp_all_to_all") {
  TEST_CASE("on every cp x tp it is the single rank's attention, packed or not") { test::check_context_policy<cp_all_to_all>(); }
  TEST_CASE("so it is with heads exchanged in pairs of ranks and a ring over the pairs") { test::check_context_policy<cp_combined<2>>(); }
  TEST_CASE("it sends what the inventory foretells") {
    test::check_context_traffic<cp_all_to_all>(true);
    test::check_context_traffic<cp_all_to_all>(false);
    test::check_context_traffic<cp_combined<2>>(true);
    test::check_context_traffic<cp_combined<2>>(false);
  }
  TEST_CASE("too few key/value heads, or ranks that do not divide, are refused") {
    const auto reason = [](auto context, int cp, extent_t kv_heads) -> std::string {
      try {
        test::attended a(model_shape{.hidden = 8, .heads = 8, .kv_heads = kv_heads, .head_dim = 4}, 48, 1);
        a.on<fp64, decltype(context)>(1, cp);
      } catch (const config_error& e) {
        return e.what();
      }
      return "";
    };
    CHECK(reason(cp_all_to_all{}, 4, 2) ==
          "moefold: exchanging heads for sequence needs key/value heads that are a multiple of TP * CP (of TP * A for cp_combined<A>); use "
          "cp_ring, or fewer context ranks (given kv_heads = 2, tp_times_exchanging = 4)");
    CHECK(reason(cp_combined<2>{}, 4, 2) == "");
    CHECK(reason(cp_combined<2>{}, 3, 2).find("moefold: cp_combined<2> needs a CP that is a multiple of 2 (given 3)") != std::string::npos);
    CHECK(reason(cp_ring{}, 4, 1) == "");
  }
}
