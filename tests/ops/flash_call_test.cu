#include <moefold/ops/flash_call.cuh>

#include <doctest/doctest.h>
#include "../support/device.hpp"

#include <vector>

using namespace moefold;
using detail::flash_seen;

namespace moefold::kernel {

/// Every lane writes where it finds the blocks that a list calls seen; -1 after the last.
__global__ void walk(const int* seen, int count, int* found) {
  const int lane = int(threadIdx.x);
  int at = 0;
  for (int i = next_visible(0, count, [&](int j) { return flash_seen(seen[j]); }); i < count;
       i = next_visible(
           i + 1, count, [&](int j) { return flash_seen(seen[j]); }))
    found[at++ * 32 + lane] = i;
}

}  // namespace moefold::kernel

TEST_SUITE("ops/flash_call") {
  TEST_CASE("the walk over blocks finds all that are seen, in order and in every lane, over gaps of any length") {
    test::both_execs x;
    for (const int count : {0, 1, 31, 32, 33, 100}) {
      for (const int every : {1, 3, 40, 1000}) {
        std::vector<int> seen(std::size_t(count), 0), expected(std::size_t(count) * 32, -1);
        std::size_t at = 0;
        for (int j = 0; j < count; ++j)
          if (j % every == every - 1 || j == 64) {
            seen[std::size_t(j)] = j % 2 ? 1 : 2;
            for (std::size_t lane = 0; lane < 32; ++lane) expected[at * 32 + lane] = j;
            ++at;
          }
        const auto seen_d = test::to_device(seen);
        auto found = test::poisoned<int>({count, 32});
        launch(x.device, "walk", kernel::walk, 1, 32, 0, seen_d.data(), count, found.data());
        const auto given = test::to_host(x.device, found);
        CAPTURE(count);
        CAPTURE(every);
        CHECK(std::vector<int>(given.begin(), given.end()) == expected);
      }
    }
  }
  TEST_CASE("ranges of blocks are the smallest and largest positions in them, for groups that no block divides") {
    test::both_execs x;
    scratch<cuda_exec> local(x.device);
    const extent_t sq = 23, sk = 17, batch = 2, group = 3;
    std::vector<std::int32_t> q_at, k_at, first;
    for (extent_t i = 0; i < sq; ++i) q_at.push_back(std::int32_t((i * 7) % 23 - 4));
    for (extent_t j = 0; j < sk; ++j) k_at.push_back(std::int32_t((j * 5) % 17));
    for (extent_t i = 0; i < sq * batch; ++i) first.push_back(std::int32_t((i * 11) % 46));
    const auto q_d = test::to_device(q_at), k_d = test::to_device(k_at), first_d = test::to_device(first);
    const view<const float> q(nullptr, {sq, batch, group, 4}), k(nullptr, {sk, batch, 1, 4});
    for (const bool documents : {true, false}) {
      const std::span<const std::int32_t> begins = documents ? first_d.view().span() : std::span<const std::int32_t>{};
      const detail::flash_call<float> c("test", q, k, k, q_d.view().span(), k_d.view().span(), begins);
      const auto blocks = detail::blocks_of("test", x.device, c, 16, 5, local);
      CHECK(blocks.row_count == 5);
      CHECK(blocks.key_count == 4);
      std::vector<detail::flash_row_range> rows(10);
      std::vector<detail::flash_range> keys(4);
      x.device.wait();
      cuda_check(cudaMemcpy(rows.data(), blocks.row, rows.size() * sizeof rows[0], cudaMemcpyDeviceToHost), "ranges");
      cuda_check(cudaMemcpy(keys.data(), blocks.key, keys.size() * sizeof keys[0], cudaMemcpyDeviceToHost), "ranges");
      for (extent_t b = 0; b < batch; ++b)
        for (extent_t i = 0; i < 5; ++i) {
          detail::flash_range at{1000, -1000}, begin{1000, -1000};
          for (extent_t r = i * 16; r < std::min<extent_t>((i + 1) * 16, sq * group); ++r) {
            const std::int32_t own = q_at[std::size_t(r / group)], from = first[std::size_t(r / group * batch + b)];
            at = {std::min(at.low, own), std::max(at.high, own)}, begin = {std::min(begin.low, from), std::max(begin.high, from)};
          }
          if (!documents) begin = detail::flash_from_the_start;
          const auto& given = rows[std::size_t(b * 5 + i)];
          CHECK(given.at.low == at.low);
          CHECK(given.at.high == at.high);
          CHECK(given.first.low == begin.low);
          CHECK(given.first.high == begin.high);
        }
      for (extent_t j = 0; j < 4; ++j) {
        const auto [low, high] = std::minmax_element(k_at.begin() + j * 5, k_at.begin() + std::min<extent_t>((j + 1) * 5, sk));
        CHECK(keys[std::size_t(j)].low == *low);
        CHECK(keys[std::size_t(j)].high == *high);
      }
    }
  }
}
