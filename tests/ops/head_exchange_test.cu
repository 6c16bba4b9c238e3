#include <moefold/ops/head_exchange.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

namespace {

/// Both directions of both layouts, device against host. shift: elements by which all device memory is misaligned.
template <class T>
void twins_agree(extent_t tokens, extent_t heads, extent_t dim, extent_t ranks, extent_t shift = 0) {
  CAPTURE(tokens);
  CAPTURE(heads);
  CAPTURE(dim);
  CAPTURE(ranks);
  const test::both_execs on;
  const shape s{tokens, 2, heads, dim}, half{tokens, 2, heads / 2, dim};
  const auto at = head_messages(std::array<shape, 2>{s, half}, ranks);
  for (std::size_t t = 0; t < 2; ++t) {
    const shape own = t == 0 ? s : half, all{ranks * at[0].message};
    const auto in = test::random_tensor<T>(own, 1), messages = test::random_tensor<T>(all, 2);
    const auto shifted = [&](const tensor<T>& x) {
      tensor<T> wide({extent_t(x.size()) + shift});
      std::copy(x.begin(), x.end(), wide.begin() + shift);
      return test::to_device(wide);
    };
    const auto in_d = shifted(in), messages_d = shifted(messages);
    const view<const T> from(in_d.data() + shift, own), carried(messages_d.data() + shift, all);
    const auto check = [&](auto&& host, auto&& device, const shape& to) {
      tensor<T> expected(to, T(-1));
      auto got = shifted(expected);
      host(expected.view());
      const view<T> result(got.data() + shift, to);
      device(result);
      const tensor<T> arrived = test::to_host<T>(on.device, result);
      CHECK(std::memcmp(arrived.data(), expected.data(), expected.size() * sizeof(T)) == 0);
    };
    check([&](view<T> to) { pack_heads(on.host, at[t], in, to); }, [&](view<T> to) { pack_heads(on.device, at[t], from, to); }, all);
    check([&](view<T> to) { pack_sequence(on.host, at[t], in, to); }, [&](view<T> to) { pack_sequence(on.device, at[t], from, to); }, all);
    check([&](view<T> to) { unpack_heads(on.host, at[t], messages, to); }, [&](view<T> to) { unpack_heads(on.device, at[t], carried, to); },
          own);
    check([&](view<T> to) { unpack_sequence(on.host, at[t], messages, to); },
          [&](view<T> to) { unpack_sequence(on.device, at[t], carried, to); }, own);
  }
}

template <class T>
void transposes_agree(extent_t rows, extent_t columns) {
  CAPTURE(rows);
  CAPTURE(columns);
  const test::both_execs on;
  const auto in = test::random_tensor<T>({rows, columns}, 5);
  const auto in_d = test::to_device(in);
  tensor<T> expected({columns, rows});
  auto got = test::poisoned<T>({columns, rows});
  transpose(on.host, rows, columns, in, expected.view());
  transpose(on.device, rows, columns, in_d, got.view());
  CHECK(std::memcmp(test::to_host(on.device, got).data(), expected.data(), expected.size() * sizeof(T)) == 0);
}

}  // namespace

TEST_SUITE("ops/head_exchange") {
  TEST_CASE_TEMPLATE("packing and unpacking are the host's bits, in packs and element by element", T, float, bf16, double) {
    twins_agree<T>(5, 4, 16, 2);
    twins_agree<T>(3, 12, 3, 3);
    twins_agree<T>(7, 2, 8, 1);
    twins_agree<T>(5, 4, 16, 2, 1);  // misaligned
    twins_agree<T>(1, 4, 1, 2);
    twins_agree<T>(0, 4, 16, 2);
  }
  TEST_CASE_TEMPLATE("transposing is the host's bits, whatever the tile cuts off", T, float, double) {
    transposes_agree<T>(32, 32);
    transposes_agree<T>(33, 5);
    transposes_agree<T>(3, 70);
    transposes_agree<T>(1, 1);
    transposes_agree<T>(0, 4);
  }
}
