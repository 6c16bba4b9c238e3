// How fast the host operations are, each beside a twin that says what the machine can do: matrix products beside raw CBLAS, operations
// bound by memory beside memcpy of the same bytes, attention in GFLOP/s of its visible pairs. Sizes: the default model's and larger.
//
//   FLOP/s      multiplications and additions that the definition needs
//   bytes/s     bytes that the definition reads and writes, each once
#include <moefold/core/rng.hpp>
#include <moefold/ops/activation.hpp>
#include <moefold/ops/adamw.hpp>
#include <moefold/ops/cross_entropy.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/ops/flash.hpp>
#include <moefold/ops/grouped_gemm.hpp>
#include <moefold/ops/norm.hpp>
#include <moefold/ops/permute.hpp>
#include <moefold/ops/rope.hpp>
#include <moefold/ops/softmax.hpp>
#include <moefold/ops/top_k.hpp>
#include <moefold/tensor/tensor.hpp>

#include <benchmark/benchmark.h>

#include <vector>

namespace {

using namespace moefold;
using benchmark::State;

tensor<float> numbers(const shape& extents, std::uint64_t seed = 1) {
  tensor<float> out(extents);
  const random_stream stream(seed, "bench");
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = float(stream.uniform(i) - 0.5);
  return out;
}
std::vector<std::int32_t> count_up(extent_t n) {
  std::vector<std::int32_t> out;
  for (extent_t i = 0; i < n; ++i) out.push_back(std::int32_t(i));
  return out;
}
void flops(State& state, double per_run) {
  state.counters["FLOP/s"] = benchmark::Counter(per_run, benchmark::Counter::kIsIterationInvariantRate, benchmark::Counter::kIs1000);
}
void bytes(State& state, double per_run) { state.SetBytesProcessed(std::int64_t(per_run * double(state.iterations()))); }

template <class Body>
void run(State& state, Body body) {
  for (auto _ : state) {
    body();
    benchmark::ClobberMemory();
  }
}

/// The twin of everything bound by memory: copies `bytes` / 2 bytes.
void copy_bytes(State& state) {
  const std::size_t half = std::size_t(state.range(0)) / 2;
  tensor<float> in({extent_t(half / 4)}, 1.f), out({extent_t(half / 4)}, 1.f);
  run(state, [&] { std::memcpy(out.data(), in.data(), half); });
  bytes(state, 2.0 * double(half));
}

void gemm(State& state) {
  host_context context;
  const host_exec e(context);
  const extent_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto a = numbers({m, k}), b = numbers({n, k});
  tensor<float> c({m, n});
  run(state, [&] { gemm_nt(e, a, b, c.view()); });
  flops(state, 2.0 * double(m * n * k));
}
void gemm_fallback(State& state) {
  host_context context;
  const host_exec e(context);
  const extent_t m = state.range(0), n = state.range(1), k = state.range(2);
  const auto a = numbers({m, k}), b = numbers({n, k});
  tensor<float> c({m, n});
  run(state, [&] { gemm_strided_fallback(e, false, true, m, n, k, 1, a.data(), k, b.data(), k, 0, c.data(), n); });
  flops(state, 2.0 * double(m * n * k));
}
#if MOEFOLD_HAS_CBLAS
void gemm_cblas(State& state) {
  const int m = int(state.range(0)), n = int(state.range(1)), k = int(state.range(2));
  const auto a = numbers({m, k}), b = numbers({n, k});
  tensor<float> c({m, n});
  detail::one_blas_thread();
  run(state, [&] { cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, m, n, k, 1, a.data(), k, b.data(), k, 0, c.data(), n); });
  flops(state, 2.0 * double(m) * n * k);
}
#endif

void grouped(State& state) {  // rows evenly over 8 experts
  host_context context;
  const host_exec e(context);
  const extent_t rows = state.range(0), n = state.range(1), k = state.range(2);
  const auto x = numbers({rows, k}), w = numbers({8, n, k});
  tensor<float> y({rows, n});
  std::vector<std::int64_t> offsets;
  for (extent_t g = 0; g <= 8; ++g) offsets.push_back(rows * g / 8);
  run(state, [&] { grouped_gemm_nt(e, x, w, offsets, y.view()); });
  flops(state, 2.0 * double(rows * n * k));
}

struct attention_case {
  extent_t s, heads, kv_heads, d;
  tensor<float> q, k, v, out, lse, dq, dk, dv;
  std::vector<std::int32_t> at;
  explicit attention_case(const State& state)
      : s(state.range(0)), heads(state.range(1)), kv_heads(state.range(2)), d(state.range(3)), q(numbers({s, 1, heads, d}, 1)),
        k(numbers({s, 1, kv_heads, d}, 2)), v(numbers({s, 1, kv_heads, d}, 3)), out({s, 1, heads, d}), lse({1, heads, s}),
        dq({s, 1, heads, d}), dk({s, 1, kv_heads, d}), dv({s, 1, kv_heads, d}), at(count_up(s)) {}
  double pairs() const { return double(heads) * double(s) * double(s + 1) / 2; }
};
void flash_forward_bench(State& state) {
  host_context context;
  const host_exec e(context);
  attention_case c(state);
  run(state, [&] { flash_forward(e, c.q, c.k, c.v, c.at, c.at, c.out.view(), c.lse); });
  flops(state, 4.0 * c.pairs() * double(c.d));
}
void flash_backward_bench(State& state) {
  host_context context;
  const host_exec e(context);
  attention_case c(state);
  flash_forward(e, c.q, c.k, c.v, c.at, c.at, c.out.view(), c.lse);
  run(state, [&] { flash_backward(e, c.q, c.q, c.k, c.v, c.out, c.lse, c.at, c.at, c.dq.view(), c.dk, c.dv); });
  flops(state, 10.0 * c.pairs() * double(c.d));
}

void norm_forward(State& state) {
  host_context context;
  const host_exec e(context);
  const extent_t rows = state.range(0), h = state.range(1);
  const auto x = numbers({rows, h}), gain = numbers({h});
  tensor<float> y({rows, h}), rstd({rows});
  run(state, [&] { rms_norm_forward(e, x, gain, 1e-5, y.view(), rstd); });
  bytes(state, 8.0 * double(rows * h));
}
void norm_backward(State& state) {
  host_context context;
  const host_exec e(context);
  const extent_t rows = state.range(0), h = state.range(1);
  const auto x = numbers({rows, h}), gain = numbers({h}), dy = numbers({rows, h}, 2);
  tensor<float> dx({rows, h}), rstd({rows}, 1.f), dgain({h}, 0.f);
  run(state, [&] { rms_norm_backward(e, dy, x, gain, rstd, dx.view(), dgain.view()); });
  bytes(state, 12.0 * double(rows * h));
}
void swiglu(State& state) {
  host_context context;
  const host_exec e(context);
  const extent_t rows = state.range(0), f = state.range(1);
  const auto gate = numbers({rows, f}, 1), up = numbers({rows, f}, 2), p = numbers({rows}, 3);
  tensor<float> out({rows, f});
  run(state, [&] { swiglu_forward(e, gate, up, p, out.view()); });
  bytes(state, 12.0 * double(rows * f));
}
void swiglu_gradients(State& state) {
  host_context context;
  const host_exec e(context);
  const extent_t rows = state.range(0), f = state.range(1);
  const auto gate = numbers({rows, f}, 1), up = numbers({rows, f}, 2), p = numbers({rows}, 3), dout = numbers({rows, f}, 4);
  tensor<float> dgate({rows, f}), dup({rows, f}), dp({rows});
  run(state, [&] { swiglu_backward(e, dout, gate, up, p, dgate.view(), dup, dp); });
  bytes(state, 20.0 * double(rows * f));
}
void softmax(State& state) {
  host_context context;
  const host_exec e(context);
  const auto x = numbers({state.range(0), state.range(1)});
  tensor<float> y({state.range(0), state.range(1)});
  run(state, [&] { softmax_forward(e, x, y.view()); });
  bytes(state, 8.0 * double(x.size()));
}
void cross_entropy(State& state) {
  host_context context;
  const host_exec e(context);
  const extent_t n = state.range(0), width = state.range(1);
  auto logits = numbers({n, width});
  tensor<float> parts({1, n, 3}), stats({n, 3}), loss({n});
  const std::vector<std::int32_t> labels(std::size_t(n), 7);
  run(state, [&] {
    cross_entropy_local(e, logits.view(), labels, 0, width, parts.view().as({n, 3}));
    cross_entropy_merge(e, parts, stats.view(), loss);
    cross_entropy_backward(e, logits.view(), labels, 0, width, stats);
  });
  bytes(state, 12.0 * double(n * width));
}
void rope(State& state) {
  host_context context;
  const host_exec e(context);
  auto x = numbers({state.range(0), 1, state.range(1), state.range(2)});
  const auto at = count_up(state.range(0));
  run(state, [&] { rope_forward(e, x.view(), at, 10000.0); });
  bytes(state, 8.0 * double(x.size()));
}

struct routed {
  host_context context;
  host_exec e{context};
  extent_t n, h;
  tensor<float> x, rows, y;
  tensor<std::int32_t> index, row_of_slot, slot_of_row;
  std::vector<std::int64_t> counts = std::vector<std::int64_t>(8);
  explicit routed(const State& state)
      : n(state.range(0)), h(state.range(1)), x(numbers({n, h})), rows({2 * n, h}), y({n, h}), index({n, 2}), row_of_slot({n, 2}),
        slot_of_row({2 * n}) {
    const random_stream stream(3, "routed");
    for (std::size_t i = 0; i < index.size(); ++i) index[i] = std::int32_t(stream.bits(i) % 8);
    build();
  }
  void build() { build_permutation(e, index.view(), 8, counts, row_of_slot, slot_of_row); }
};
void permutation(State& state) {
  routed r(state);
  run(state, [&] { r.build(); });
  state.SetItemsProcessed(state.iterations() * 2 * r.n);
}
void permute(State& state) {
  routed r(state);
  run(state, [&] { permute_rows(r.e, r.x, r.slot_of_row.view(), 2, r.rows.view()); });
  bytes(state, 16.0 * double(r.n * r.h));  // every row written is read: as the copy of the same bytes
}
void combine(State& state) {
  routed r(state);
  permute_rows(r.e, r.x, r.slot_of_row.view(), 2, r.rows.view());
  run(state, [&] { combine_rows(r.e, r.rows, r.row_of_slot.view(), r.y.view()); });
  bytes(state, 12.0 * double(r.n * r.h));
}
void choose(State& state) {
  host_context context;
  const host_exec e(context);
  const extent_t n = state.range(0), width = state.range(1), k = state.range(2);
  const auto scores = numbers({n, width});
  tensor<float> value({n, k});
  tensor<std::int32_t> index({n, k});
  run(state, [&] { top_k(e, scores, k, index, value.view()); });
  state.SetItemsProcessed(state.iterations() * n);
}
void adamw(State& state) {
  host_context context;
  const extent_t n = state.range(0);
  auto w = numbers({n}), m = numbers({n}), g = numbers({n});
  tensor<float> v({n}, 1.f);
  run(state,
      [&] { adamw_update(host_exec(context), {}, w.view().span(), g.view().span(), m.view().span(), v.view().span(), w.view().span()); });
  bytes(state, 28.0 * double(n));
}
void squares(State& state) {
  host_context context;
  const auto x = numbers({state.range(0)});
  run(state, [&] { benchmark::DoNotOptimize(sum_of_squares(host_exec(context), x.view())); });
  bytes(state, 4.0 * double(x.size()));
}

#define MOEFOLD_GEMM_SIZES ->Args({256, 128, 128})->Args({64, 144, 128})->Args({64, 64, 16})->Args({512, 512, 512})->Args({16, 144, 128})
BENCHMARK(gemm) MOEFOLD_GEMM_SIZES;
#if MOEFOLD_HAS_CBLAS
BENCHMARK(gemm_cblas) MOEFOLD_GEMM_SIZES;
#endif
BENCHMARK(gemm_fallback) MOEFOLD_GEMM_SIZES;
BENCHMARK(grouped)->Args({512, 144, 128})->Args({4096, 512, 512});
BENCHMARK(flash_forward_bench)->Args({256, 8, 4, 16})->Args({128, 4, 2, 16})->Args({2048, 8, 2, 64});
BENCHMARK(flash_backward_bench)->Args({256, 8, 4, 16})->Args({128, 4, 2, 16})->Args({2048, 8, 2, 64});
BENCHMARK(copy_bytes)->Arg(256 * 128 * 8)->Arg(512 * 144 * 12)->Arg(8 << 20)->Arg(64 << 20);
BENCHMARK(norm_forward)->Args({256, 128})->Args({4096, 1024});
BENCHMARK(norm_backward)->Args({256, 128})->Args({4096, 1024});
BENCHMARK(swiglu)->Args({512, 144})->Args({4096, 1024});
BENCHMARK(swiglu_gradients)->Args({512, 144})->Args({4096, 1024});
BENCHMARK(softmax)->Args({256, 256})->Args({4096, 1024});
BENCHMARK(cross_entropy)->Args({256, 256})->Args({1024, 4096});
BENCHMARK(rope)->Args({256, 8, 16})->Args({2048, 8, 64});
BENCHMARK(permutation)->Args({256, 8})->Args({8192, 8});
BENCHMARK(permute)->Args({256, 128})->Args({8192, 1024});
BENCHMARK(combine)->Args({256, 128})->Args({8192, 1024});
BENCHMARK(choose)->Args({256, 8, 2})->Args({4096, 64, 8});
BENCHMARK(adamw)->Arg(1 << 18)->Arg(1 << 22);
BENCHMARK(squares)->Arg(1 << 18);

}  // namespace

BENCHMARK_MAIN();
