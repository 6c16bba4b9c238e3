#include <moefold/inventory/traffic.hpp>

#include <moefold/core/precision.hpp>

#include <doctest/doctest.h>

#include <map>

using namespace moefold;

namespace {

using cell = std::array<std::uint64_t, 3>;  // calls, messages, bytes
using table = std::map<std::string, cell>;  // by "axis operation"

table by_name(const traffic_table& t) {
  table named;
  for (const traffic_cell& c : t.cells()) {
    const bool fresh = named.emplace(c.axis() + " " + name_of(c.op), cell{c.calls, c.messages, c.bytes}).second;
    CHECK(fresh);
  }
  return named;
}
void check_equal(const table& said, const table& right) {
  for (const auto& entry : right) {
    CAPTURE(entry.first);
    REQUIRE(said.contains(entry.first));
    for (std::size_t i = 0; i < 3; ++i) CHECK(said.at(entry.first)[i] == entry.second[i]);
  }
  for (const auto& entry : said) {
    CAPTURE(entry.first);
    CHECK(right.contains(entry.first));
  }
}

/// Choices alike on every rank.
auto same(std::vector<std::int64_t> counts) {
  return [counts](extent_t, extent_t, extent_t) { return std::span<const std::int64_t>(counts); };
}

constexpr model_shape model{
    .layers = 3, .hidden = 8, .heads = 2, .kv_heads = 2, .head_dim = 4, .experts = 4, .top_k = 2, .ffn = 6, .vocabulary = 16};

}  // namespace

TEST_SUITE("inventory/traffic") {
  TEST_CASE("one folding by hand: tp 2, cp 2, pp 2, ep 4; 3 layers, 2 micro-batches, even routing, fp32") {
    using enum axis_id;
    const activation_shape a{model, make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}}), 16, 1};
    REQUIRE(a.rows() == 4);  // [4, 8] = 128 bytes travel between blocks; every rank sends 2 rows to each expert
    const std::uint64_t pairs = 2 * 3 * (9 + 9 + 8 + 8) * 4;  // 2 rows to 3 peers: x and p there and back, then y there and back
    SUBCASE("first stage: embedding and 2 layers, so 4 blocks") {
      check_equal(by_name(step_traffic<fp32>(a, 0, 2, same({2, 2, 2, 2}))),
                  {{"tp x cp x dp all_reduce", {1, 6, 2 * 3 * 8}},
                   {"tp all_gather", {4 * 3 + 2, 14, 14 * 128}},
                   {"tp reduce_scatter", {4 * 2 + 2, 10, 10 * 128}},
                   {"cp all_gather", {4 * 4, 16, 16 * 8 * 4 * 4}},
                   {"cp reduce_scatter", {4 * 2, 8, 8 * 8 * 4 * 4}},
                   {"ep all_to_all", {4, 4 * 3, 4 * 3 * 8}},
                   {"ep all_to_all_v", {4 * 4, 4 * 4 * 3, 4 * pairs}},
                   {"pp send", {2, 2, 2 * 128}},
                   {"pp recv", {2, 0, 0}},
                   {"cp x dp reduce_scatter", {1, 1, (8 * 8 + 2 * 4 * 32) / 2 * 4}},  // embedding; q, k, v, o
                   {"cp x dp all_gather", {1, 1, (8 * 8 + 2 * 4 * 32) / 2 * 4}},
                   {"tp x cp x dp reduce_scatter", {1, 3, 3 * (2 * (2 * 8 + 4 * 8)) / 4 * 4}},  // two norms, router
                   {"tp x cp x dp all_gather", {1, 3, 3 * (2 * (2 * 8 + 4 * 8)) / 4 * 4}},
                   {"world all_reduce", {1, 14, 2 * 7 * 2 * 8}}});  // 4 + 3 layers * 4 experts = 16 numbers on 8 ranks
    }
    SUBCASE("last stage: 1 layer, head and loss, so 2 blocks") {
      check_equal(by_name(step_traffic<fp32>(a, 7, 2, same({2, 2, 2, 2}))),
                  {{"tp x cp x dp all_reduce", {1, 6, 2 * 3 * 8}},
                   {"tp all_gather", {2 * 3 + 2 * 2 + 2, 12, 10 * 128 + 2 * 8 * 3 * 4}},  // the loss gathers 3 numbers of each of 8 tokens
                   {"tp reduce_scatter", {2 * 2 + 2, 6, 6 * 128}},
                   {"cp all_gather", {2 * 4, 8, 8 * 8 * 4 * 4}},
                   {"cp reduce_scatter", {2 * 2, 4, 4 * 8 * 4 * 4}},
                   {"ep all_to_all", {2, 2 * 3, 2 * 3 * 8}},
                   {"ep all_to_all_v", {2 * 4, 2 * 4 * 3, 2 * pairs}},
                   {"pp send", {2, 2, 2 * 128}},
                   {"pp recv", {2, 0, 0}},
                   {"cp x dp reduce_scatter", {1, 1, (8 * 8 + 4 * 32) / 2 * 4}},
                   {"cp x dp all_gather", {1, 1, (8 * 8 + 4 * 32) / 2 * 4}},
                   {"tp x cp x dp reduce_scatter", {1, 3, 3 * (2 * 8 + 4 * 8 + 8) / 4 * 4}},
                   {"tp x cp x dp all_gather", {1, 3, 3 * (2 * 8 + 4 * 8 + 8) / 4 * 4}},
                   {"world all_reduce", {1, 14, 2 * 7 * 2 * 8}}});
    }
  }
  TEST_CASE("one-sided routing by hand: etp 2, ep 2, every token to the two experts of ep rank 0") {
    const activation_shape a{model, make_folding({{axis_id::dp, 4}}, {{axis_id::etp, 2}, {axis_id::ep, 2}}), 4, 1};
    const std::vector<std::int64_t> counts{4, 4, 0, 0};  // 4 tokens on every rank
    const table owner = by_name(step_traffic<fp32>(a, 1, 1, same(counts))), sender = by_name(step_traffic<fp32>(a, 3, 1, same(counts)));
    const auto bytes = [](extent_t elements) { return std::uint64_t(3 * 4 * elements); };  // 3 layers
    // The owner keeps its own 8 rows and sends the 8 of its ep peer back: x and p once, y once. The sender sends 8 rows there, twice.
    CHECK(owner.at("ep all_to_all_v") == cell{12, 6, bytes(8 * 9 + 8 * 8)});
    CHECK(sender.at("ep all_to_all_v") == cell{12, 6, bytes(8 * 9 + 8 * 8)});
    // The etp ranks of the owner show each other 16 rows each; those of the sender have none.
    CHECK(owner.at("etp all_gather_v") == cell{6, 6, bytes(16 * 9 + 16 * 8)});
    CHECK(owner.at("etp reduce_scatter_v") == cell{6, 6, bytes(16 * 9 + 16 * 8)});
    CHECK(sender.at("etp all_gather_v") == cell{6, 0, 0});
    CHECK(sender.at("etp reduce_scatter_v") == cell{6, 0, 0});
    CHECK(owner.at("etp all_gather") == cell{3, 3, 3 * 2 * 2 * 8});  // counts of 2 experts from 2 ep sources
  }
  TEST_CASE("in bf16, by hand: p takes two elements of a row, dp is reduced apart in fp32, gradients are reduced in fp32") {
    const activation_shape a{model, make_folding({{axis_id::dp, 4}}, {{axis_id::etp, 2}, {axis_id::ep, 2}}), 4, 1};
    const std::vector<std::int64_t> counts{4, 4, 0, 0};  // 4 tokens on every rank, all to ep rank 0
    const table owner = by_name(step_traffic<mixed_bf16>(a, 1, 1, same(counts)));
    CHECK(owner.at("ep all_to_all_v") == cell{12, 6, 3 * 8 * (10 + 8) * 2});
    CHECK(owner.at("etp all_gather_v") == cell{6, 6, 3 * 16 * (10 + 8) * 2});
    CHECK(owner.at("etp reduce_scatter_v") == cell{9, 9, 3 * 16 * (8 * 2 + 8 * 2 + 4)});
    const table wide = by_name(step_traffic<fp32>(a, 1, 1, same(counts)));
    CHECK(owner.at("tp x cp x dp reduce_scatter") == wide.at("tp x cp x dp reduce_scatter"));
    CHECK(2 * owner.at("tp x cp x dp all_gather")[2] == wide.at("tp x cp x dp all_gather")[2]);

    activation_shape everybody = a;  // 4 tokens of each rank, H + 2k twice over; dp [k] in fp32
    everybody.facts.dispatch = dispatch_kind::all_gather;
    const table all = by_name(step_traffic<mixed_bf16>(everybody, 1, 1, same(counts)));
    CHECK(all.at("etp all_gather_v") == cell{6, 6, 3 * 4 * (8 + 8 + 8) * 2});
    CHECK(all.at("ep all_gather_v") == cell{6, 6, 3 * 8 * (8 + 8 + 8) * 2});
    CHECK(all.at("etp reduce_scatter_v") == cell{9, 9, 3 * 4 * (8 * 2 + 8 * 2 + 2 * 4)});
    CHECK(all.at("ep reduce_scatter_v") == cell{9, 9, 3 * 8 * (8 * 2 + 8 * 2 + 2 * 4)});
  }
  TEST_CASE("in fp8, by hand: what bf16 sends, and where scales look back one all_reduce of 90 amaxes more, 23 of each of 4 ranks") {
    const activation_shape a{model, make_folding({{axis_id::dp, 4}}, {{axis_id::etp, 2}, {axis_id::ep, 2}}), 4, 1};
    const std::vector<std::int64_t> counts{4, 4, 0, 0};
    table bf16_table = by_name(step_traffic<mixed_bf16>(a, 1, 1, same(counts)));
    CHECK(by_name(step_traffic<fp8<current_scaling>>(a, 1, 1, same(counts))) == bf16_table);
    table delayed = by_name(step_traffic<fp8<>>(a, 1, 1, same(counts)));
    const cell without = bf16_table.at("world all_reduce");
    CHECK(delayed.at("world all_reduce") == cell{without[0] + 1, without[1] + 6, without[2] + 2 * 3 * 23 * 4});
    delayed.erase("world all_reduce"), bf16_table.erase("world all_reduce");
    CHECK(delayed == bf16_table);
  }
  TEST_CASE("the planner's formulas hold on every stage in between: per layer and rank, even routing") {
    using enum axis_id;
    constexpr extent_t S = 64, B = 2, M = 3, n = 4;  // a multiple of all cuts; the largest extent of any axis
    model_shape m = model;
    m.layers = 6, m.heads = 8, m.kv_heads = 4, m.experts = 8, m.ffn = 8;
    for (const extent_t tp_ranks : {extent_t{1}, extent_t{2}, n})
      for (const extent_t cp_ranks : {extent_t{1}, extent_t{2}})
        for (const extent_t ep_ranks : {extent_t{1}, extent_t{2}, n})
          for (const extent_t etp_ranks : {extent_t{1}, extent_t{2}}) {
            const extent_t dense = tp_ranks * cp_ranks, experts = ep_ranks * etp_ranks, stage = dense * experts;
            const folding_extents fold = make_folding({{tp, tp_ranks}, {cp, cp_ranks}, {dp, experts}, {pp, 3}},
                                                      {{etp, etp_ranks}, {ep, ep_ranks}, {edp, dense}, {pp, 3}});
            const activation_shape a{m, fold, S, B};
            const extent_t rows = a.rows(), each = rows * m.top_k / m.experts, T = S / cp_ranks * B, h = m.hidden, beta = 8, blocks = 2 * M;
            table said =
                by_name(step_traffic<fp64>(a, stage, M, same(std::vector<std::int64_t>(8, each))));  // first rank of the middle stage
            const auto sent = [&](const char* name) { return said.contains(name) ? extent_t(said.at(name)[2]) : 0; };
            CHECK(sent("tp all_gather") + sent("tp reduce_scatter") == blocks * 5 * T * h * beta * (tp_ranks - 1) / tp_ranks);
            CHECK(sent("cp all_gather") == blocks * 2 * 2 * T * (m.kv_width() / tp_ranks) * beta * (cp_ranks - 1));
            CHECK(sent("cp reduce_scatter") == blocks * 2 * T * (m.kv_width() / tp_ranks) * beta * (cp_ranks - 1));
            CHECK(sent("ep all_to_all_v") == blocks * (4 * h + 2) * rows * m.top_k * beta * (ep_ranks - 1) / ep_ranks);  // 4 times, p twice
            CHECK(sent("etp all_gather_v") == blocks * (2 * h + 1) * rows * m.top_k * beta * (etp_ranks - 1));
            CHECK(sent("etp reduce_scatter_v") == blocks * (2 * h + 1) * rows * m.top_k * beta * (etp_ranks - 1));
            CHECK(sent("pp send") == M * 2 * rows * h * beta);
            const extent_t N_tp = 2 * (2 * m.q_width() + 2 * m.kv_width()) * h / tp_ranks, D = cp_ranks * experts;
            CHECK(sent("cp x dp reduce_scatter") == N_tp * (D - 1) / D * beta);
            CHECK(sent("cp x dp all_gather") == N_tp * (D - 1) / D * beta);
            const extent_t N_exp = 2 * 3 * m.experts * m.ffn * h / (ep_ranks * etp_ranks);
            CHECK(sent("edp reduce_scatter") == N_exp * (dense - 1) / dense * beta);
            CHECK(sent("edp all_gather") == N_exp * (dense - 1) / dense * beta);
          }
  }
  TEST_CASE("one rank sends nothing") { CHECK(step_traffic<fp32>({model, {}, 16, 1}, 0, 2, same({8, 8, 8, 8})).cells().empty()); }
  TEST_CASE("a cell adds up its calls, and v-operations count what leaves the rank") {
    traffic_table t;
    t.add(axis_id::tp, 4, operation::all_gather, 10, 4, 3);
    t.add(axis_id::tp, 4, operation::all_gather, 5, 4);
    const std::size_t counts[] = {7, 0, 2};
    t.add_v(axis_id::ep, operation::all_to_all_v, 1, counts, 4);
    t.add({}, 1, operation::all_reduce, 1, 8);
    REQUIRE(t.cells().size() == 2);
    CHECK(t.cells()[0].axis() == "tp");
    CHECK(t.cells()[0].calls == 4);
    CHECK(t.cells()[0].messages == 12);
    CHECK(t.cells()[0].bytes == 3 * (3 * 10 + 5) * 4);
    CHECK(t.cells()[1].bytes == 9 * 4);
    CHECK(t.cells()[1].messages == 2);
  }
}
