// What transformers writes holds the tensors that model/names.hpp says, and no others; both layouts of experts give the same numbers.
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/checkpoint/published.hpp>
#include <moefold/model/config_file.hpp>

#include <doctest/doctest.h>

#include <fstream>

using namespace moefold;

namespace {

model_shape shape_of(const std::string& name) {
  std::ifstream in("tests/golden/" + name + "/config.json");
  return read_config(std::string(std::istreambuf_iterator<char>(in), {}), name);
}
std::vector<float> read(const published_reader& from, const model_shape& m, const parameter_fact& p, expert_layout layout) {
  std::vector<float> numbers(std::size_t(p.extent.size()), 0.f);
  from.read({{p.extent, {}, p.extent}, {0, p.extent.size()}, p.parameters()}, published_segments(m, p, layout), dtype::fp32,
            std::as_writable_bytes(std::span(numbers)));
  return numbers;
}

}  // namespace

TEST_SUITE("model/golden_files") {
  TEST_CASE("every family's file holds exactly the tensors that its shape names, in their shapes") {
    for (const std::string name : {"mixtral", "qwen2_moe", "qwen3_moe", "glm4_moe", "llama"}) {
      CAPTURE(name);
      const published_reader file(disk(), "tests/golden/" + name);
      const model_shape m = shape_of(name);
      const std::vector<published_tensor> all = published_tensors(m);
      CHECK(all.size() == file.size());
      for (const published_tensor& t : all) {
        CAPTURE(t.name);
        const auto found = file.find(t.name);
        REQUIRE(found);
        REQUIRE(extent_t(found->shape.size()) == t.extent.rank);
        for (int i = 0; i < t.extent.rank; ++i) CHECK(extent_t(found->shape[std::size_t(i)]) == t.extent[i]);
      }
      CHECK(layout_of(m, [&](const std::string& tensor) { return file.find(tensor).has_value(); }) == expert_layout::per_expert);
    }
  }
  TEST_CASE("experts fused as transformers 5 holds them in memory are the same experts") {
    const model_shape m = shape_of("mixtral");
    const published_reader apart(disk(), "tests/golden/mixtral"), fused(disk(), "tests/golden/mixtral/fused.safetensors");
    CHECK(layout_of(m, [&](const std::string& tensor) { return fused.find(tensor).has_value(); }) == expert_layout::fused);
    CHECK(published_tensors(m, expert_layout::fused).size() == fused.size());
    for_each_parameter(m, folding_extents{}, 0, [&](const parameter_fact& p) {
      CAPTURE(p.name());
      CHECK(read(apart, m, p, expert_layout::per_expert) == read(fused, m, p, expert_layout::fused));
    });
  }
}
