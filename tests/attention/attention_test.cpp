#include <moefold/attention/attention.hpp>

#include <moefold/comm/self.hpp>
#include <moefold/mesh/group.hpp>

#include <doctest/doctest.h>
#include "../support/attended.hpp"
#include "../support/close.hpp"
#include "../support/gradient.hpp"
#include "../support/own_memory.hpp"
#include "../support/random.hpp"
#include "../support/run_ranks.hpp"

#include <cmath>

using namespace moefold;
using test::attended;
using test::check_same;
using test::own_parameter;
using test::random_tensor;

namespace {

// Odd where it may be: the width, the batch, the pairs of a head; heads * d is not the width.
constexpr model_shape grouped{.hidden = 7, .heads = 4, .kv_heads = 2, .head_dim = 6, .rope_theta = 100.0};
constexpr model_shape biased_and_normed{
    .hidden = 7, .heads = 4, .kv_heads = 2, .head_dim = 6, .rope_theta = 100.0, .norm_eps = 1e-2, .qkv_bias = true, .qk_norm = true};
constexpr model_shape one_to_one{.hidden = 7, .heads = 4, .kv_heads = 4, .head_dim = 2};  // for tp 4

/// The definition, token by token: project, add the bias, normalise each head, turn by the position, softmax over what is not later, project back.
tensor<double> by_definition(const attended& a) {
  const extent_t d = a.model.head_dim, tokens = a.sequence * a.batch;
  const auto project = [](const tensor<double>& in, const tensor<double>& w, const tensor<double>& bias = tensor<double>({0})) {
    tensor<double> out({in.extent(0), w.extent(0)}, 0.0);
    for (extent_t t = 0; t < in.extent(0); ++t)
      for (extent_t o = 0; o < w.extent(0); ++o) {
        double sum = bias.size() == 0 ? 0 : bias[std::size_t(o)];
        for (extent_t i = 0; i < w.extent(1); ++i) sum += in.view()(t, i) * w.view()(o, i);
        out.view()(t, o) = sum;
      }
    return out;
  };
  const auto turn = [&](tensor<double> in) {
    for (extent_t t = 0; t < tokens; ++t)
      for (extent_t head = 0; head < in.extent(1) / d; ++head)
        for (extent_t i = 0; i < d / 2; ++i) {
          const double angle = double(t / a.batch) * std::pow(a.model.rope_theta, -2.0 * double(i) / double(d));
          double &low = in.view()(t, head * d + i), &high = in.view()(t, head * d + i + d / 2);
          const double turned = low * std::cos(angle) - high * std::sin(angle);
          high = high * std::cos(angle) + low * std::sin(angle);
          low = turned;
        }
    return in;
  };
  const auto normed = [&](tensor<double> in, const tensor<double>& gain) {
    for (extent_t t = 0; t < tokens && gain.size() > 0; ++t)
      for (extent_t head = 0; head < in.extent(1) / d; ++head) {
        double squares = 0;
        for (extent_t i = 0; i < d; ++i) squares += in.view()(t, head * d + i) * in.view()(t, head * d + i);
        for (extent_t i = 0; i < d; ++i)
          in.view()(t, head * d + i) *= gain[std::size_t(i)] / std::sqrt(squares / double(d) + a.model.norm_eps);
      }
    return in;
  };
  const auto q = turn(normed(project(a.x, a.query, a.query_bias), a.query_norm)),
             k = turn(normed(project(a.x, a.key, a.key_bias), a.key_norm)), v = project(a.x, a.value, a.value_bias);
  tensor<double> out(q.shape(), 0.0);
  for (extent_t t = 0; t < tokens; ++t)
    for (extent_t head = 0; head < a.model.heads; ++head) {
      const extent_t of = head / (a.model.heads / a.model.kv_heads), b = t % a.batch;
      double sum = 0;
      for (extent_t from = b; from <= t; from += a.batch) {
        double score = 0;
        for (extent_t i = 0; i < d; ++i) score += q.view()(t, head * d + i) * k.view()(from, of * d + i) / std::sqrt(double(d));
        sum += std::exp(score);
        for (extent_t i = 0; i < d; ++i) out.view()(t, head * d + i) += std::exp(score) * v.view()(from, of * d + i);
      }
      for (extent_t i = 0; i < d; ++i) out.view()(t, head * d + i) /= sum;
    }
  return project(out, a.output);
}

template <extent_t Sequence>
struct policy : attention_defaults {
  static constexpr model_shape model = grouped;
  static constexpr extent_t sequence = Sequence;
  using precision = fp64;
};

}  // namespace

TEST_SUITE("attention/attention") {
  TEST_CASE("the output is the definition's, for odd lengths, one token, and heads that share keys") {
    for (const auto& [sequence, batch] : {std::pair<extent_t, extent_t>{7, 3}, {1, 1}, {33, 1}}) {
      attended a(grouped, sequence, batch), b(one_to_one, sequence, batch);
      CHECK(test::largest_error(a.on_one().y, by_definition(a)) < 1e-13);
      CHECK(test::largest_error(b.on_one().y, by_definition(b)) < 1e-13);
    }
  }
  TEST_CASE("biases and norms of heads are where the definition has them, each alone and both") {
    for (const bool bias : {false, true})
      for (const bool norm : {false, true}) {
        model_shape m = biased_and_normed;
        m.qkv_bias = bias, m.qk_norm = norm;
        attended a(m, 7, 3);
        CHECK(test::largest_error(a.on_one().y, by_definition(a)) < 1e-13);
      }
  }
  TEST_CASE("the gradients of the input, of all four weights, of biases and of the heads' gains equal finite differences") {
    for (const model_shape& model : {grouped, biased_and_normed}) {
      attended a(model, 5, 3);
      const auto loss = [&] { return test::dot(a.on_one().y, a.dy); };
      const std::pair<tensor<double>*, const tensor<double>*> all[] = {{&a.x, &a.dx},
                                                                       {&a.query, &a.d_query},
                                                                       {&a.key, &a.d_key},
                                                                       {&a.value, &a.d_value},
                                                                       {&a.output, &a.d_output},
                                                                       {&a.query_bias, &a.d_query_bias},
                                                                       {&a.key_bias, &a.d_key_bias},
                                                                       {&a.value_bias, &a.d_value_bias},
                                                                       {&a.query_norm, &a.d_query_norm},
                                                                       {&a.key_norm, &a.d_key_norm}};
      std::vector<tensor<double>> slopes;
      for (const auto& of : all) slopes.push_back(test::numerical_gradient(*of.first, loss));
      a.on_one();
      for (std::size_t i = 0; i < std::size(all); ++i) {
        CAPTURE(i);
        CHECK(test::largest_error(*all[i].second, slopes[i]) < 2e-8);
      }
    }
  }
  TEST_CASE_TEMPLATE("on tp x cp ranks it is the one rank's layer, forward and all gradients", Precision, fp64, fp32) {
    const double close = 4 * test::rounding<typename Precision::storage>;
    model_shape wide_model = one_to_one;
    wide_model.qk_norm = true;
    attended one(biased_and_normed, 16, 3), wide(wide_model, 16, 3);
    one.on_one(), wide.on_one();
    for (const auto& ranks : {std::pair{2, 1}, {1, 2}, {2, 2}, {1, 4}, {2, 4}, {4, 1}, {4, 2}}) {
      CAPTURE(ranks.first);
      CAPTURE(ranks.second);
      attended many(ranks.first == 4 ? wide_model : biased_and_normed, 16, 3);
      check_same(many.on<Precision>(ranks.first, ranks.second), ranks.first == 4 ? wide : one, close);
    }
  }
  TEST_CASE("the typed surface on a mesh is the same layer") {
    attended one(grouped, 16, 1), many(grouped, 16, 1);
    one.on_one();
    using tp_cp = mesh<tp<2>, cp<2>>;
    run_ranks<4>([&](thread_comm& world) {
      const extents mesh = extents_of<tp_cp>();
      thread_comm tp = world.split(int(group_index(mesh, set_of<tag::tp>, world.rank())), world.rank(), "tp");
      thread_comm cp = world.split(int(group_index(mesh, set_of<tag::cp>, world.rank())), world.rank(), "cp");
      many.run<fp64>(tp, cp, [&](const auto& weights) { return attention<policy<16>, tp_cp, thread_comm>(weights, tp, cp); });
    });
    check_same(many, one, 1e-13);
  }
  TEST_CASE("groups of the wrong size are refused with both sizes, whichever is wrong, before anything else is looked at") {
    attended a(grouped, 16, 1);
    run_ranks<2>([&](thread_comm& two) {
      thread_comm alone = two.split(two.rank(), 0);
      own_parameter<fp64, rows_over_tp> q(a.query, two.rank(), 2), k(a.key, two.rank(), 2), v(a.value, two.rank(), 2);
      own_parameter<fp64, columns_over_tp> o(a.output, two.rank(), 2);
      const attention_weights<fp64> weights{{q.get()}, {k.get()}, {v.get()}, {o.get()}};
      const auto make = [&]<class Mesh>(std::type_identity<Mesh>, thread_comm& tp, thread_comm& cp) {
        attention<policy<16>, Mesh, thread_comm> layer(weights, tp, cp);
      };
      CHECK_NOTHROW(make(std::type_identity<mesh<tp<2>>>{}, two, alone));
      CHECK_THROWS_WITH_AS(make(std::type_identity<mesh<tp<2>>>{}, alone, alone),
                           "moefold: attention on a mesh with tp 2 and cp 1 was given groups of 1 and 1 ranks; split the world by "
                           "groups<Mesh, tag::tp> and groups<Mesh, tag::cp>",
                           config_error);
      CHECK_THROWS_WITH_AS(make(std::type_identity<mesh<tp<2>>>{}, two, two), doctest::Contains("was given groups of 2 and 2 ranks"),
                           config_error);
      CHECK_THROWS_WITH_AS(make(std::type_identity<mesh<tp<2>, cp<2>>>{}, two, alone), doctest::Contains("with tp 2 and cp 2"),
                           config_error);
    });
  }
  TEST_CASE("weights of another size, a sequence that does not cut, and half a sequence are refused") {
    attended a(grouped, 16, 1);
    self_comm self;
    CHECK_THROWS_WITH_AS(
        run_ranks<2>([&](thread_comm& cp) {
          thread_comm tp = cp.split(cp.rank(), 0);
          a.run<fp64>(tp, cp, [&](const auto& weights) { return attention_layer<fp64, thread_comm>(grouped, 18, weights, tp, cp); });
        }),
        doctest::Contains("the sequence must be a multiple of 2*cp*tp = 4 (given 18)"), config_error);
    CHECK_THROWS_WITH_AS(
        a.run<fp64>(self, self, [&](const auto& weights) { return attention_layer<fp64, self_comm>(one_to_one, 16, weights, self, self); }),
        doctest::Contains("the value of attention.query needs shape [8, 7] on this rank, given [24, 7]"), config_error);
    CHECK_THROWS_WITH_AS(
        a.run<fp64>(self, self, [&](const auto& weights) { return attention_layer<fp64, self_comm>(grouped, 32, weights, self, self); }),
        "moefold: attention got 16 tokens per CP part, which is no multiple of S/CP = 32", error);
  }
  TEST_CASE("each of the four weights is refused by name in a wrong shape, and so is a model that tp does not divide") {
    attended a(grouped, 16, 1);
    self_comm self;
    own_parameter<fp64, rows_over_tp> q(a.query, 0, 1), k(a.key, 0, 1), v(a.value, 0, 1);
    own_parameter<fp64, columns_over_tp> o(a.output, 0, 1);
    const attention_weights<fp64> good{{q.get()}, {k.get()}, {v.get()}, {o.get()}};
    const auto make = [&](const model_shape& m, const attention_weights<fp64>& w) {
      attention_layer<fp64, self_comm>(m, 16, w, self, self);
    };
    CHECK_NOTHROW(make(grouped, good));
    const auto turned = [](auto& weight) {
      const shape s = weight.value.shape();
      weight.value = weight.value.as({s[1], s[0]});
    };
    attention_weights<fp64> wrong[4] = {good, good, good, good};
    turned(wrong[0].query.weight), turned(wrong[1].key.weight), turned(wrong[2].value.weight), turned(wrong[3].output.weight);
    CHECK_THROWS_WITH_AS(make(grouped, wrong[0]), doctest::Contains("value of attention.query needs shape [24, 7]"), config_error);
    CHECK_THROWS_WITH_AS(make(grouped, wrong[1]), doctest::Contains("value of attention.key needs shape [12, 7]"), config_error);
    CHECK_THROWS_WITH_AS(make(grouped, wrong[2]), doctest::Contains("value of attention.value needs shape [12, 7]"), config_error);
    CHECK_THROWS_WITH_AS(make(grouped, wrong[3]), doctest::Contains("value of attention.output needs shape [7, 24]"), config_error);
    model_shape biased = grouped, normed = grouped, windowed = grouped;
    biased.qkv_bias = true, normed.qk_norm = true, windowed.sliding_window = 15;
    CHECK_THROWS_WITH_AS(make(biased, good), doctest::Contains("value of attention.query_bias needs shape [24] on this rank, given [0]"),
                         config_error);
    CHECK_THROWS_WITH_AS(make(normed, good), doctest::Contains("value of attention.query_norm needs shape [6] on this rank, given [0]"),
                         config_error);
    const auto refused = [&](auto member, extent_t size, const char* text) {  // a model without it, given it
      tensor<double> whole({size});
      own_parameter<fp64, std::conditional_t<std::is_same_v<decltype(member), parameter<fp64, replicated> attention_weights<fp64>::*>,
                                             replicated, rows_over_tp>>
          extra(whole, 0, 1);
      attention_weights<fp64> more = good;
      more.*member = extra.get();
      CHECK_THROWS_WITH_AS(make(grouped, more), doctest::Contains(text), config_error);
    };
    using weights = attention_weights<fp64>;
    refused(&weights::query_bias, 24, "attention.query_bias needs shape [0] on this rank, given [24]");
    refused(&weights::key_bias, 12, "attention.key_bias needs shape [0]");
    refused(&weights::value_bias, 12, "attention.value_bias needs shape [0]");
    refused(&weights::query_norm, 6, "attention.query_norm needs shape [0]");
    refused(&weights::key_norm, 6, "attention.key_norm needs shape [0]");
    CHECK_THROWS_WITH_AS(make(windowed, good), doctest::Contains("(given sequence = 16, sliding_window = 15)"), config_error);
    windowed.sliding_window = 16;
    CHECK_NOTHROW(make(windowed, good));
    model_shape odd = grouped;
    odd.head_dim = 5;
    CHECK_THROWS_WITH_AS(make(odd, good), doctest::Contains("head_dim must be even"), config_error);
    run_ranks<3>([&](thread_comm& tp) {
      thread_comm cp = tp.split(tp.rank(), 0);
      const auto on_three = [&](const model_shape& m, extent_t sequence) { attention_layer<fp64, thread_comm>(m, sequence, good, tp, cp); };
      model_shape three = grouped;
      CHECK_THROWS_WITH_AS(on_three(three, 12), doctest::Contains("the attention heads must be a multiple of TP"), config_error);
      three.heads = 6;
      CHECK_THROWS_WITH_AS(on_three(three, 12), doctest::Contains("the key/value heads must be a multiple of TP"), config_error);
      three.kv_heads = 3;
      CHECK_THROWS_WITH_AS(on_three(three, 16), doctest::Contains("the sequence must be a multiple of TP*CP"), config_error);
      CHECK_THROWS_WITH_AS(on_three(three, 12), doctest::Contains("attention.query needs shape [12, 7] on this rank"), config_error);
    });
  }
  TEST_CASE("after the first micro-batch a layer allocates nothing; weight gradients add up over micro-batches") {
    attended a(grouped, 16, 2);
    a.on_one();
    self_comm self;
    host_context context;
    const host_exec e(context);
    arena keep;
    own_parameter<fp64, rows_over_tp> q(a.query, 0, 1), k(a.key, 0, 1), v(a.value, 0, 1);
    own_parameter<fp64, columns_over_tp> o(a.output, 0, 1);
    const attention_layer<fp64, self_comm> layer(grouped, 16, {{q.get()}, {k.get()}, {v.get()}, {o.get()}}, self, self);
    attention_layer<fp64, self_comm>::saved s;
    tensor<double> y(a.x.shape()), dx(a.x.shape());
    std::size_t warm = 0;
    for (int micro_batch = 0; micro_batch < 3; ++micro_batch) {
      keep.clear();
      layer.forward(e, a.x, y.view(), keep, s);
      layer.backward(e, a.dy, dx.view(), s);
      if (micro_batch == 0) warm = host_memory::allocations();
    }
    CHECK(host_memory::allocations() == warm);
    for (std::size_t i = 0; i < q.gradient.size(); ++i) CHECK(q.gradient[i] == doctest::Approx(3 * a.d_query[i]));
    for (std::size_t i = 0; i < o.gradient.size(); ++i) CHECK(o.gradient[i] == doctest::Approx(3 * a.d_output[i]));
    CHECK(test::largest_error(dx, a.dx) == 0);
  }
}
