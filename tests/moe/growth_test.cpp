// How the MoE layer grows, exactly: messages, bytes and allocations by formula, and the time to build an index by its slope.
#include <moefold/comm/recording.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/mesh/group.hpp>
#include <moefold/moe/moe.hpp>

#include <doctest/doctest.h>
#include "../support/counting_new.hpp"
#include "../support/moe_suite.hpp"

#include <algorithm>
#include <chrono>

using namespace moefold;
using test::random_tensor;

namespace {

/// One MoE layer over ep x etp thread ranks with even routing; counts what one rank sends in each of the four passes' operations.
struct passes {
  traffic_log first, second;                  // of the first micro-batch and of a later one
  std::size_t new_later = 0, host_later = 0;  // allocations of all ranks in the later one
};

template <template <class, class> class Dispatcher>
passes run_even(extent_t ep_ranks, extent_t etp_ranks, extent_t n, const model_shape& model, const token_rule& tokens = {}) {
  using Comm = recording<thread_comm>;
  const extents mesh{{axis_id::etp, etp_ranks}, {axis_id::ep, ep_ranks}};
  const folding_extents fold = make_folding({{axis_id::dp, ep_ranks * etp_ranks}}, mesh);
  const test::oracle_weights w(model, 1);
  passes result;
  std::atomic<std::size_t> news{0}, hosts{0};
  run_threads(int(mesh.ranks()), [&](thread_comm& threads) {
    traffic_log log;
    const bool shown = threads.rank() == 0;
    Comm world(std::move(threads), log);
    const extent_t rank = world.rank();
    const auto split = [&](axis_id axis) {
      return world.split(int(group_index(mesh, axis, rank)), int(group_of(mesh, axis, rank).index_of(rank)), name_of(axis));
    };
    Comm ep = split(axis_id::ep), etp = split(axis_id::etp);
    test::cut_parameter<fp64, replicated> router(w.router, w.router.shape(), fold, rank);
    test::cut_parameter<fp64, expert_rows> gate(w.gate, w.gate.shape(), fold, rank), up(w.up, w.up.shape(), fold, rank);
    test::cut_parameter<fp64, expert_columns> down(w.down, w.down.shape(), fold, rank);
    moe_facts facts;
    facts.tokens = tokens;
    const moe_layer<fp64, Comm, test::suite_policy<Dispatcher>> layer(model, {router.get(), gate.get(), up.get(), down.get()}, {&ep, &etp},
                                                                      {}, facts);
    typename moe_layer<fp64, Comm, test::suite_policy<Dispatcher>>::saved saved;
    host_context context;
    const host_exec e(context);
    arena keep;
    const auto x = random_tensor<double>({n, model.hidden}, std::uint64_t(rank));
    tensor<double> y(x.shape()), dx(x.shape());
    routing_tap tap;
    tap.even = true;
    const auto pass = [&] {
      keep.clear();
      layer.forward(e, x, y, keep, saved, 0, {.place = {0, 0, 1, {n}}, .tap = &tap});
      layer.backward(e, y, dx, saved);
    };
    log.clear();
    pass();
    if (shown) result.first = log;
    pass();
    log.clear();
    const std::size_t before = test::allocations_of_this_thread(), bytes = host_memory::bytes_of_this_thread();
    pass();
    news += test::allocations_of_this_thread() - before;
    hosts += host_memory::bytes_of_this_thread() - bytes;
    if (shown) result.second = log;
  });
  result.new_later = news, result.host_later = hosts;
  return result;
}

constexpr model_shape eight{.layers = 1, .hidden = 6, .experts = 8, .top_k = 2, .ffn = 8};

}  // namespace

TEST_SUITE("moe/growth") {
  TEST_CASE("AllToAll: EP - 1 messages per exchange, whatever the experts, and n k (EP - 1) / EP rows each way") {
    for (const extent_t experts : {8, 16, 32})
      for (const extent_t ep : {2, 4, 8})
        for (const extent_t n : {8, 32}) {
          CAPTURE(experts);
          CAPTURE(ep);
          CAPTURE(n);
          model_shape model = eight;
          model.experts = experts;
          const extent_t tokens = n * experts / 8;  // so that n k is a multiple of E and routing is exactly even
          const passes p = run_even<all_to_all_dispatcher>(ep, 1, tokens, model);
          const traffic_count rows = p.second("ep", operation::all_to_all_v), counts = p.second("ep", operation::all_to_all);
          const std::uint64_t leaving = std::uint64_t(tokens * model.top_k * (ep - 1) / ep), H = std::uint64_t(model.hidden);
          CHECK(rows.calls == 4);
          CHECK(rows.messages == 4 * std::uint64_t(ep - 1));
          CHECK(rows.bytes == leaving * (2 * (H + 1) + 2 * H) * sizeof(double));  // x and p there, their gradients back; y back, dy there
          CHECK(counts.calls == 1);
          CHECK(counts.messages == std::uint64_t(ep - 1));
          CHECK(counts.bytes == std::uint64_t((ep - 1) * (experts / ep)) * 8);
        }
  }
  TEST_CASE("padded to capacity no count travels, and the bytes are those of the capacity") {
    const passes p = run_even<all_to_all_dispatcher>(4, 2, 16, eight, {150, false, false, true});
    CHECK(p.second("ep", operation::all_to_all).calls == 0);
    CHECK(p.second("etp", operation::all_gather).calls == 0);
    const std::uint64_t rows = 6 * 8;  // ceil(1.5 * 16 * 2 / 8) rows of each of 8 experts
    CHECK(p.second("ep", operation::all_to_all_v).bytes == rows * 3 / 4 * (4 * 6 + 2) * 8);
    CHECK(p.second("etp", operation::all_gather_v).bytes == rows * (2 * 6 + 1) * 8);
  }
  TEST_CASE("AllGather: one exchange per axis and pass, all tokens to everybody, independent of k but for the choices themselves") {
    for (const extent_t k : {1, 2, 4}) {
      model_shape model = eight;
      model.top_k = k, model.score = score_function::softmax_before;
      const passes p = run_even<all_gather_dispatcher>(4, 2, 16, model);
      const std::uint64_t H = 6, K = std::uint64_t(k);
      CHECK(p.second("ep", operation::all_gather_v).messages == 2 * 3);
      CHECK(p.second("ep", operation::all_gather_v).bytes == 32 * 3 * ((H + 2 * K) + H) * 8);
      CHECK(p.second("ep", operation::reduce_scatter_v).bytes == 32 * 3 * ((H + K) + H) * 8);
      CHECK(p.second("etp", operation::all_gather_v).bytes == 16 * ((H + 2 * K) + H) * 8);
    }
  }
  TEST_CASE("after warm-up a micro-batch allocates nothing, and sends what the first one sent") {
    const auto check = [](const passes& p) {
      CHECK(p.new_later == 0);
      CHECK(p.host_later == 0);
      CHECK(p.first == p.second);
    };
    check(run_even<all_to_all_dispatcher>(4, 1, 16, eight));
    check(run_even<all_to_all_dispatcher>(2, 2, 16, eight));
    check(run_even<all_gather_dispatcher>(2, 2, 16, eight));
    check(run_even<all_to_all_dispatcher>(2, 2, 16, eight, {100, false, false, true}));
    check(run_even<all_gather_dispatcher>(4, 1, 16, eight, {50, false, true, false}));
  }
  TEST_CASE("index build is linear in n k, and hardly depends on E") {
    const auto seconds = [](extent_t n, extent_t k, extent_t experts) {
      host_context context;
      const host_exec e(context);
      tensor<std::int32_t> index({n, k}), row_of_slot({n, k}), slot_of_row({n * k});
      tensor<std::int64_t> counts({experts});
      const random_stream draw(5, "growth");
      for (std::size_t i = 0; i < index.size(); ++i) index[i] = std::int32_t(draw.bits(i) % std::uint64_t(experts));
      double best = 1e9;
      for (int i = 0; i < 40; ++i) {
        const auto begin = std::chrono::steady_clock::now();
        build_permutation(e, index.view(), experts, counts.view().span(), row_of_slot, slot_of_row);
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
      }
      return best;
    };
    // The least of several attempts: whatever else runs on the machine only adds.
    double slope = 1e9, experts = 1e9;
    for (int attempt = 0; attempt < 25 && (attempt < 5 || slope >= 2.1 * 2.1 || experts >= 1.5); ++attempt) {
      slope = std::min(slope, seconds(1 << 16, 4, 64) / seconds(1 << 14, 4, 64));
      experts = std::min(experts, seconds(1 << 14, 4, 256) / seconds(1 << 14, 4, 8));
    }
    CHECK(slope < 2.1 * 2.1);  // t(4 n) / t(n); n log n would be 4.5 here
    CHECK(experts < 1.5);
  }
}
