#include <moefold/ops/head_exchange.hpp>

#include <moefold/tensor/tensor.hpp>

#include <doctest/doctest.h>

#include <numeric>
#include <set>
#include <vector>

using namespace moefold;

namespace {

tensor<double> counted(const shape& s, double first) {
  tensor<double> x(s);
  std::iota(x.begin(), x.end(), first);
  return x;
}

}  // namespace

TEST_SUITE("ops/head_exchange") {
  TEST_CASE("every element of every tensor has a place of its own in the messages, by heads and by sequence") {
    for (const extent_t ranks : {1, 2, 3})
      for (const extent_t tokens : {0, 1, 5})
        for (const extent_t each : {1, 2})
          for (const extent_t dim : {1, 4}) {
            const auto maps = head_messages(std::array<shape, 3>{shape{tokens, 1, ranks * each * 2, dim},
                                                                 shape{tokens, 1, ranks * each, dim}, shape{tokens, 1, ranks * each, dim}},
                                            ranks);
            std::set<extent_t> by_heads, by_sequence;
            extent_t elements = 0;
            for (const head_message& m : maps) {
              elements += m.elements();
              for (extent_t i = 0; i < m.elements(); ++i) by_heads.insert(m.of_heads(i)), by_sequence.insert(m.of_sequence(i));
            }
            CHECK(maps[0].ranks * maps[0].message == elements);
            CHECK(extent_t(by_heads.size()) == elements);
            CHECK(by_heads == by_sequence);
            if (elements > 0) CHECK(*by_heads.rbegin() == elements - 1);
          }
  }
  TEST_CASE("peer p is sent the heads of p, token after token, and tensor after tensor") {
    host_context context;
    const host_exec e(context);
    const tensor<double> q = counted({2, 1, 4, 1}, 0), k = counted({2, 1, 2, 1}, 100);
    const auto at = head_messages(std::array<shape, 2>{q.shape(), k.shape()}, 2);
    tensor<double> messages({12}, -1.0);
    pack_heads(e, at[0], q, messages.view());
    pack_heads(e, at[1], k, messages.view());
    CHECK(std::vector<double>(messages.begin(), messages.end()) == std::vector<double>{0, 1, 4, 5, 100, 102, 2, 3, 6, 7, 101, 103});
    tensor<double> back({2, 1, 4, 1}, -1.0), rows({4, 1, 2, 1}, -1.0), again({12}, -1.0);
    unpack_heads(e, at[0], messages, back.view());
    CHECK(std::equal(back.begin(), back.end(), q.begin()));
    unpack_sequence(e, at[0], messages, rows.view());
    CHECK(std::vector<double>(rows.begin(), rows.end()) == std::vector<double>{0, 1, 4, 5, 2, 3, 6, 7});
    pack_sequence(e, at[0], rows, again.view());
    for (const int i : {0, 1, 2, 3, 6, 7, 8, 9}) CHECK(again[std::size_t(i)] == messages[std::size_t(i)]);
  }
  TEST_CASE("transposing twice gives the matrix back") {
    host_context context;
    const host_exec e(context);
    const tensor<double> in = counted({3, 5}, 0);
    tensor<double> turned({5, 3}), back({3, 5});
    transpose(e, 3, 5, in, turned.view());
    CHECK(turned.view()(4, 1) == in.view()(1, 4));
    transpose(e, 5, 3, turned, back.view());
    CHECK(std::equal(back.begin(), back.end(), in.begin()));
  }
  TEST_CASE("heads that are no multiple of the ranks, and views that do not fit, are refused") {
    host_context context;
    const host_exec e(context);
    CHECK_THROWS_WITH_AS(head_messages(std::array<shape, 1>{shape{2, 1, 3, 4}}, 2),
                         "moefold: heads are exchanged among 2 ranks by tensors [S, B, heads, d], given [2, 1, 3, 4]; the heads must be a "
                         "multiple of the ranks",
                         error);
    const auto at = head_messages(std::array<shape, 1>{shape{2, 1, 4, 4}}, 2);
    tensor<double> x({2, 1, 4, 4}), small({31});
    CHECK_THROWS_WITH_AS(pack_heads(e, at[0], x, small.view()),
                         "moefold: pack_heads needs 32 elements in messages to fit its other arguments, given 31", error);
  }
}
