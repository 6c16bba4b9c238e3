#include <moefold/inventory/parameters.hpp>
#include <moefold/model/zoo.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("model/zoo") {
  TEST_CASE("every model has its own name, a sound shape and a constant") {
    for (const known_model& m : known_models) {
      CAPTURE(std::string(m.name));
      CHECK(find_model(m.name) == &m);
      CHECK_NOTHROW(check(*m.shape));
      CHECK((!m.constant.empty() && !m.header.empty()));
    }
    CHECK(find_model("mixtral-8x23b") == nullptr);
  }
  TEST_CASE("names that comparisons use are those of the paper's models") {
    CHECK(*find_model("mixtral-8x22b-g8t8")->shape == mixtral_8x22b_g8t8);
    CHECK(*find_model("qwen2-57b-a14b")->shape == qwen2_57b_a14b);
    CHECK(double(count_parameters(*find_model("llama3-8x70b")->shape)) == doctest::Approx(465.2e9).epsilon(0.001));
  }
}
