#include <moefold/moe/row_fetch.hpp>

#include <moefold/comm/thread.hpp>
#include <moefold/tensor/tensor.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

/// What both ways need of a dispatcher's ticket, by hand: 2 ranks, 4 experts, k = 2. Rank 0 has 2 tokens, rank 1 one.
struct ticket {
  tensor<std::int32_t> expert_, row_of_slot_, slot_of_row_;
  tensor<std::int64_t> counts_, first_;
  tensor<std::size_t> sent_, received_;
  view<const std::int32_t> expert;
  view<std::int32_t> row_of_slot, slot_of_row;
  view<std::int64_t> counts, first;
  view<std::size_t> sent, received;

  explicit ticket(int rank)
      : expert_({rank == 0 ? 2 : 1, 2}), row_of_slot_(expert_.shape()), slot_of_row_({rank == 0 ? 3 : 3}), counts_({4}), first_({2, 2}),
        sent_({2}), received_({2}) {
    const auto set = [](auto& to, auto... values) {
      std::size_t i = 0;
      ((to[i++] = values), ...);
    };
    if (rank == 0) {  // token 0: experts 2 and 0; token 1: expert 2, the other dropped
      set(expert_, 2, 0, 2, -1), set(row_of_slot_, 1, 0, 2, -1), set(slot_of_row_, 1, 0, 2), set(counts_, 1, 0, 2, 0);
      set(sent_, 1u, 2u), set(received_, 1u, 1u), set(first_, 0, 1, 2, 2);  // rows of expert 0: from rank 0, from rank 1
    } else {                                                                // token 0: experts 0 and 3; and a filler for expert 3
      set(expert_, 0, 3), set(row_of_slot_, 0, 1), set(slot_of_row_, 0, 1, -1), set(counts_, 1, 0, 0, 2);
      set(sent_, 1u, 2u), set(received_, 2u, 2u), set(first_, 0, 2, 2, 2);  // expert 2: 2 rows of rank 0; expert 3: 2 of rank 1
    }
    expert = expert_.view(), row_of_slot = row_of_slot_, slot_of_row = slot_of_row_, counts = counts_, first = first_, sent = sent_,
    received = received_;
  }
};

}  // namespace

TEST_SUITE("moe/row_fetch") {
  TEST_CASE(
      "by hand: every row comes once, with its weight, to where the ticket says; fillers come as null; the work in between is done once") {
    run_threads(2, [](thread_comm& ep) {
      const ticket t(ep.rank());
      host_context context;
      const host_exec e(context);
      scratch local(e);
      tensor<double> x({ep.rank() == 0 ? 2 : 1, 1}), weight({ep.rank() == 0 ? 2 : 1, 2});
      for (std::size_t i = 0; i < x.size(); ++i) x[i] = 10.0 * (1 + ep.rank()) + double(i);
      for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = x[i / 2] + 0.25 * double(1 + i % 2);
      std::vector<double> rows(ep.rank() == 0 ? 2 : 4, -1.0), weights(rows.size(), -1.0);
      int worked = 0;
      fetch_rows<double>(
          e, ep, t, 2, {x.data(), weight.data(), 1}, local,
          [&](extent_t row, const double* from, double w) { rows[std::size_t(row)] = from ? *from : 0, weights[std::size_t(row)] = w; },
          [&] { ++worked; });
      CHECK(worked == 1);
      CHECK(rows == (ep.rank() == 0 ? std::vector<double>{10, 20} : std::vector<double>{10, 11, 20, 0}));
      CHECK(weights == (ep.rank() == 0 ? std::vector<double>{10.5, 20.25} : std::vector<double>{10.25, 11.25, 20.5, 0}));

      for (double& r : rows) r *= 100;
      std::vector<std::vector<double>> back;
      sum_from_peers<double>(e, ep, t, 2, {rows.data(), weights.data(), t.first.data(), 1, 1}, local,
                             [&](extent_t, auto row_of, auto weight_of) {
                               back.emplace_back();
                               for (extent_t j = 0; j < 2; ++j)
                                 back.back().push_back(row_of(j) ? *row_of(j) : -1), back.back().push_back(weight_of(j));
                             });
      if (ep.rank() == 0)
        CHECK(back == std::vector<std::vector<double>>{{1000, 10.25, 1000, 10.5}, {1100, 11.25, -1, 0}});
      else
        CHECK(back == std::vector<std::vector<double>>{{2000, 20.25, 2000, 20.5}});
    });
  }
}
