#pragma once
// One attention layer on the ranks of tp x cp against the same layer on one rank: whole tensors outside, every rank's slices inside.
#include <moefold/attention/attention.hpp>
#include <moefold/attention/policy.hpp>
#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>
#include "close.hpp"
#include "own_memory.hpp"
#include "random.hpp"
#include "run_ranks.hpp"

#include <mutex>

namespace moefold::test {

/// Whole tensors of one layer, and what ranks on tp x cp make of them; slices of weights and rows in the user's vectors.
struct attended {
  model_shape model;
  extent_t sequence, batch;
  tensor<double> x, dy, query, key, value, output;
  tensor<double> query_bias, key_bias, value_bias, query_norm, key_norm;  // empty where the model has none
  tensor<double> y, dx, d_query, d_key, d_value, d_output;
  tensor<double> d_query_bias, d_key_bias, d_value_bias, d_query_norm, d_key_norm;
  std::vector<std::int32_t> first{};  // [S, B] by position: where documents begin; empty: one document
  std::size_t peak = 0;               // bytes of scratch and kept tensors, of the rank that needed most
  std::mutex guard{};

  attended(const model_shape& m, extent_t s, extent_t b)
      : model(m), sequence(s), batch(b), x(random_tensor<double>({s * b, m.hidden}, 1)), dy(random_tensor<double>({s * b, m.hidden}, 2)),
        query(random_tensor<double>({m.q_width(), m.hidden}, 3, 0.5)), key(random_tensor<double>({m.kv_width(), m.hidden}, 4, 0.5)),
        value(random_tensor<double>({m.kv_width(), m.hidden}, 5, 0.5)), output(random_tensor<double>({m.hidden, m.q_width()}, 6, 0.5)),
        query_bias(random_tensor<double>({m.qkv_bias ? m.q_width() : 0}, 7)),
        key_bias(random_tensor<double>({m.qkv_bias ? m.kv_width() : 0}, 8)),
        value_bias(random_tensor<double>({m.qkv_bias ? m.kv_width() : 0}, 9)),
        query_norm(random_tensor<double>({m.qk_norm ? m.head_dim : 0}, 10)),
        key_norm(random_tensor<double>({m.qk_norm ? m.head_dim : 0}, 11)) {
    clear();
  }
  void clear() {
    const auto zero = [](tensor<double>& gradient, const tensor<double>& like) { gradient = tensor<double>(like.shape(), 0.0); };
    zero(y, x), zero(dx, x), zero(d_query, query), zero(d_key, key), zero(d_value, value), zero(d_output, output);
    zero(d_query_bias, query_bias), zero(d_key_bias, key_bias), zero(d_value_bias, value_bias);
    zero(d_query_norm, query_norm), zero(d_key_norm, key_norm);
  }

  /// Layer is made from the weights by `make(weights)`: either surface.
  template <class Precision, class Comm, class Make>
  void run(Comm& tp, Comm& cp, Make make) {
    using T = typename Precision::storage;
    host_context context;
    const host_exec e(context);
    arena keep;
    own_parameter<Precision, rows_over_tp> q(query, tp.rank(), tp.size()), k(key, tp.rank(), tp.size()), v(value, tp.rank(), tp.size());
    own_parameter<Precision, columns_over_tp> o(output, tp.rank(), tp.size());
    own_parameter<Precision, rows_over_tp> bq(query_bias, tp.rank(), tp.size()), bk(key_bias, tp.rank(), tp.size()),
        bv(value_bias, tp.rank(), tp.size());
    own_parameter<Precision, replicated> nq(query_norm, 0, 1), nk(key_norm, 0, 1);
    const auto layer =
        make(attention_weights<Precision>{{q.get()}, {k.get()}, {v.get()}, {o.get()}, bq.get(), bk.get(), bv.get(), nq.get(), nk.get()});
    typename decltype(layer)::saved s;
    const sequence_part part{sequence, cp.size(), cp.rank(), tp.size(), tp.rank()};
    auto own_x = test::take_rows<double, T>(x, part), own_dy = test::take_rows<double, T>(dy, part), own_y = own_x, own_dx = own_x;
    const auto rows = [&](std::vector<T>& own) { return test::matrix(own, model.hidden); };
    std::vector<std::int32_t> mapped;  // in the order of the ranks
    if (!first.empty())
      for (const std::int32_t position : context_positions(sequence, cp.size()))
        for (extent_t b = 0; b < batch; ++b) mapped.push_back(first[std::size_t(position * batch + b)]);
    layer.forward(e, rows(own_x), rows(own_y), keep, s, mapped);
    layer.backward(e, rows(own_dy), rows(own_dx), s);
    {
      std::scoped_lock lock(guard);
      peak = std::max(peak, context.scratch.peak() + keep.peak());
    }
    test::put_rows(own_y, y, part);
    test::put_rows(own_dx, dx, part);
    q.add_gradient_to(d_query), k.add_gradient_to(d_key), v.add_gradient_to(d_value), o.add_gradient_to(d_output);
    bq.add_gradient_to(d_query_bias), bk.add_gradient_to(d_key_bias), bv.add_gradient_to(d_value_bias);
    nq.add_gradient_to(d_query_norm), nk.add_gradient_to(d_key_norm);
  }
  template <class Precision = fp64, class Context = cp_all_gather, class Comm>
  void run(Comm& tp, Comm& cp, bool keep_core = true, bool overlap = false) {
    using layer = attention_layer<Precision, Comm, Context>;
    run<Precision>(tp, cp, [&](const auto& weights) {
      return layer(model, sequence, weights, tp, cp, std::make_shared<typename layer::context_groups>(cp, overlap), keep_core);
    });
  }
  attended& on_one() {
    self_comm self;
    clear();
    run(self, self);
    return *this;
  }
  /// The world is tp x cp, tp fastest.
  template <class Precision = fp64, class Context = cp_all_gather>
  attended& on(int tp, int cp, bool keep_core = true, bool overlap = false) {
    clear();
    peak = 0;
    run_ranks(tp * cp, [&](thread_comm& world) {
      thread_comm tp_group = world.split(world.rank() / tp, world.rank(), "tp"),
                  cp_group = world.split(world.rank() % tp, world.rank(), "cp");
      this->template run<Precision, Context>(tp_group, cp_group, keep_core, overlap);
    });
    return *this;
  }
};

inline void check_same(const attended& many, const attended& one, double close) {
  CHECK(test::largest_error(many.y, one.y) < close);
  CHECK(test::largest_error(many.dx, one.dx) < close);
  CHECK(test::largest_error(many.d_query, one.d_query) < close);
  CHECK(test::largest_error(many.d_key, one.d_key) < close);
  CHECK(test::largest_error(many.d_value, one.d_value) < close);
  CHECK(test::largest_error(many.d_output, one.d_output) < close);
  CHECK(test::largest_error(many.d_query_bias, one.d_query_bias) < close);
  CHECK(test::largest_error(many.d_key_bias, one.d_key_bias) < close);
  CHECK(test::largest_error(many.d_value_bias, one.d_value_bias) < close);
  CHECK(test::largest_error(many.d_query_norm, one.d_query_norm) < close);
  CHECK(test::largest_error(many.d_key_norm, one.d_key_norm) < close);
}

}  // namespace moefold::test
