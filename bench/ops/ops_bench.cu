// The operations bound by memory, on the device in bf16, each beside a copy of as many bytes as it reads and writes: what it reaches of the copy is
// how much of the device's memory it uses. Sizes: Mixtral-8x22B's and Qwen2-57B-A14B's rows, 8192 tokens.
//
//   permute, combine   0.65        norms, SwiGLU, RoPE   0.75        AdamW   0.8
#include <moefold/ops/activation.cuh>
#include <moefold/ops/adamw.cuh>
#include <moefold/ops/norm.cuh>
#include <moefold/ops/permute.cuh>
#include <moefold/ops/rope.cuh>
#include <moefold/ops/weighted_rows.cuh>

#include "../support/device_pairs.cuh"

#include <numeric>

namespace {

using namespace moefold;
using bench::beside_copy;
using bench::device_tensor;
using bench::numbers;
using bench::sized;

struct rows_shape {
  const char* name;
  extent_t tokens, hidden, ffn, experts, top_k;
};
constexpr rows_shape shapes[] = {{"mixtral_8x22b", 8192, 6144, 16384, 8, 2}, {"qwen2_57b", 8192, 3584, 2560, 64, 8}};

/// Tokens and the rows of their choices, k distinct experts each, in the order in which experts see them.
struct routed {
  cuda_exec e;
  extent_t n, k, h, experts;
  device_tensor<bf16> x, rows, packed;
  device_tensor<float> weight;
  device_tensor<std::int32_t> index, row_of_slot, slot_of_row;
  device_tensor<std::int64_t> counts;
  routed(cuda_exec exec, const rows_shape& s)
      : e(exec), n(sized(s.tokens)), k(s.top_k), h(sized(s.hidden)), experts(s.experts), x(numbers<bf16>(e, {n, h}, 1)),
        rows(numbers<bf16>(e, {n * k, h}, 2)), packed({n * k, h + wide_lanes<bf16>}), weight(numbers<float>(e, {n, k}, 3)),
        index(bench::uploaded(e, chosen(n, k, s.experts))), row_of_slot({n, k}), slot_of_row({n * k}), counts({s.experts}) {
    build();
    permute_weighted(e, x, weight, slot_of_row.view().span(), packed.view(), std::as_const(row_of_slot).view());
  }
  void build() {
    build_permutation(e, std::as_const(index).view().as({n, k}), experts, counts.view().span(), row_of_slot.view(), slot_of_row.view());
  }
  double bytes() const { return 2.0 * double(n * (k + 1) * h); }

  static std::vector<std::int32_t> chosen(extent_t n, extent_t k, extent_t experts) {
    const random_stream stream(7, "choices");
    std::vector<std::int32_t> out;
    for (extent_t t = 0; t < n; ++t) {
      const auto first = std::int32_t(stream.bits(std::uint64_t(2 * t)) % std::uint64_t(experts));
      const auto step =
          std::int32_t(2 * (stream.bits(std::uint64_t(2 * t + 1)) % std::uint64_t(experts / 2)) + 1);  // odd: experts are a power of two
      for (extent_t j = 0; j < k; ++j) out.push_back(std::int32_t((first + j * step) % experts));
    }
    return out;
  }
};
template <class Ours>
auto routed_pair(const rows_shape& s, Ours ours) {
  return [=](cuda_exec e) {
    auto r = std::make_shared<routed>(e, s);
    return beside_copy(e, r->bytes(), [=] { ours(*r); });
  };
}

/// What the row-wise operations work on.
struct rows_case {
  cuda_exec e;
  device_tensor<bf16> a, b, c, d, f, gain;
  device_tensor<float> of_row, of_row_out, dgain;
  rows_case(cuda_exec exec, extent_t rows, extent_t width)
      : e(exec), a(numbers<bf16>(e, {rows, width}, 1)), b(numbers<bf16>(e, {rows, width}, 2)), c(numbers<bf16>(e, {rows, width}, 3)),
        d({rows, width}), f({rows, width}), gain(numbers<bf16>(e, {width}, 4)), of_row(numbers<float>(e, {rows}, 5)), of_row_out({rows}),
        dgain(numbers<float>(e, {width}, 6)) {}
};
/// `passes`: how often the operation reads or writes [rows, width].
template <class Ours>
auto rows_pair(extent_t rows, extent_t width, double passes, Ours ours) {
  return [=](cuda_exec e) {
    auto c = std::make_shared<rows_case>(e, rows, width);
    return beside_copy(e, passes * 2.0 * double(rows * width), [=] { ours(*c); });
  };
}

auto turn_pair(extent_t tokens, extent_t heads, extent_t d) {
  return [=](cuda_exec e) {
    auto x = std::make_shared<device_tensor<bf16>>(numbers<bf16>(e, {tokens, 1, heads, d}));
    std::vector<std::int32_t> at(std::size_t(tokens), 0);
    std::iota(at.begin(), at.end(), 0);
    auto position = std::make_shared<device_tensor<std::int32_t>>(bench::uploaded(e, at));
    return beside_copy(e, 4.0 * double(x->size()), [=] { rope_forward(e, x->view(), std::as_const(*position).view().span(), 10000.0); });
  };
}

auto adamw_pair(extent_t n) {
  return [=](cuda_exec e) {
    struct data {
      device_tensor<float> master, grad, m, v;
      device_tensor<bf16> weights;
    };
    auto d = std::make_shared<data>(data{numbers<float>(e, {n}, 1), numbers<float>(e, {n}, 2), numbers<float>(e, {n}, 3),
                                         bench::filled<float>(e, {n}, 1.0f), device_tensor<bf16>({n})});
    return beside_copy(e, 30.0 * double(n), [=] {  // master, m and v there and back, the gradient, the weight
      adamw_update(e, {}, d->master.view().span(), d->grad.view().span(), d->m.view().span(), d->v.view().span(), d->weights.view().span());
    });
  };
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_on_device(argc, argv, [] {
    using bench::add_device_pair;
    for (const rows_shape& s : shapes) {
      const std::string name = std::string("/") + s.name;
      const extent_t tokens = sized(s.tokens), hidden = sized(s.hidden), rows = sized(s.tokens * s.top_k), ffn = sized(s.ffn);
      add_device_pair("index" + name, 0, routed_pair(s, [](routed& r) { r.build(); }));
      add_device_pair("permute" + name, 0.65, routed_pair(s, [](routed& r) {
                        permute_rows(r.e, r.x, std::as_const(r.slot_of_row).view().span(), r.k, r.rows.view(),
                                     std::as_const(r.row_of_slot).view());
                      }));
      add_device_pair("combine" + name, 0.65,
                      routed_pair(s, [](routed& r) { combine_rows(r.e, r.rows, std::as_const(r.row_of_slot).view(), r.x.view()); }));
      add_device_pair("permute_weighted" + name, 0.65, routed_pair(s, [](routed& r) {
                        permute_weighted(r.e, r.x, r.weight, std::as_const(r.slot_of_row).view().span(), r.packed.view(),
                                         std::as_const(r.row_of_slot).view());
                      }));
      add_device_pair("combine_weighted" + name, 0.65, routed_pair(s, [](routed& r) {
                        combine_weighted(r.e, r.packed, std::as_const(r.row_of_slot).view(), r.x.view(), r.weight);
                      }));
      add_device_pair("norm_forward" + name, 0.75, rows_pair(tokens, hidden, 2, [](rows_case& c) {
                        rms_norm_forward(c.e, c.a, c.gain, 1e-5, c.d.view(), c.of_row_out.view());
                      }));
      add_device_pair("residual_norm_forward" + name, 0.75, rows_pair(tokens, hidden, 4, [](rows_case& c) {
                        residual_rms_norm_forward(c.e, c.a, c.b, c.gain, 1e-5, c.d.view(), c.f.view(), c.of_row_out.view());
                      }));
      add_device_pair("norm_backward" + name, 0.75, rows_pair(tokens, hidden, 3, [](rows_case& c) {
                        rms_norm_backward(c.e, c.a, c.b, c.gain, c.of_row, c.d.view(), c.dgain.view());
                      }));
      add_device_pair("swiglu_forward" + name, 0.75,
                      rows_pair(rows, ffn, 3, [](rows_case& c) { swiglu_forward(c.e, c.a, c.b, c.of_row, c.d.view()); }));
      add_device_pair("swiglu_backward" + name, 0.75, rows_pair(rows, ffn, 5, [](rows_case& c) {
                        swiglu_backward(c.e, c.a, c.b, c.c, c.of_row, c.d.view(), c.f, c.of_row_out.view());
                      }));
    }
    add_device_pair("rope/8192x48x128", 0.75, turn_pair(sized(8192), 48, 128));
    add_device_pair("adamw/100M", 0.8, adamw_pair(sized(100'000'000)));
  });
}
