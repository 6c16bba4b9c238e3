// Grouped matrix products, each beside cuBLAS at as many operations in one dense product; and cuBLASLt as the library calls it beside itself, in bf16,
// fp32 and with a wide operand, which says what a cast costs. The grouped kernel runs on mma.sync: on sm_90 that is below what cuBLAS takes from wgmma,
// so its ratios are reported without a gate; the gate is the MoE layer's (bench/moe).
//
//   forward  y_g = x_g w_g^T      dgrad  dx_g = dy_g w_g      wgrad  dw_g += dy_g^T x_g in fp32
#include <moefold/ops/gemm.cuh>
#include <moefold/ops/grouped_gemm.cuh>

#include "../support/device_pairs.cuh"

namespace {

using namespace moefold;
using bench::device_pair;
using bench::device_tensor;
using bench::numbers;
using bench::sized;

struct grouped_shape {
  const char* name;
  extent_t groups, rows, in, out;
  bool skewed;
};
constexpr grouped_shape shapes[] = {{"mixtral_8x2048", 8, 8 * 2048, 6144, 16384, false},
                                    {"qwen2_64x1024", 64, 64 * 1024, 3584, 2560, false},
                                    {"fine_128_zipf", 128, 32768, 2048, 768, true},
                                    {"few_rows_64x32", 64, 64 * 32, 3584, 2560, false}};

/// Rows of each group: equal, or falling as 1 / rank^1.2.
std::vector<std::int64_t> offsets_of(const grouped_shape& s, extent_t rows) {
  std::vector<double> share;
  double sum = 0;
  for (extent_t g = 0; g < s.groups; ++g) share.push_back(s.skewed ? std::pow(double(g + 1), -1.2) : 1.0), sum += share.back();
  std::vector<std::int64_t> offsets{0};
  double before = 0;
  for (const double part : share) offsets.push_back(std::int64_t(std::llround(double(rows) * (before += part) / sum)));
  return offsets;
}

struct grouped_case {
  cuda_exec e;
  extent_t rows, in, out;
  device_tensor<bf16> x, w, y;
  device_tensor<float> dw, dense_dw;
  device_tensor<std::int64_t> offsets;
  grouped_case(cuda_exec exec, const grouped_shape& s)
      : e(exec), rows(sized(s.rows)), in(sized(s.in)), out(sized(s.out)), x(numbers<bf16>(e, {rows, in}, 1)),
        w(numbers<bf16>(e, {s.groups, out, in}, 2)), y(numbers<bf16>(e, {rows, out}, 3)), dw(numbers<float>(e, {s.groups, out, in}, 4)),
        dense_dw(numbers<float>(e, {out, in}, 5)), offsets(bench::uploaded(e, offsets_of(s, rows))) {}
  view<const bf16> weight() const { return w.view().rows(0, 1).as({out, in}); }
  std::span<const std::int64_t> at() const { return offsets.view().span(); }
  double flops() const { return 2.0 * double(rows) * double(in) * double(out); }
};

template <class Ours, class Twin>
auto grouped_pair(const grouped_shape& s, Ours ours, Twin twin) {
  return [=](cuda_exec e) {
    auto c = std::make_shared<grouped_case>(e, s);
    return device_pair{[=] { ours(*c); }, [=] { twin(*c); }, 0, c->flops()};
  };
}

/// A dense product as the library makes it beside one of bf16 into bf16.
template <class X, class W, class Y>
auto dense_pair(extent_t m, extent_t n, extent_t k) {
  return [=](cuda_exec e) {
    struct data {
      device_tensor<X> a;
      device_tensor<W> b;
      device_tensor<Y> c;
      device_tensor<bf16> a16, b16, c16;
    };
    auto d = std::make_shared<data>(data{numbers<X>(e, {m, k}, 1), numbers<W>(e, {n, k}, 2), numbers<Y>(e, {m, n}, 3),
                                         numbers<bf16>(e, {m, k}, 1), numbers<bf16>(e, {n, k}, 2), numbers<bf16>(e, {m, n}, 3)});
    return device_pair{[=] { gemm_nt(e, std::as_const(d->a).view(), std::as_const(d->b).view(), d->c.view()); },
                       [=] { gemm_nt(e, d->a16, d->b16, d->c16.view()); }, 0, 2.0 * double(m) * double(n) * double(k)};
  };
}

}  // namespace

int main(int argc, char** argv) {
  return bench::run_on_device(argc, argv, [] {
    for (const grouped_shape& s : shapes) {
      const std::string name = std::string("/") + s.name;
      bench::add_device_pair("grouped_forward" + name, 0,
                             grouped_pair(
                                 s, [](grouped_case& c) { grouped_gemm_nt(c.e, c.x, c.w, c.at(), c.y.view()); },
                                 [](grouped_case& c) { gemm_nt(c.e, c.x, c.weight(), c.y.view()); }));
      bench::add_device_pair("grouped_dgrad" + name, 0,
                             grouped_pair(
                                 s, [](grouped_case& c) { grouped_gemm_nn(c.e, c.y, c.w, c.at(), c.x.view()); },
                                 [](grouped_case& c) { gemm_nn(c.e, c.y, c.weight(), c.x.view()); }));
      bench::add_device_pair(
          "grouped_wgrad" + name, 0,
          grouped_pair(
              s, [](grouped_case& c) { grouped_gemm_tn(c.e, std::as_const(c.y).view(), std::as_const(c.x).view(), c.at(), c.dw.view()); },
              [](grouped_case& c) { gemm_tn(c.e, std::as_const(c.y).view(), std::as_const(c.x).view(), c.dense_dw.view(), 1.0f); }));
    }
    const extent_t m = sized(8192), n = sized(4096), k = sized(4096);
    bench::add_device_pair("gemm_bf16_to_fp32", 0, dense_pair<bf16, bf16, float>(m, n, k));
    bench::add_device_pair("gemm_fp32_x_bf16", 0, dense_pair<float, bf16, bf16>(m, n, k));
    bench::add_device_pair("gemm_fp32", 0, dense_pair<float, float, float>(m, n, k));
  });
}
