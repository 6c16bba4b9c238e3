#include <moefold/ops/embedding.cuh>

#include <doctest/doctest.h>
#include "../support/shifted.hpp"

using namespace moefold;
using test::random_tensor;
using test::same_bits;
using test::shifted;
using test::to_device;
using test::to_host;

namespace {

std::vector<std::int32_t> random_ids(extent_t n, extent_t vocabulary, std::uint64_t seed) {
  const random_stream numbers(seed, "ids");
  std::vector<std::int32_t> ids;
  for (extent_t i = 0; i < n; ++i) ids.push_back(std::int32_t(double(vocabulary) * numbers.uniform(std::uint64_t(i))));
  return ids;
}

/// Rows first .. first + rows - 1 of a vocabulary are here.
template <class T, class G>
void twins_agree(extent_t n, extent_t vocabulary, extent_t first, extent_t rows, extent_t width, extent_t skip) {
  CAPTURE(n);
  CAPTURE(vocabulary);
  CAPTURE(width);
  CAPTURE(skip);
  const test::both_execs on;
  const auto ids = random_ids(n, vocabulary, 1);
  std::vector<std::int32_t> shifted_ids(std::size_t(skip), 0);
  shifted_ids.insert(shifted_ids.end(), ids.begin(), ids.end());
  const auto memory = to_device(shifted_ids);
  const std::span<const std::int32_t> ids_d = std::span<const std::int32_t>(memory.view()).subspan(std::size_t(skip));
  const auto table = random_tensor<T>({rows, width}, 2), dout = random_tensor<T>({n, width}, 3);
  const auto start = random_tensor<G>({rows, width}, 4);
  tensor<T> out({n, width});
  auto dtable = test::copy_of(start.view());
  embedding_forward(on.host, table, ids, first, out.view());
  embedding_backward(on.host, dout.view(), ids, first, dtable.view());
  const shifted table_d(table, skip), dout_d(dout, skip);
  shifted<T> out_d({n, width}, skip);
  shifted dtable_d(start, skip);
  embedding_forward(on.device, table_d, ids_d, first, out_d.view());
  embedding_backward(on.device, dout_d.in(), ids_d, first, dtable_d.view());
  CHECK(same_bits(to_host(on.device, out_d), out));
  CHECK(same_bits(to_host(on.device, dtable_d), dtable));  // the same order of additions as on the host
}

}  // namespace

TEST_SUITE("ops/embedding") {
  TEST_CASE("places by comparison are the stable sort, for every sequence of up to 5 ids out of 3") {
    for (int n = 0; n <= 5; ++n)
      for (int code = 0; code < int(std::pow(3, n)); ++code) {
        std::vector<std::int32_t> ids;
        for (int i = 0, rest = code; i < n; ++i, rest /= 3) ids.push_back(rest % 3 - 1);
        std::vector<int> sorted(std::size_t(n), 0), order(std::size_t(n), -1);
        for (int i = 0; i < n; ++i) sorted[std::size_t(i)] = i;
        std::stable_sort(sorted.begin(), sorted.end(), [&](int a, int b) { return ids[std::size_t(a)] < ids[std::size_t(b)]; });
        for (int i = 0; i < n; ++i) {
          int place = 0;
          for (int j = 0; j < n; ++j) place += id_before(ids[std::size_t(j)], j, ids[std::size_t(i)], i);
          order[std::size_t(place)] = i;
        }
        CHECK(order == sorted);
      }
  }
  TEST_CASE("rows and their gradients on the device have the bits of the host's, wherever the table is split") {
    for (const extent_t skip : {0, 1}) {
      twins_agree<double, double>(61, 40, 0, 40, 24, skip);
      twins_agree<float, float>(61, 40, 10, 20, 24, skip);
      twins_agree<float, float>(300, 3, 1, 2, 1032, skip);  // many tokens of one row
      twins_agree<bf16, float>(61, 40, 30, 10, 24, skip);
      twins_agree<bf16, float>(77, 1000, 0, 1000, 7, skip);
      twins_agree<bf16, float>(0, 40, 0, 40, 8, skip);
      twins_agree<bf16, float>(1, 1, 0, 1, 4104, skip);
    }
  }
}
