#include <moefold/attention/cp_all_gather.hpp>

#include <moefold/comm/recording.hpp>
#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/own_memory.hpp"
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

using namespace moefold;
using test::random_tensor;

namespace {

constexpr extent_t sequence = 16, batch = 2, heads = 4, kv = 2, d = 6;

/// Whole tensors [S * B, heads * d], and what the ranks of cp make of them; slices in the user's vectors.
struct attended {
  tensor<double> q = random_tensor<double>({sequence * batch, heads*d}, 1), k = random_tensor<double>({sequence * batch, kv*d}, 2);
  tensor<double> v = random_tensor<double>({sequence * batch, kv*d}, 3), dout = random_tensor<double>({sequence * batch, heads*d}, 4);
  tensor<double> out{q.shape(), 0.0}, dq{q.shape(), 0.0}, dk{k.shape(), 0.0}, dv{v.shape(), 0.0}, lse{{sequence * batch, heads}, 0.0};

  template <class T = double, class Comm>
  void run(Comm& cp) {
    host_context context;
    const host_exec e(context);
    const sequence_part part{sequence, cp.size(), cp.rank(), 1, 0};
    const auto take = [&](const tensor<double>& whole) { return test::take_rows<double, T>(whole, part); };
    const auto as = [&](std::vector<T>& own) {
      return view<T>(own.data(), {part.cp_tokens(), batch, extent_t(own.size()) / part.cp_tokens() / batch / d, d});
    };
    auto own_q = take(q), own_k = take(k), own_v = take(v), own_dout = take(dout), own_out = own_q, own_dq = own_q, own_dk = own_k,
         own_dv = own_v;
    std::vector<T> own_lse(std::size_t(batch * heads * part.cp_tokens())), turned(own_lse.size());
    const view<T> own_lse_view(own_lse.data(), {batch, heads, part.cp_tokens()});
    const std::vector<std::int32_t> positions = context_positions(sequence, cp.size());
    cp_all_gather::forward<T, T>(e, cp, positions, as(own_q), as(own_k), as(own_v), as(own_out), own_lse_view);
    cp_all_gather::backward<T, T>(e, cp, positions, as(own_dout), as(own_q), as(own_k), as(own_v), as(own_out), own_lse_view, as(own_dq),
                                  as(own_dk), as(own_dv));
    for (extent_t i = 0; i < part.cp_tokens(); ++i)
      for (extent_t b = 0; b < batch; ++b)
        for (extent_t h = 0; h < heads; ++h) turned[std::size_t((i * batch + b) * heads + h)] = own_lse_view(b, h, i);
    test::put_rows(own_out, out, part);
    test::put_rows(turned, lse, part);
    test::put_rows(own_dq, dq, part);
    test::put_rows(own_dk, dk, part);
    test::put_rows(own_dv, dv, part);
  }
};

}  // namespace

TEST_SUITE("attention/cp_all_gather") {
  TEST_CASE("each rank holds an early and a late chunk, and all ranks hold every position once") {
    CHECK(context_positions(4, 1) == std::vector<std::int32_t>{0, 1, 2, 3});
    CHECK(context_positions(5, 1).size() == 5);
    CHECK(context_positions(8, 2) == std::vector<std::int32_t>{0, 1, 6, 7, 2, 3, 4, 5});
    CHECK(context_positions(8, 4) == std::vector<std::int32_t>{0, 7, 1, 6, 2, 5, 3, 4});
  }
  TEST_CASE("a sequence that cannot be cut into two chunks a rank is refused") {
    CHECK_THROWS_WITH_AS(context_positions(6, 2), doctest::Contains("the sequence must be a multiple of 2*cp*tp = 4 (given 6); use 8"),
                         config_error);
    CHECK_THROWS_AS(context_positions(0, 1), config_error);
  }
  TEST_CASE("each rank of cp owns its own range of the positions, together all of them once") {
    const std::vector<std::int32_t> positions = context_positions(8, 2);
    self_comm self;
    CHECK(positions_of_rank(positions, self).size() == 8);
    run_ranks<2>([&](thread_comm& cp) {
      const auto own = positions_of_rank(positions, cp);
      CHECK(std::vector(own.begin(), own.end()) ==
            (cp.rank() == 0 ? std::vector<std::int32_t>{0, 1, 6, 7} : std::vector<std::int32_t>{2, 3, 4, 5}));
    });
  }
  TEST_CASE_TEMPLATE("over 2 and 4 cp ranks it is the one rank's: output, log-sum-exp and all gradients", T, double, float) {
    attended one;
    self_comm self;
    one.run(self);
    for (const int ranks : {2, 4, 8}) {
      attended many;
      run_ranks(ranks, [&](thread_comm& cp) { many.run<T>(cp); });
      CAPTURE(ranks);
      CHECK(test::largest_error(many.out, one.out) < test::rounding<T>);
      CHECK(test::largest_error(many.lse, one.lse) < test::rounding<T>);
      CHECK(test::largest_error(many.dq, one.dq) < test::rounding<T>);
      CHECK(test::largest_error(many.dk, one.dk) < test::rounding<T>);
      CHECK(test::largest_error(many.dv, one.dv) < test::rounding<T>);
    }
  }
  TEST_CASE("all gradients equal finite differences") {
    attended one;
    self_comm self;
    one.run(self);
    const tensor<double> dq = test::copy_of(one.dq.view()), dk = test::copy_of(one.dk.view()), dv = test::copy_of(one.dv.view());
    const auto loss = [&] {
      one.run(self);
      return test::dot(one.out, one.dout);
    };
    for (auto [x, dx] : {std::pair(&one.q, &dq), std::pair(&one.k, &dk), std::pair(&one.v, &dv)})
      CHECK(test::largest_error(*dx, test::numerical_gradient(*x, loss)) < 1e-8);
  }
  TEST_CASE("what travels: keys and values forward, the same again and their gradients backward") {
    run_ranks<4>([](thread_comm& world) {
      traffic_log log;
      recording<thread_comm> cp(std::move(world), log);
      attended().run(cp);
      const std::uint64_t k_bytes = std::uint64_t(sequence / 4 * batch * kv * d) * sizeof(double);
      const auto gathered = log("world", operation::all_gather), summed = log("world", operation::reduce_scatter);
      CHECK((gathered.calls == 4 && gathered.bytes == 4 * 3 * k_bytes));
      CHECK((summed.calls == 2 && summed.bytes == 2 * 3 * k_bytes));
    });
  }
}
