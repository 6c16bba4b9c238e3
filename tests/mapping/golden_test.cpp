// Tiny models of every published family, made by transformers (tests/golden): read slice by slice into folded trainers, they have the loss and all the
// gradients that transformers computes, on every mapping. A dense one, upcycled, has the loss it had.
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/checkpoint/published.hpp>
#include <moefold/model/config_file.hpp>
#include <moefold/model/upcycle.hpp>
#include <moefold/train/data_options.hpp>
#include "../support/common_runs.hpp"
#include "../support/mappings.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>

using namespace moefold;
using namespace moefold::testing;

namespace {

constexpr extent_t sequence = 16, batch = 8;

std::string text_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.good());
  return {std::istreambuf_iterator<char>(in), {}};
}
/// A golden model: its folder, shape, loss and gradients.
struct golden {
  std::string folder;
  model_shape model;
  double loss;
  std::map<std::string, std::vector<float>> gradients{};

  explicit golden(const std::string& name)
      : folder("tests/golden/" + name), model(read_config(text_of(folder + "/config.json"), name)),
        loss(std::atof(text_of(folder + "/loss.txt").c_str())) {
    const published_reader file(disk(), folder + "/gradients.safetensors");
    for (const published_tensor& t : published_tensors(model)) {
      if (t.name.ends_with("e_score_correction_bias")) continue;  // has none
      std::vector<float>& numbers = gradients[t.name];
      numbers.resize(std::size_t(t.extent.size()));
      const published_segment all{t.name, 0, 0, t.extent.size(), t.extent};
      file.read({{t.extent, {}, t.extent}, {0, t.extent.size()}, t.extent.size()}, std::span(&all, 1), dtype::fp32,
                std::as_writable_bytes(std::span(numbers)));
    }
    CHECK(gradients.size() == file.size());
  }
};

/// What a run of one step says: its loss, and the gradients of the mean loss under published names.
struct seen {
  double loss = 0;
  std::map<std::string, std::vector<double>> gradients{};
};

/// One step of `model` on the golden tokens, its weights given by weights_of(fact, piece, out).
template <class Weights>
seen run(const golden& from, const model_shape& model, const folding_extents& fold, bool gradients, Weights&& weights_of) {
  const dataset data = make_dataset(
      {.files = {from.folder + "/tokens.u16"}, .format = data_format::u16, .weights = {}, .shuffle = false, .held_out_share = 0}, sequence,
      1);
  mapping_options options;
  options.model = model, options.sequence = sequence, options.steps = 1, options.data = &data;
  options.train.global_batch = batch, options.train.learning_rate = 0;
  options.start = [&](std::vector<state_tensor>& owned, std::vector<state_array>& shared) {
    for (state_tensor& t : owned) {
      if (t.part != "weight") continue;
      std::vector<float> numbers(std::size_t(t.piece.range.size()), 0.f);
      weights_of(t.fact, t.piece, std::span(numbers));
      t.set(std::as_bytes(std::span(numbers).first(std::size_t(t.piece.size()))));
    }
    for (state_array& a : shared) {
      REQUIRE(a.name == "router.bias");
      const published_reader file(disk(), from.folder);
      const std::size_t row = std::size_t(model.experts) * sizeof(float);
      for (extent_t l = model.dense_layers; l < model.layers; ++l) {
        const published_segment bias{published_router_bias(l), 0, 0, model.experts, {model.experts}};
        file.read({{{model.experts}, {}, {model.experts}}, {0, model.experts}, model.experts}, std::span(&bias, 1), dtype::fp32,
                  a.bytes.subspan(std::size_t(l) * row, row));
      }
    }
  };
  const outcome out = train_mapping<float_policies>(fold, options);
  report(out);
  seen result{out.losses.at(0)};
  if (!gradients) return result;
  for_each_parameter(model, {}, 0, [&](const parameter_fact& p) {
    const std::vector<double>& gradient = out.first.at(p.name());
    const tensor_piece all{{p.extent, {}, p.extent}, {0, p.extent.size()}, p.extent.size()};
    for_each_published_run(all, published_segments(model, p), [&](const published_segment& s, extent_t at, extent_t local, extent_t count) {
      auto& tensor = result.gradients[s.tensor];
      tensor.resize(std::size_t(s.needed.size()));
      std::copy_n(gradient.begin() + local, count, tensor.begin() + at);
    });
  });
  return result;
}
seen run(const golden& from, const folding_extents& fold) {
  const published_reader file(disk(), from.folder);
  return run(from, from.model, fold, true, [&](const parameter_fact& p, const tensor_piece& piece, std::span<float> out) {
    file.read(piece, published_segments(from.model, p), dtype::fp32, std::as_writable_bytes(out));
  });
}

std::vector<mapping> foldings() {
  using enum axis_id;
  return {{"one rank", {}},
          {"tp 2 cp 2 pp 2, ep 4", make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{ep, 4}, {pp, 2}})},
          {"tp 2 cp 2 pp 2, edp 4", make_folding({{tp, 2}, {cp, 2}, {pp, 2}}, {{edp, 4}, {pp, 2}})},
          {"tp 2 dp 2, ep 4", make_folding({{tp, 2}, {dp, 2}}, {{ep, 4}})},
          {"cp 2 dp 2, etp 2 ep 2", make_folding({{cp, 2}, {dp, 2}}, {{etp, 2}, {ep, 2}})},
          {"dp 4 pp 2, ep 2 edp 2", make_folding({{dp, 4}, {pp, 2}}, {{ep, 2}, {edp, 2}, {pp, 2}})},
          {"tp 2 cp 2 dp 2, etp 2 ep 2 edp 2", make_folding({{tp, 2}, {cp, 2}, {dp, 2}}, {{etp, 2}, {ep, 2}, {edp, 2}})},
          {"pipeline fastest", make_folding({{pp, 2}, {tp, 2}, {cp, 2}}, {{pp, 2}, {ep, 2}, {etp, 2}})}};
}

}  // namespace

TEST_SUITE("mapping/golden") {
  TEST_CASE("loss and all gradients of Mixtral, Qwen2-MoE, Qwen3-MoE, GLM-4-MoE and Llama equal transformers' to 1e-4, in every folding") {
    for (const std::string name : {"mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "llama"}) {
      const golden theirs(name);
      CAPTURE(name);
      for (const mapping& m : foldings()) {
        CAPTURE(m.name);
        if (theirs.model.experts % m.fold.moe.of(axis_id::ep) != 0) continue;  // the Llama has none to share out
        const seen ours = run(theirs, m.fold);
        CHECK(ours.loss == doctest::Approx(theirs.loss).epsilon(1e-5));
        CHECK(ours.gradients.size() == theirs.gradients.size());
        for (const auto& [tensor, expected] : theirs.gradients) {
          const std::string which = tensor;
          CAPTURE(which);
          REQUIRE(ours.gradients.contains(tensor));
          const std::vector<double>& found = ours.gradients.at(tensor);
          double largest = 0, worst = 0;
          for (std::size_t i = 0; i < expected.size(); ++i) {
            largest = std::max(largest, std::abs(double(expected[i])));
            worst = std::max(worst, std::abs(double(expected[i]) - found[i]));
          }
          CHECK(largest > 1e-5);
          CHECK(worst <= 1e-4 * largest);
        }
      }
    }
  }
  TEST_CASE(
      "every MoE model that a dense Llama is upcycled into has the loss that transformers computes of the Llama, in several foldings") {
    const golden llama("llama");
    const published_reader file(disk(), llama.folder);
    const auto moe = [&](extent_t experts, extent_t k, extent_t pieces) {
      model_shape m = llama.model;
      m.dense_layers = m.dense_ffn = 0, m.experts = experts, m.top_k = k, m.ffn = llama.model.dense_ffn / pieces;
      m.score = score_function::softmax_after;
      return m;
    };
    model_shape sigmoid = moe(8, 4, 2);
    sigmoid.score = score_function::sigmoid, sigmoid.weight_scale = 2.5;
    model_shape dense_first = moe(8, 2, 1);
    dense_first.dense_layers = 1, dense_first.dense_ffn = llama.model.dense_ffn;
    for (const model_shape& m : {moe(4, 2, 1), moe(8, 4, 2), moe(8, 4, 4), sigmoid, dense_first}) {
      const upcycling u = upcycling_of(llama.model, m);
      CHECK(u.exact);
      for (const std::size_t f : {0, 1, 6}) {
        CAPTURE(foldings()[f].name);
        CAPTURE(m.ffn);
        const seen ours =
            run(llama, m, foldings()[f].fold, false, [&](const parameter_fact& p, const tensor_piece& piece, std::span<float> out) {
              const upcycled_parameter from = upcycled(llama.model, m, p);
              if (from.segments.empty()) return draw_router(u, p, 42, piece, out);
              file.read(piece, from.segments, dtype::fp32, std::as_writable_bytes(out));
              for (float& x : out) x = float(x * from.scale);
            });
        CHECK(ours.loss == doctest::Approx(llama.loss).epsilon(1e-6));
      }
    }
  }
}
