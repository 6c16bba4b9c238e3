#include <moefold/ops/grouped_gemm.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

template <class Y>
constexpr double limit = std::is_same_v<Y, double> ? 1e-12
                       : std::is_same_v<Y, float>  ? 1e-5
                                                   : 2e-2;

using offset_list = std::vector<std::int64_t>;

/// x, w and dy of all groups on both sides; `shift` elements into their memory on the device.
template <class T, class G>
void products_agree(const offset_list& offsets, extent_t out, extent_t in, extent_t shift = 0) {
  test::both_execs e;
  const extent_t groups = extent_t(offsets.size()) - 1, rows = offsets.back();
  const std::string extents =
      sentence(groups, " groups, ", rows, " rows, out ", out, ", in ", in, ", shift ", shift, ", ", name_of(dtype_of<T>));
  CAPTURE(extents);
  const auto on_device = [&](const tensor<T>& t) {
    tensor<T> shifted({extent_t(t.size()) + shift}, T(0.0f));
    std::copy(t.begin(), t.end(), shifted.begin() + shift);
    return test::to_device(shifted);
  };
  const auto x = random_tensor<T>({rows, in}, 1), w = random_tensor<T>({groups, out, in}, 2), dy = random_tensor<T>({rows, out}, 3);
  const auto x_d = on_device(x), w_d = on_device(w), dy_d = on_device(dy);
  const auto offsets_d = test::to_device(offsets);
  const auto see = [&](const auto& t, const auto& on, shape s) {
    return view<const T>(on.data() + shift, s.size() == extent_t(t.size()) ? s : shape{0});
  };
  const view<const T> x_v = see(x, x_d, x.shape()), w_v = see(w, w_d, w.shape()), dy_v = see(dy, dy_d, dy.shape());
  const auto at = offsets_d.view().span();

  tensor<T> y({rows, out}), dx({rows, in});
  auto y_d = test::poisoned<T>({rows, out}), dx_d = test::poisoned<T>({rows, in});
  grouped_gemm_nt(e.host, x, w, offsets, y.view());
  grouped_gemm_nt(e.device, x_v, w_v, at, y_d.view());
  CHECK(test::norm_error(test::to_host(e.device, y_d), y) <= limit<T>);
  for (const double beta : {0.0, 1.0, 0.5}) {
    CAPTURE(beta);
    grouped_gemm_nn(e.host, dy, w, offsets, dx.view(), T(beta));
    grouped_gemm_nn(e.device, dy_v, w_v, at, dx_d.view(), T(beta));
    CHECK(test::norm_error(test::to_host(e.device, dx_d), dx) <= limit<T>);
  }
  auto dw = random_tensor<G>({groups, out, in}, 4);
  const auto before = test::copy_of(dw.view());
  auto dw_d = test::to_device(dw);
  grouped_gemm_tn(e.host, dy.view(), x.view(), offsets, dw.view());
  grouped_gemm_tn(e.device, dy_v, x_v, at, dw_d.view());
  const auto found = test::to_host(e.device, dw_d);
  CHECK(test::norm_error(found, dw) <= (std::is_same_v<T, bf16> && std::is_same_v<G, bf16> ? limit<bf16> : limit<G>));
  for (extent_t g = 0; g < groups; ++g)  // no rows: not one bit of the gradient is touched
    if (offsets[std::size_t(g)] == offsets[std::size_t(g) + 1])
      CHECK(std::memcmp(found.data() + g * out * in, before.data() + g * out * in, std::size_t(out * in) * sizeof(G)) == 0);

  auto again = test::poisoned<T>({rows, out});
  grouped_gemm_nt(e.device, x_v, w_v, at, again.view());
  const auto first = test::to_host(e.device, y_d), second = test::to_host(e.device, again);
  CHECK(std::memcmp(first.data(), second.data(), first.size() * sizeof(T)) == 0);  // the same bits
}

}  // namespace

TEST_SUITE("ops/grouped_gemm") {
  TEST_CASE("in fp32 and fp64 the three products agree with the host's, groups without rows included") {
    products_agree<float, float>({0, 3, 3, 70, 71}, 7, 5);
    products_agree<double, double>({0, 0, 9, 9}, 66, 17);
    products_agree<double, double>({0, 1}, 1, 1);
    products_agree<float, float>({0, 0, 0}, 4, 4);
  }
  TEST_CASE("on tensor cores small tiles agree with the host: groups of few rows, widths of a few packs, tails in every direction") {
    products_agree<bf16, float>({0, 3, 3, 20, 21}, 24, 8);
    products_agree<bf16, float>({0, 0, 65, 65, 67, 67}, 72, 88);
    products_agree<bf16, bf16>({0, 17, 40}, 16, 40);
    products_agree<bf16, float>({0, 0, 0}, 8, 8);
  }
  TEST_CASE("on tensor cores large tiles agree with the host: more rows than a tile, more steps than stages") {
    products_agree<bf16, float>({0, 130, 131, 131, 260}, 136, 168);
    products_agree<bf16, bf16>({0, 64}, 24, 48);
  }
  TEST_CASE("bf16 rows that are no whole packs, or begin elsewhere than on 16 bytes, take the plain tiles") {
    products_agree<bf16, float>({0, 3, 3, 20, 21}, 25, 8);
    products_agree<bf16, float>({0, 5, 9}, 8, 13);
    products_agree<bf16, float>({0, 5, 9}, 8, 16, 1);
  }
  TEST_CASE("offsets are read when the product runs, and wrong ones are complained of at the next wait") {
    test::both_execs e;
    const auto x = test::to_device(random_tensor<bf16>({6, 8}, 1)), w = test::to_device(random_tensor<bf16>({2, 8, 8}, 2));
    auto y = test::poisoned<bf16>({6, 8});
    auto dw = test::to_device(random_tensor<float>({2, 8, 8}, 3));
    for (const offset_list& wrong : {offset_list{0, 7, 6}, {0, 4, 5}, {1, 4, 6}, {0, 5, 40}, {0, -3, 6}}) {
      const auto offsets = test::to_device(wrong);
      grouped_gemm_nt(e.device, x, w, offsets.view().span(), y.view());
      CHECK_THROWS_AS(e.device.wait(), error);
      grouped_gemm_tn(e.device, x.view(), x.view(), offsets.view().span(), dw.view());
      CHECK_THROWS_AS(e.device.wait(), error);
    }
    auto offsets = test::to_device(offset_list{0, 4, 5});
    grouped_gemm_nt(e.device, x, w, offsets.view().span(), y.view());
    CHECK_THROWS_WITH_AS(e.device.wait(),
                         "moefold: offset 5 of group 2 does not ascend from 0 to the 6 rows; pass groups + 1 offsets, the last of them the "
                         "number of rows",
                         error);
    CHECK_NOTHROW(e.device.wait());
  }
  TEST_CASE("shapes that do not fit are refused before anything is launched") {
    test::both_execs e;
    test::device_tensor<float> x({2, 3}), w({2, 4, 3}), y({2, 4}), short_y({1, 4});
    const auto two = test::to_device(offset_list{0, 1}), three = test::to_device(offset_list{0, 1, 2});
    CHECK_THROWS_AS(grouped_gemm_nt(e.device, x, w, two.view().span(), y.view()), error);
    CHECK_THROWS_AS(grouped_gemm_nt(e.device, x, w, three.view().span(), short_y.view()), error);
    CHECK_THROWS_AS(grouped_gemm_nt(e.device, x, x, three.view().span(), y.view()), error);
  }
}
