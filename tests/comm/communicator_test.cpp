#include <moefold/comm/communicator.hpp>

#include <doctest/doctest.h>

#include <array>
#include <string>
#include <vector>

using namespace moefold;

TEST_SUITE("comm/communicator") {
  TEST_CASE("a label keeps up to 31 characters in place and compares as text") {
    constexpr comm_label dp = "cp x dp";
    static_assert(dp.view() == "cp x dp");
    static_assert(dp == comm_label(std::string_view("cp x dp")));
    static_assert(!(dp == comm_label("cp")));
    static_assert(comm_label().empty());
    CHECK(comm_label(std::string(40, 'a')).view() == std::string(31, 'a'));
  }
  TEST_CASE("elements are whatever has data and size of a type that travels") {
    static_assert(elements<std::vector<float>> && elements<std::span<const bf16>> && elements<std::array<std::int64_t, 3>>);
    static_assert(!elements<float> && !elements<std::vector<std::string>>);
    static_assert(writable_elements<std::span<float>> && writable_elements<const std::span<float>>);
    static_assert(!writable_elements<const std::vector<float>> && !writable_elements<std::span<const float>>);
    static_assert(std::is_same_v<element_of<const std::vector<float>>, float>);
  }
  TEST_CASE("max keeps the first of equals, sum rounds to the type") {
    static_assert(max{}(1, 2) == 2 && max{}(-1.0f, -2.0f) == -1.0f);
    static_assert(sum{}(std::uint8_t{255}, std::uint8_t{1}) == 0);
    static_assert(reduction<sum> && reduction<max> && !reduction<int>);
  }
}
