// The MoE layer on one device, forward and backward in bf16, beside its matrix products alone by dense cuBLAS: as many operations in one product each, over
// all rows with one expert's weight. What is missing to 1 is routing, moving rows, activation, and what the grouped products lose to dense ones.
//
//   Mixtral-8x7B, Mixtral-8x22B, Qwen2-57B-A14B, Mixtral-8x22B-G8T8       gate 0.55
#include <moefold/comm/self.cuh>
#include <moefold/moe/moe.hpp>
#include <moefold/moefold.cuh>

#include "../support/device_pairs.cuh"

namespace {

using namespace moefold;
using bench::device_pair;
using bench::device_tensor;
using bench::numbers;
using bench::sized;

struct proportions {
  const char* name;
  extent_t hidden, ffn, experts, top_k;
};
constexpr proportions models[] = {{"mixtral_8x7b", 4096, 14336, 8, 2},
                                  {"mixtral_8x22b", 6144, 16384, 8, 2},
                                  {"qwen2_57b", 3584, 2560, 64, 8},
                                  {"g8t8", 6144, 2048, 64, 8}};

/// One rank's layer with all experts, and the same products densely.
struct layer_case {
  using precision = mixed_bf16;
  using layer_type = moe_layer<precision, device_self_comm>;

  cuda_exec e;
  model_shape model;
  extent_t tokens = sized(8192), rows;
  device_self_comm ep, etp;
  device_tensor<bf16> router, gate, up, down, x, y, dx;
  device_tensor<float> drouter, dgate, dup, ddown;
  device_tensor<bf16> in, inner, out, act;  // of the twin: read [rows, H], [rows, F], written the same
  device_tensor<float> logits;
  layer_type layer;
  layer_type::saved saved;
  basic_arena<device_memory> keep;

  static model_shape shape_of(const proportions& m) {
    model_shape s;
    s.hidden = sized(m.hidden), s.ffn = sized(m.ffn), s.experts = m.experts, s.top_k = m.top_k;
    return s;
  }
  layer_case(cuda_exec exec, const proportions& m)
      : e(exec), model(shape_of(m)), rows(tokens * m.top_k), router(weights({m.experts, model.hidden}, 1)),
        gate(weights({m.experts, model.ffn, model.hidden}, 2)), up(weights({m.experts, model.ffn, model.hidden}, 3)),
        down(weights({m.experts, model.hidden, model.ffn}, 4)), x(numbers<bf16>(e, {tokens, model.hidden}, 5)), y(x.shape()), dx(x.shape()),
        drouter(zeros(router.shape())), dgate(zeros(gate.shape())), dup(zeros(up.shape())), ddown(zeros(down.shape())),
        in(numbers<bf16>(e, {rows, model.hidden}, 6)), inner(numbers<bf16>(e, {rows, model.ffn}, 7)), out(in.shape()), act(inner.shape()),
        logits(numbers<float>(e, {tokens, m.experts}, 8)),
        layer(model,
              {{router.view(), drouter.view()}, {gate.view(), dgate.view()}, {up.view(), dup.view()}, {down.view(), ddown.view()}, {}, {}},
              ep, etp) {}
  device_tensor<bf16> weights(const shape& s, std::uint32_t seed) { return numbers<bf16>(e, s, seed, 0.02f); }
  device_tensor<float> zeros(const shape& s) { return bench::filled<float>(e, s, 0.0f); }

  void operator()() {
    keep.clear();
    layer.forward(e, std::as_const(x).view(), y.view(), keep, saved, 0, {.place = {0, 0, 1, {tokens}}});
    layer.backward(e, std::as_const(y).view(), dx.view(), saved);
  }
  void products() {
    const auto first = [](auto& w) { return std::as_const(w).view().rows(0, 1).as({w.extent(1), w.extent(2)}); };
    const auto gradient = [](auto& w) { return w.view().rows(0, 1).as({w.extent(1), w.extent(2)}); };
    const auto seen = [](auto& t) { return std::as_const(t).view(); };
    gemm_nt(e, seen(x), seen(router), logits.view());
    gemm_nt(e, in, first(gate), act.view());
    gemm_nt(e, in, first(up), act.view());
    gemm_nt(e, inner, first(down), out.view());
    gemm_nn(e, in, first(down), act.view());
    gemm_tn(e, seen(in), seen(inner), gradient(ddown), 1.0f);
    gemm_nn(e, inner, first(gate), out.view());
    gemm_tn(e, seen(inner), seen(in), gradient(dgate), 1.0f);
    gemm_nn(e, inner, first(up), out.view(), bf16(1.0f));
    gemm_tn(e, seen(inner), seen(in), gradient(dup), 1.0f);
    gemm_tn(e, seen(logits), seen(x), drouter.view(), 1.0f);
    gemm_nn(e, seen(logits), seen(router), dx.view(), 1.0f);
  }
  double flops() const { return 18.0 * double(rows) * double(model.hidden) * double(model.ffn); }
};

auto layer_pair(const proportions& m) {
  return [m](cuda_exec e) {
    auto c = std::make_shared<layer_case>(e, m);
    return device_pair{[=] { (*c)(); }, [=] { c->products(); }, 0, c->flops()};
  };
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_on_device(argc, argv, [] {
    for (const proportions& m : models)
      bench::add_device_pair(std::string("layer/") + m.name, 0.55, layer_pair(m), bench::shrunk == 1 ? 15 : 1);
  });
}
