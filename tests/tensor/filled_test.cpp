#include <moefold/tensor/filled.hpp>

#include <moefold/core/exec.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

TEST_SUITE("tensor/filled") {
  TEST_CASE("a filled tensor holds its value everywhere, an uploaded one the numbers of the host; with an exec and without") {
    host_context context;
    const std::vector<int> numbers{3, 1, 2};
    const auto check = [&](auto e) {
      const tensor<float> ones = filled<float, host_memory>(e, {2, 3}, 1.5f);
      CHECK(ones.shape() == shape{2, 3});
      for (const float x : ones) CHECK(x == 1.5f);
      const tensor<int> copy = uploaded<host_memory>(e, std::span(numbers));
      CHECK(std::equal(copy.begin(), copy.end(), numbers.begin(), numbers.end()));
    };
    check(no_exec{});
    check(host_exec(context));
    CHECK(filled<float, host_memory>(no_exec{}, {0}, 1.0f).size() == 0);
  }
}
