#include <moefold/train/memory_table.hpp>

#include <moefold/schedule/one_f_one_b.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("train/memory_table") {
  TEST_CASE("the memory table is the inventory's, stage by stage") {
    const model_shape model{
        .layers = 2, .hidden = 16, .heads = 4, .kv_heads = 2, .head_dim = 4, .experts = 4, .ffn = 12, .vocabulary = 128};
    const folding_extents fold = make_folding({{axis_id::tp, 2}, {axis_id::pp, 2}}, {{axis_id::ep, 2}, {axis_id::pp, 2}});
    const activation_shape a{model, fold, 16, 1};
    const std::string table = memory_table<fp32, one_f_one_b>(a, 8, 2).text();
    for (const extent_t stage : {0, 1}) {
      const parameter_memory bytes = memory_of_parameters<fp32>(a.model, a.fold, stage);
      const extent_t head = stage == 1 ? kept_by_head<fp32>(a) : 0;  // one micro-batch is alive there
      for (const extent_t number :
           {bytes.parameters, bytes.optimizer, head + (2 - stage) * kept_by_micro_batch<fp32>(a, stage, a.balanced_rows()),
            head + (2 - stage) * kept_by_micro_batch<fp32>(a, stage, a.worst_rows()), scratch_bound<fp32>(a)})
        CHECK(has(table, exact_text(number)));
    }
  }
}
