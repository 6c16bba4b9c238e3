#include <moefold/train/run.hpp>

#include <doctest/doctest.h>
#include "../support/train_mapping.hpp"

#include <cmath>

using namespace moefold;

namespace {

template <class Context>
struct run : run_defaults {
  using precision = fp64;
  using context = Context;
};

template <class Context>
testing::outcome train(extent_t tp, extent_t cp, std::int32_t document_end = 31) {
  testing::mapping_options o;
  o.model = {.layers = 2, .hidden = 16, .heads = 8, .kv_heads = 8, .head_dim = 4, .experts = 4, .top_k = 2, .ffn = 8, .vocabulary = 32};
  o.steps = 2;
  o.train.global_batch = 4, o.train.micro_batch = 2;
  o.document_end = document_end;
  const folding_extents fold = make_folding({{axis_id::tp, tp}, {axis_id::cp, cp}}, {{axis_id::ep, tp * cp}});
  return testing::train_mapping<policies_of<run<Context>>>(fold, o);
}

template <class Context>
void check_policy(const testing::outcome& one, extent_t tp, extent_t cp) {
  const testing::outcome many = train<Context>(tp, cp);
  CAPTURE(tp);
  CAPTURE(cp);
  CHECK_MESSAGE(many.wrong.empty(), (many.wrong.empty() ? "" : many.wrong.front()));
  REQUIRE(many.losses.size() == one.losses.size());
  for (std::size_t step = 0; step < one.losses.size(); ++step) CHECK(std::abs(many.losses[step] - one.losses[step]) < 1e-11);
}

}  // namespace

TEST_SUITE("train/packed") {
  TEST_CASE("documents that end change the loss, so that packing is not tested in vain") {
    CHECK(std::abs(train<cp_all_gather>(1, 1).losses[0] - train<cp_all_gather>(1, 1, -1).losses[0]) > 1e-6);
  }
  TEST_CASE("a packed run is the same on cp 2 and on cp 2 x tp 2, and sends what is foretold, for every context policy") {
    const testing::outcome one = train<cp_all_gather>(1, 1);
    for (const extent_t tp : {1, 2}) {
      check_policy<cp_all_gather>(one, tp, 2);
      check_policy<cp_ring>(one, tp, 2);
      check_policy<cp_all_to_all>(one, tp, 2);
    }
    check_policy<cp_combined<2>>(one, 1, 4);
  }
}
