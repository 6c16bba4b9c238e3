#include <moefold/comm/device_group.cuh>

#include "../support/device_place.hpp"

#include <doctest/doctest.h>

using namespace moefold;

namespace {

/// The kernel against rank-ordered sums on the host, over `ranks` inputs that begin `skip` elements into their memory.
template <class T, class Op>
bool combined(cuda_exec e, std::size_t count, int ranks, std::size_t skip, Op op) {
  const test::in_device_memory at{e};
  std::vector<test::device_tensor<T>> in;
  std::vector<std::vector<T>> here;
  for (int r = 0; r < ranks; ++r) {
    const auto values = test::random_tensor<T>({extent_t(count + skip)}, std::uint64_t(r) + 7, r % 2 ? 1.0 : 300.0);
    here.emplace_back(values.begin(), values.end());
    in.push_back(at.put(here.back()));
  }
  auto out = at.room(count + skip, T());
  combined_ranks<T> table;
  for (auto& x : in) table.in[table.ranks++] = x.data() + skip;
  table.out[table.outs++] = out.data() + skip;
  table.out[table.outs++] = in[0].data() + skip;
  combine(e, "a test", op, table, count);
  const auto wanted = [&](std::size_t i) {
    auto total = accumulate_t<T>(here[0][skip + i]);
    for (int r = 1; r < ranks; ++r) total = op(total, accumulate_t<T>(here[std::size_t(r)][skip + i]));
    return T(total);
  };
  return all_equal(at.get(span_of(out).subspan(skip)), wanted) && all_equal(at.get(span_of(in[0]).subspan(skip)), wanted);
}

}  // namespace

TEST_SUITE("comm/device_group") {
  TEST_CASE("the sum of ranks has the host's bits, into several places, one of them an input") {
    cuda_context context;
    const cuda_exec e(context);
    for (std::size_t count : {0u, 1u, 3u, 255u, 256u, 1030u})
      for (std::size_t skip : {0u, 1u}) {
        CAPTURE(count);
        CAPTURE(skip);
        CHECK(combined<float>(e, count, 3, skip, sum{}));
        CHECK(combined<bf16>(e, count, 5, skip, sum{}));
        CHECK(combined<double>(e, count, 2, skip, moefold::max{}));
      }
    CHECK(combined<float>(e, 300, most_device_ranks, 0, sum{}));
  }
  TEST_CASE("more elements than one round of blocks are all added") {
    cuda_context context;
    const cuda_exec e(context);
    const test::in_device_memory at{e};
    constexpr combine_tuning small{.threads = 32, .most_blocks = 2};
    auto in = at.put(std::vector<float>(1003, 1.5f)), out = at.room(1003, 0.0f);
    combined_ranks<float> table;
    table.in[table.ranks++] = in.data(), table.in[table.ranks++] = in.data();
    table.out[table.outs++] = out.data();
    combine<small>(e, "a test", sum{}, table, 1003);
    CHECK(all_equal(at.get(out), [](std::size_t) { return 3.0f; }));
  }
  TEST_CASE("slices cover the whole once, each beginning on 16 bytes") {
    for (int ranks = 1; ranks <= 9; ++ranks)
      for (std::size_t count = 0; count < 200; ++count) {
        std::size_t next = 0;
        bool aligned = true;
        for (int r = 0; r < ranks; ++r) {
          const auto [first, size] = combined_slice<bf16>(count, ranks, r);
          aligned = aligned && first == next && (size == 0 || first % 8 == 0);
          next += size;
        }
        CHECK((aligned && next == count));
      }
  }
}
