#include <moefold/ops/weighted_rows.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/random.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

// Four tokens, two slots each; token 1 has lost its second slot, token 2 both.
const std::vector<std::int32_t> slot_of_row{6, 0, 1, 2, 7};
tensor<std::int32_t> row_of_slot() {
  tensor<std::int32_t> rows({4, 2}, -1);
  for (std::size_t r = 0; r < slot_of_row.size(); ++r) rows[std::size_t(slot_of_row[r])] = std::int32_t(r);
  return rows;
}

}  // namespace

TEST_SUITE("ops/weighted_rows") {
  TEST_CASE_TEMPLATE("a row is its token and the weight of its slot", T, float, double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t width : {1, 3, 100}) {
      const auto x = random_tensor<T>({4, width}, 1), weight = random_tensor<T>({4, 2}, 2);
      tensor<T> rows({5, width + 1});
      permute_weighted<T>(e, x, weight, slot_of_row, rows.view());
      bool same = true;
      for (extent_t r = 0; r < 5; ++r) {
        for (extent_t c = 0; c < width; ++c) same = same && rows.view()(r, c) == x.view()(slot_of_row[std::size_t(r)] / 2, c);
        same = same && rows.view()(r, width) == weight[std::size_t(slot_of_row[std::size_t(r)])];
      }
      CHECK(same);
    }
  }
  TEST_CASE_TEMPLATE("a token's sum is over its slots, each slot has its own row's weight, and dropped slots count for nothing", T, float,
                     double) {
    host_context context;
    const host_exec e(context);
    for (const extent_t width : {1, 31, 64, 200}) {  // inside one block of columns, exactly one, and several
      const auto rows = random_tensor<T>({5, width + 1}, 1);
      const auto places = row_of_slot();
      tensor<T> y({4, width}, T(-1)), weight({4, 2}, T(-1));
      combine_weighted<T>(e, rows, places.view(), y.view(), weight.view());
      bool same = true;
      for (extent_t t = 0; t < 4; ++t) {
        for (extent_t c = 0; c < width; ++c) {
          T sum = 0;
          for (extent_t j = 0; j < 2; ++j)
            if (places.view()(t, j) >= 0) sum += rows.view()(places.view()(t, j), c);
          same = same && y.view()(t, c) == sum;
        }
        for (extent_t j = 0; j < 2; ++j)
          same = same && weight.view()(t, j) == (places.view()(t, j) < 0 ? T(0) : rows.view()(places.view()(t, j), width));
      }
      CHECK(same);
    }
  }
  TEST_CASE("combine_weighted is the backward of permute_weighted, and scatter_weighted of gather_weighted") {
    host_context context;
    const host_exec e(context);
    auto x = random_tensor<double>({4, 3}, 1), weight = random_tensor<double>({4, 2}, 2);
    const auto drows = random_tensor<double>({5, 4}, 3);
    const auto places = row_of_slot();
    tensor<double> rows({5, 4}), dx({4, 3}), dweight({4, 2});
    combine_weighted<double>(e, drows, places.view(), dx.view(), dweight.view());
    const auto loss = [&] {
      permute_weighted<double>(e, x, weight, slot_of_row, rows.view());
      return test::dot(rows, drows);
    };
    CHECK(test::largest_error(dx, test::numerical_gradient(x, loss)) < 1e-9);
    CHECK(test::largest_error(dweight, test::numerical_gradient(weight, loss)) < 1e-9);

    auto in = random_tensor<double>({5, 4}, 4);
    const auto dout = random_tensor<double>({5, 3}, 5), dp = random_tensor<double>({5}, 6);
    const std::vector<std::int32_t> order{3, 0, 4, 1, 2};
    tensor<double> out({5, 3}), p({5}), din({5, 4});
    scatter_weighted<double>(e, dout, dp, order, din.view());
    const auto gathered = [&] {
      gather_weighted<double>(e, in, order, out.view(), p.view());
      return test::dot(out, dout) + test::dot(p, dp);
    };
    CHECK(test::largest_error(din, test::numerical_gradient(in, gathered)) < 1e-9);
  }
  TEST_CASE("gathering undoes scattering") {
    host_context context;
    const host_exec e(context);
    const auto x = random_tensor<float>({5, 7}, 1), weight = random_tensor<float>({5}, 2);
    const std::vector<std::int32_t> order{3, 0, 4, 1, 2};
    tensor<float> rows({5, 8}), back({5, 7}), back_weight({5});
    scatter_weighted<float>(e, x, weight, order, rows.view());
    gather_weighted<float>(e, rows, order, back.view(), back_weight.view());
    CHECK(test::largest_error(back, x) == 0);
    CHECK(test::largest_error(back_weight, weight) == 0);
  }
  TEST_CASE_TEMPLATE("a filler is zeros, weight included, over whatever was there, and takes no part in a combination", T, float, double) {
    host_context context;
    const host_exec e(context);
    constexpr T garbage = std::numeric_limits<T>::quiet_NaN();
    const std::vector<std::int32_t> padded_slots{6, -1, 0, 1, 2, -1, -1, 7, -1};
    tensor<std::int32_t> padded_rows({4, 2}, -1);
    for (std::size_t r = 0; r < padded_slots.size(); ++r)
      if (padded_slots[r] >= 0) padded_rows[std::size_t(padded_slots[r])] = std::int32_t(r);
    for (const extent_t width : {1, 3, 100}) {
      const auto x = random_tensor<T>({4, width}, 1), weight = random_tensor<T>({4, 2}, 2);
      tensor<T> plain({5, width + 1}), rows({9, width + 1}, garbage);
      permute_weighted<T>(e, x, weight, slot_of_row, plain.view());
      permute_weighted<T>(e, x, weight, padded_slots, rows.view());
      extent_t next = 0;
      bool same = true;
      for (extent_t r = 0; r < 9; ++r) {
        const bool filler = padded_slots[std::size_t(r)] < 0;
        for (extent_t c = 0; c <= width; ++c) {
          same = same && rows.view()(r, c) == (filler ? T(0) : plain.view()(next, c));
          if (filler) rows.view()(r, c) = garbage;
        }
        next += !filler;
      }
      CHECK(same);
      tensor<T> y({4, width}), expected_y({4, width}), p({4, 2}), expected_p({4, 2});
      combine_weighted<T>(e, rows, padded_rows.view(), y.view(), p.view());
      combine_weighted<T>(e, plain, row_of_slot().view(), expected_y.view(), expected_p.view());
      CHECK(test::largest_error(y, expected_y) == 0);
      CHECK(test::largest_error(p, expected_p) == 0);
    }
  }
  TEST_CASE("no rows and no tokens are fine") {
    host_context context;
    const host_exec e(context);
    tensor<float> x({0, 3}), weight({0, 2}), rows({0, 4}), p({0});
    tensor<std::int32_t> places({0, 2});
    permute_weighted<float>(e, x, weight, {}, rows.view());
    gather_weighted<float>(e, rows, {}, x.view(), p.view());
    scatter_weighted<float>(e, x, p, {}, rows.view());
    combine_weighted<float>(e, rows, places.view(), x.view(), weight.view());
    CHECK(rows.size() == 0);
  }
  TEST_CASE("shapes and indices that do not fit are refused, with their numbers") {
    host_context context;
    const host_exec e(context);
    tensor<float> x({2, 3}, 0.f), weight({2, 1}, 0.f), narrow({2, 3}), rows({2, 4}), p({2});
    tensor<std::int32_t> places({2, 1}, 5);
    const std::vector<std::int32_t> slots{0, 2};
    CHECK_THROWS_WITH_AS(permute_weighted<float>(e, x, weight, slots, narrow.view()),
                         "moefold: permute_weighted needs weighted rows of 3 + 1 elements, given 3", error);
    CHECK_THROWS_WITH_AS(permute_weighted<float>(e, x, weight, slots, rows.view()), "moefold: permute_weighted: row 1 names slot 2 of 2",
                         error);
    const std::vector<std::int32_t> negative{0, -2};  // only -1 is a filler
    CHECK_THROWS_WITH_AS(permute_weighted<float>(e, x, weight, negative, rows.view()),
                         "moefold: permute_weighted: row 1 names slot -2 of 2", error);
    CHECK_THROWS_WITH_AS(gather_weighted<float>(e, rows, slots, x.view(), p.view()), "moefold: gather_weighted: row 2 of 2", error);
    CHECK_THROWS_WITH_AS(scatter_weighted<float>(e, x, p, slots, rows.view()), "moefold: scatter_weighted: row 2 of 2", error);
    CHECK_THROWS_WITH_AS(combine_weighted<float>(e, rows, places.view(), x.view(), weight.view()),
                         "moefold: combine_weighted: token 0 asks for row 5 of 2", error);
  }
  TEST_CASE("in bf16 a weight keeps all bits of a float in every way there and back, and takes two elements of its row") {
    host_context context;
    const host_exec e(context);
    static_assert(wide_lanes<bf16> == 2 && wide_lanes<float> == 1 && wide_lanes<double> == 1);
    const extent_t n = 3, width = 5, k = 2;
    tensor<bf16> x({n, width}), rows({n * k, width + 2}), out({n * k, width}), back({n * k, width + 2}), y({n, width});
    tensor<float> p({n, k}), arrived({n * k}), returned({n, k});
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = bf16(float(i) * 0.37f);
    for (std::size_t i = 0; i < p.size(); ++i) p[i] = 1.0f / float(3 + i);  // bf16 holds none of them but 1/4
    p[1] = std::bit_cast<float>(0x7f81ff80u);                               // halves that are NaNs of bf16
    const std::vector<std::int32_t> slots{5, 3, 1, 0, 2, 4}, order{2, 0, 1, 5, 4, 3};
    permute_weighted<bf16>(e, x, p, slots, rows.view());
    gather_weighted<bf16>(e, rows, order, out.view(), arrived.view());
    scatter_weighted<bf16>(e, out, arrived, order, back.view());
    tensor<std::int32_t> row_of_slot({n, k});
    for (std::size_t r = 0; r < slots.size(); ++r) row_of_slot[std::size_t(slots[r])] = std::int32_t(r);
    combine_weighted<bf16>(e, back, row_of_slot.view(), y.view(), returned.view());
    std::size_t wrong = 0;
    for (std::size_t r = 0; r < slots.size(); ++r) {
      const std::size_t slot = std::size_t(slots[std::size_t(order[r])]);
      wrong += std::bit_cast<std::uint32_t>(arrived[r]) != std::bit_cast<std::uint32_t>(p[slot]);
      for (std::size_t h = 0; h < std::size_t(width); ++h)
        wrong += out[r * std::size_t(width) + h].bits != x[slot / 2 * std::size_t(width) + h].bits;
    }
    for (std::size_t i = 0; i < p.size(); ++i) wrong += std::bit_cast<std::uint32_t>(returned[i]) != std::bit_cast<std::uint32_t>(p[i]);
    for (std::size_t i = 0; i < y.size(); ++i) wrong += y[i].bits != bf16(2 * float(x[i])).bits;  // both slots hold the token
    CHECK(wrong == 0);
  }
  TEST_CASE_TEMPLATE("packing rows and weights side by side is scattering them in order", T, float, bf16) {
    host_context context;
    const host_exec e(context);
    const auto rows = random_tensor<T>({4, 3}, 1);
    const auto weight = random_tensor<accumulate_t<T>>({4}, 2);
    tensor<std::int32_t> order({4});
    for (std::size_t r = 0; r < 4; ++r) order[r] = std::int32_t(r);
    tensor<T> packed({4, 3 + wide_lanes<T>}), scattered({4, 3 + wide_lanes<T>});
    pack_weighted(e, rows, weight, packed.view());
    scatter_weighted(e, rows, weight, order.view().span(), scattered.view());
    CHECK(std::memcmp(packed.data(), scattered.data(), packed.size() * sizeof(T)) == 0);
    CHECK_THROWS_AS(pack_weighted(e, rows, weight, packed.view().rows(0, 3)), error);
  }
}
