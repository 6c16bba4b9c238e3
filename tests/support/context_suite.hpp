#pragma once
// What every context-parallel policy must do: one rank's attention on every cp x tp, with packed documents or without, and the traffic that the
// inventory foretells.
#include "attended.hpp"

#include <moefold/comm/recording.hpp>
#include <moefold/inventory/traffic.hpp>

namespace moefold::test {

/// Documents of uneven lengths in every sequence, some of one token, other ones in each sequence.
inline std::vector<std::int32_t> packed_documents(extent_t sequence, extent_t batch) {
  std::vector<std::int32_t> first(std::size_t(sequence * batch)), tokens(static_cast<std::size_t>(sequence)), own(tokens.size());
  for (extent_t b = 0; b < batch; ++b) {
    for (extent_t i = 0; i < sequence; ++i) tokens[std::size_t(i)] = std::int32_t((i * i + 5 * b) % 7 == 3 || i == 8 || i == 9);
    document_starts(tokens, 1, own);
    for (extent_t i = 0; i < sequence; ++i) first[std::size_t(i * batch + b)] = own[std::size_t(i)];
  }
  return first;
}

template <class Context>
void check_context_policy() {
  const model_shape model{
      .hidden = 10, .heads = 16, .kv_heads = 8, .head_dim = 4, .rope_theta = 100.0, .norm_eps = 1e-2, .qkv_bias = true, .qk_norm = true};
  for (const bool packed : {false, true})
    for (const extent_t batch : {extent_t{1}, extent_t{2}}) {
      attended one(model, 48, batch), many(model, 48, batch);
      if (packed) one.first = many.first = packed_documents(48, batch);
      one.on_one();
      for (const int cp : {2, 4})
        for (const int tp : {1, 2}) {
          CAPTURE(packed);
          CAPTURE(batch);
          CAPTURE(cp);
          CAPTURE(tp);
          check_same(many.template on<fp64, Context>(tp, cp), one, 1e-12);
          check_same(many.template on<fp64, Context>(tp, cp, false), one, 1e-12);       // core attention recomputed
          check_same(many.template on<fp64, Context>(tp, cp, true, true), one, 1e-12);  // messages beside the computation
          check_same(many.template on<fp32, Context>(tp, cp), one, 1e-5);
        }
    }
}

/// What a layer's forward and backward send over cp, counted and foretold.
template <class Context>
void check_context_traffic(bool keep_core) {
  model_shape model{.layers = 1, .hidden = 10, .heads = 16, .kv_heads = 8, .head_dim = 4};
  for (const int tp : {1, 2}) {
    const int cp = 4;
    run_ranks(tp * cp, [&](thread_comm& world) {
      traffic_log log;
      const int rank = world.rank();
      recording<thread_comm> all(std::move(world), log);
      auto tp_group = all.split(rank / tp, rank, "tp"), cp_group = all.split(rank % tp, rank, "cp");
      attended one(model, 48, 2);
      const traffic_log before = log;
      one.template run<fp32, Context>(tp_group, cp_group, keep_core);
      const traffic_log sent = log - before;
      activation_shape a{model, make_folding({{axis_id::tp, tp}, {axis_id::cp, cp}}, {{axis_id::edp, tp * cp}}), 48, 2};
      a.context = Context::facts;
      if (!keep_core) a.recompute = selective<recompute_part::core_attention>;
      const std::vector<std::int64_t> none(std::size_t(model.experts), 0);
      const traffic_table table =
          step_traffic<fp32>(a, rank, 1, [&](extent_t, extent_t, extent_t) -> std::span<const std::int64_t> { return none; });
      std::size_t cells = 0;
      for (const traffic_cell& cell : table.cells()) {
        if (cell.axis() != "cp") continue;
        ++cells;
        CAPTURE(name_of(cell.op));
        const traffic_count count = sent("cp", cell.op);
        CHECK(count == traffic_count{cell.calls, cell.messages, cell.bytes});
      }
      CHECK(cells > 0);
      std::size_t seen = 0;
      sent.for_each([&](const traffic_log::entry& entry) { seen += entry.label == comm_label("cp") && entry.op != operation::split; });
      CHECK(seen == cells);
    });
  }
}

}  // namespace moefold::test
