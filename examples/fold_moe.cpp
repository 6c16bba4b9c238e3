// Attention and MoE blocks in a trainer of one's own: four thread ranks, attention on tp2 x cp2, experts on ep4 over the same ranks, and weights
// that live in the user's memory. Between the two blocks nothing is resharded: both see [S/(CP*TP), H] rows.
#include <moefold/attention/attention.hpp>
#include <moefold/comm/thread.hpp>
#include <moefold/core/rng.hpp>
#include <moefold/mesh/group.hpp>
#include <moefold/moe/moe.hpp>
#include <moefold/ops/elementwise.hpp>
#include <moefold/tensor/tensor.hpp>

#include <cstdio>
#include <vector>

using namespace moefold;

struct my_model {  // what both blocks read; everything else keeps its default
  static constexpr model_shape model{
      .layers = 1, .hidden = 64, .heads = 4, .kv_heads = 2, .head_dim = 16, .experts = 8, .top_k = 2, .ffn = 96};
  static constexpr extent_t sequence = 64;
};
struct attention_policy : attention_defaults, my_model {
  using my_model::model;
  using my_model::sequence;
};
struct moe_policy : moe_defaults, my_model {
  using my_model::model;
};

using fold = folding<mesh<tp<2>, cp<2>>, mesh<ep<4>>>;

// A matrix and its gradient in the user's own memory.
struct matrix {
  std::vector<float> value, gradient;
  matrix(extent_t elements, const char* name, int rank) : value(std::size_t(elements)), gradient(std::size_t(elements)) {
    const random_stream normal(std::uint64_t(rank), name);
    for (std::size_t i = 0; i < value.size(); ++i) value[i] = float(0.05 * normal.normal(i));
  }
  template <class Placement>
  parameter<fp32, Placement> as(shape s) {
    return {{value.data(), s}, {gradient.data(), s}};
  }
};

/// This rank's communicator over some axes of a mesh.
template <class Mesh, class... Tags>
thread_comm split(thread_comm& world, const char* label) {
  const extents mesh = extents_of<Mesh>();
  return world.split(int(group_index(mesh, set_of<Tags...>, world.rank())), world.rank(), label);
}

int main() {
  run_threads(4, [](thread_comm& world) {
    thread_comm tp = split<fold::attention, tag::tp>(world, "tp"), cp = split<fold::attention, tag::cp>(world, "cp");
    thread_comm ep = split<fold::moe, tag::ep>(world, "ep"), etp = split<fold::moe, tag::etp>(world, "etp");
    constexpr auto m = my_model::model;
    constexpr extent_t H = m.hidden, q = m.q_width() / 2, kv = m.kv_width() / 2, E = m.experts / 4, F = m.ffn;  // local extents: tp 2, ep 4
    const int tp_rank = tp.rank(), ep_rank = ep.rank();

    matrix wq(q * H, "q", tp_rank), wk(kv * H, "k", tp_rank), wv(kv * H, "v", tp_rank), wo(H * q, "o", tp_rank);
    attention<attention_policy, fold::attention, thread_comm> attention(
        {{wq.as<rows_over_tp>({q, H})}, {wk.as<rows_over_tp>({kv, H})}, {wv.as<rows_over_tp>({kv, H})}, {wo.as<columns_over_tp>({H, q})}},
        tp, cp);

    matrix router(m.experts * H, "router", 0), gate(E * F * H, "gate", ep_rank), up(E * F * H, "up", ep_rank),
        down(E * H * F, "down", ep_rank);
    moe<moe_policy, fold::moe, thread_comm> moe({router.as<replicated>({m.experts, H}), gate.as<expert_rows>({E, F, H}),
                                                 up.as<expert_rows>({E, F, H}), down.as<expert_columns>({E, H, F})},
                                                ep, etp);

    constexpr extent_t rows = my_model::sequence / 4;  // S / (CP * TP)
    tensor<float> x({rows, H}), h({rows, H}), y({rows, H}), dh({rows, H}), dx({rows, H});
    const random_stream noise(7, std::uint64_t(world.rank()));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = float(noise.normal(i));

    host_context context;  // scratch of this rank
    host_exec exec(context);
    arena keep;  // what backward needs
    decltype(attention)::base::saved attention_saved;
    decltype(moe)::base::saved moe_saved;
    attention.forward(exec, x, h, keep, attention_saved);
    accumulate(exec, x.view(), h.view());                                                // the residual
    const batch_place place{0, 0, 1, {my_model::sequence, 2, cp.rank(), 2, tp.rank()}};  // which tokens these are: some policies need it
    moe.forward(exec, h, y, keep, moe_saved, 0, {.place = place});
    moe.backward(exec, y, dh, moe_saved);  // the gradient of |y|^2 / 2 is y
    attention.backward(exec, dh, dx, attention_saved);
    accumulate(exec, dh.view(), dx.view());

    double here = 0, all = 0;
    for (const float g : dx) here += double(g) * double(g);
    world.all_reduce(exec, std::span<const double>(&here, 1), std::span(&all, 1), sum{}).wait(exec);
    if (world.rank() == 0)
      std::printf("|dx|^2 over 4 ranks: %.3e; rank 0's experts received %d rows\n", all, int(moe_saved.ticket.batch.extent(0)));
  });
}
