// The MoE layer and its parts on the host, each beside a twin in the same run, at the proportions of Mixtral-8x7B, Qwen2-57B-A14B and
// Mixtral-8x22B-G8T8, an eighth as wide.
//
//   router          after its matrix product: choose and weigh        twin: softmax over all, then std::partial_sort
//   index           counting sort of the choices                      twin: std::stable_sort by expert
//   permute         tokens to expert order                            twin: memcpy that reads and writes as many bytes      gate 0.6
//   combine         back, summed over k                               twin: the same                                        gate 0.6
//   dispatch        the whole exchange on 2 ranks, ep 2               twin: memcpy of as many bytes, as many threads
//   dispatch_packed where ranks cannot see each other's memory        twin: dispatch where they can
//   layer           router .. combine, forward and backward           twin: its matrix products alone, by CBLAS              gate 0.75
#include <moefold/moe/moe.hpp>

#include "../support/paired.hpp"

#include <moefold/core/rng.hpp>
#include <moefold/ops/softmax.hpp>
#include <moefold/tensor/tensor.hpp>

#include <memory>
#include <numeric>

namespace {

using namespace moefold;

struct proportions {
  const char* name;
  extent_t hidden, ffn, experts, top_k;
};
constexpr proportions models[] = {{"mixtral_8x7b", 512, 1792, 8, 2}, {"qwen2_57b", 448, 320, 64, 8}, {"g8t8", 768, 256, 64, 8}};
constexpr extent_t tokens = 256;  // of one rank

tensor<float> numbers(const shape& extents, std::uint64_t seed = 1) {
  tensor<float> out(extents);
  const random_stream stream(seed, "bench");
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = float(stream.uniform(i) - 0.5);
  return out;
}

/// Random choices of k distinct experts for every token, and where their rows go.
struct routed {
  tensor<std::int32_t> expert, row_of_slot, slot_of_row;
  tensor<std::int64_t> counts;
  tensor<float> weight;
  routed(const proportions& m, host_exec e, extent_t n = tokens)
      : expert({n, m.top_k}), row_of_slot({n, m.top_k}), slot_of_row({n * m.top_k}), counts({m.experts}), weight(numbers({n, m.top_k})) {
    tensor<float> held({n, m.top_k});
    top_k(e, numbers({n, m.experts}, 7), m.top_k, expert.view(), held.view());
    build(e);
  }
  void build(host_exec e) {
    build_permutation(e, expert.view(), counts.extent(0), counts.view().span(), row_of_slot.view(), slot_of_row.view());
  }
};

/// memcpy that reads and writes `bytes` bytes together.
struct copy_twin {
  std::shared_ptr<tensor<float>> from, to;
  explicit copy_twin(std::size_t bytes)
      : from(std::make_shared<tensor<float>>(shape{extent_t(bytes / 8)}, 1.f)),
        to(std::make_shared<tensor<float>>(shape{extent_t(bytes / 8)}, 2.f)) {}
  void operator()() const { std::memcpy(to->data(), from->data(), from->size() * sizeof(float)); }
};

auto router_pair(const proportions& m) {
  return [m](thread_comm&, host_exec e) {
    struct data {
      tensor<float> logits, chosen, weight, share;
      tensor<std::int32_t> expert;
      std::vector<std::int32_t> order;
    };
    auto d = std::make_shared<data>(data{numbers({tokens, m.experts}, 3), tensor<float>({tokens, m.top_k}),
                                         tensor<float>({tokens, m.top_k}), tensor<float>({tokens, m.experts}),
                                         tensor<std::int32_t>({tokens, m.top_k}), std::vector<std::int32_t>(std::size_t(m.experts))});
    route_rule rule;
    rule.top_k = m.top_k;
    return std::pair{[=] {
                       top_k(e, d->logits, m.top_k, d->expert.view(), d->chosen.view());
                       route_weights<float>(e, rule, d->logits, d->expert.view(), d->weight.view());
                     },
                     [=] {
                       softmax_forward(e, d->logits, d->share.view());
                       for (extent_t t = 0; t < tokens; ++t) {
                         const float* const row = d->share.data() + t * m.experts;
                         std::iota(d->order.begin(), d->order.end(), 0);
                         std::partial_sort(d->order.begin(), d->order.begin() + m.top_k, d->order.end(),
                                           [row](int a, int b) { return row[a] > row[b] || (row[a] == row[b] && a < b); });
                         float sum = 0;
                         for (extent_t j = 0; j < m.top_k; ++j) sum += row[d->order[std::size_t(j)]];
                         for (extent_t j = 0; j < m.top_k; ++j) {
                           d->expert.view()(t, j) = d->order[std::size_t(j)];
                           d->weight.view()(t, j) = row[d->order[std::size_t(j)]] / sum;
                         }
                       }
                     }};
  };
}

auto index_pair(const proportions& m) {
  return [m](thread_comm&, host_exec e) {
    auto r = std::make_shared<routed>(m, e, 4096);
    auto order = std::make_shared<std::vector<std::int32_t>>(r->expert.size());
    return std::pair{[=] { r->build(e); },
                     [=] {
                       std::iota(order->begin(), order->end(), 0);
                       std::stable_sort(order->begin(), order->end(),
                                        [&](int a, int b) { return r->expert[std::size_t(a)] < r->expert[std::size_t(b)]; });
                     }};
  };
}

auto permute_pair(const proportions& m, bool forward) {
  return [=](thread_comm&, host_exec e) {
    auto r = std::make_shared<routed>(m, e);
    auto x = std::make_shared<tensor<float>>(numbers({tokens, m.hidden}));
    auto rows = std::make_shared<tensor<float>>(numbers({tokens * m.top_k, m.hidden}));
    const copy_twin twin((x->size() + rows->size()) * sizeof(float));
    return std::pair{[=] {
                       if (forward)
                         permute_rows(e, *x, r->slot_of_row.view().span(), m.top_k, rows->view());
                       else
                         combine_rows(e, *rows, r->row_of_slot.view(), x->view());
                     },
                     [=] { twin(); }};
  };
}

/// Thread ranks that cannot see each other's memory.
struct packed_comm : thread_comm {
  explicit packed_comm(thread_comm inner) : thread_comm(std::move(inner)) {}
  packed_comm split(int colour, int key, comm_label label = {}) { return packed_comm(thread_comm::split(colour, key, label)); }
  template <class... Arguments>
  void fetch_v(Arguments&&...) = delete;
};

/// One rank's part of an exchange over ep 2.
template <class Comm>
struct exchange {
  Comm ep, etp;
  tensor<float> x;
  routed choice;
  arena keep;
  host_exec e;
  exchange(thread_comm& world, host_exec exec, const proportions& m)
      : ep(world.split(0, world.rank(), "ep")), etp(world.split(world.rank(), 0, "etp")), x(numbers({tokens, m.hidden})), choice(m, exec),
        e(exec), dispatcher(m.experts, m.top_k, ep, etp) {}
  all_to_all_dispatcher<float, Comm> dispatcher;
  void operator()() {
    keep.clear();
    dispatcher.dispatch(e, x, routing<float>{choice.expert, choice.weight}, keep);
  }
};

auto dispatch_pair(const proportions& m) {
  return [m](thread_comm& world, host_exec e) {
    auto ours = std::make_shared<exchange<thread_comm>>(world, e, m);
    const copy_twin twin(std::size_t(tokens * (1 + m.top_k) * m.hidden) * sizeof(float));
    return std::pair{[=] { (*ours)(); }, [=] { twin(); }};
  };
}
auto packed_pair(const proportions& m) {
  return [m](thread_comm& world, host_exec e) {
    auto packed = std::make_shared<exchange<packed_comm>>(world, e, m);
    auto direct = std::make_shared<exchange<thread_comm>>(world, e, m);
    return std::pair{[=] { (*packed)(); }, [=] { (*direct)(); }};
  };
}

#if MOEFOLD_HAS_CBLAS
/// One rank's MoE layer on ep = all ranks, with even routing; and the same matrix products by CBLAS alone.
struct layer_case {
  model_shape model;
  thread_comm ep, etp;
  host_exec e;
  tensor<float> router, gate, up, down, drouter, dgate, dup, ddown, x, y, dx;
  tensor<float> rows, act, out, logits;  // of the twin
  moe_layer<fp32, thread_comm> layer;
  moe_layer<fp32, thread_comm>::saved saved;
  routing_tap tap;
  arena keep;

  static model_shape shape_of(const proportions& m) {
    model_shape s;
    s.hidden = m.hidden, s.ffn = m.ffn, s.experts = m.experts, s.top_k = m.top_k;
    return s;
  }
  layer_case(thread_comm& world, host_exec exec, const proportions& m)
      : model(shape_of(m)), ep(world.split(0, world.rank(), "ep")), etp(world.split(world.rank(), 0, "etp")), e(exec),
        router(numbers({m.experts, m.hidden})), gate(numbers({own(), m.ffn, m.hidden})), up(numbers({own(), m.ffn, m.hidden})),
        down(numbers({own(), m.hidden, m.ffn})), drouter(router.shape(), 0.f), dgate(gate.shape(), 0.f), dup(up.shape(), 0.f),
        ddown(down.shape(), 0.f), x(numbers({tokens, m.hidden}, 9)), y(x.shape()), dx(x.shape()),
        rows(numbers({tokens * m.top_k, m.hidden}, 10)), act(numbers({tokens * m.top_k, m.ffn}, 11)), out(rows.shape()),
        logits(numbers({tokens, m.experts})),
        layer(model,
              {{router.view(), drouter.view()}, {gate.view(), dgate.view()}, {up.view(), dup.view()}, {down.view(), ddown.view()}, {}}, ep,
              etp) {
    tap.even = true;
  }
  extent_t own() const { return model.experts / ep.size(); }
  void operator()() {
    keep.clear();
    layer.forward(e, x, y.view(), keep, saved, 0, {.place = {0, 0, 1, {tokens}}, .tap = &tap});
    layer.backward(e, y, dx.view(), saved);
  }
  void products() {
    detail::one_blas_thread();
    const int H = int(model.hidden), F = int(model.ffn), n = int(tokens), E = int(model.experts), each = int(rows.extent(0) / own());
    const auto gemm = [](bool ta, bool tb, int m, int n_, int k, const float* a, const float* b, float beta, float* c) {
      cblas_sgemm(CblasRowMajor, ta ? CblasTrans : CblasNoTrans, tb ? CblasTrans : CblasNoTrans, m, n_, k, 1.f, a, ta ? m : k, b,
                  tb ? k : n_, beta, c, n_);
    };
    gemm(false, true, n, E, H, x.data(), router.data(), 0, logits.data());
    for (extent_t i = 0; i < own(); ++i) {
      float *const in = rows.data() + i * each * H, *const inner = act.data() + i * each * F, *const to = out.data() + i * each * H;
      const extent_t w = i * F * H;
      gemm(false, true, each, F, H, in, up.data() + w, 0, inner);
      gemm(false, true, each, F, H, in, gate.data() + w, 0, inner);
      gemm(false, true, each, H, F, inner, down.data() + w, 0, to);
    }
    for (extent_t i = 0; i < own(); ++i) {
      float *const in = rows.data() + i * each * H, *const inner = act.data() + i * each * F, *const to = out.data() + i * each * H;
      const extent_t w = i * F * H;
      gemm(false, false, each, F, H, to, down.data() + w, 0, inner);
      gemm(true, false, H, F, each, to, inner, 1, ddown.data() + w);
      gemm(true, false, F, H, each, inner, in, 1, dgate.data() + w);
      gemm(false, false, each, H, F, inner, gate.data() + w, 0, to);
      gemm(true, false, F, H, each, inner, in, 1, dup.data() + w);
      gemm(false, false, each, H, F, inner, up.data() + w, 1, to);
    }
    gemm(true, false, E, H, n, logits.data(), x.data(), 1, drouter.data());
    gemm(false, false, n, H, E, logits.data(), router.data(), 1, dx.data());
  }
};
auto layer_pair(const proportions& m) {
  return [m](thread_comm& world, host_exec e) {
    auto c = std::make_shared<layer_case>(world, e, m);
    return std::pair{[=] { (*c)(); }, [=] { c->products(); }};
  };
}
#endif

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  using bench::add_paired;
  for (const proportions& m : models) {
    const std::string name = std::string("/") + m.name;
    add_paired("router" + name, 1, 31, 20, 0, router_pair(m));
    add_paired("index" + name, 1, 31, 20, 0, index_pair(m));
    add_paired("permute" + name, 1, 61, 20, 0.6, permute_pair(m, true));
    add_paired("combine" + name, 1, 61, 20, 0.6, permute_pair(m, false));
    add_paired("dispatch" + name, 2, 61, 20, 0, dispatch_pair(m));
    add_paired("dispatch_packed" + name, 2, 61, 20, 0, packed_pair(m));
#if MOEFOLD_HAS_CBLAS
    add_paired("layer_1_rank" + name, 1, 15, 1, 0.75, layer_pair(m));
    add_paired("layer_ep2" + name, 2, 15, 1, 0.75, layer_pair(m));
#endif
  }
  return bench::run_all();
}
