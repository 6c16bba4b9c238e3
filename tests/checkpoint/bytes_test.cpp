#include <moefold/checkpoint/bytes.hpp>

#include <doctest/doctest.h>

#include <array>

using namespace moefold;

namespace {
constexpr std::uint64_t most = std::numeric_limits<std::uint64_t>::max();
}

TEST_SUITE("checkpoint/bytes") {
  TEST_CASE("products and sums are exact or absent") {
    static_assert(checked_mul(0, most) == 0 && checked_mul(most, 0) == 0);
    static_assert(checked_mul(most, 1) == most && checked_mul(1, most) == most);
    static_assert(!checked_mul(std::uint64_t{1} << 32, std::uint64_t{1} << 32));
    static_assert(checked_mul((std::uint64_t{1} << 32) + 1, (std::uint64_t{1} << 32) - 1) == most);
    static_assert(!checked_mul(4194305ull * 4194305ull, 211106198978564ull));  // wraps round to 4
    static_assert(checked_add(most, 0) == most && !checked_add(most, 1) && checked_add(most - 5, 5) == most);
  }
  TEST_CASE("a part of a block lies inside it, or the error says where in the file it would begin and how much is missing") {
    const std::string text = "0123456789", file = "a.bin";
    const file_bytes block{bytes_of(text), file, 100};
    CHECK(text_of(span_at(block, 2, 3)) == "234");
    CHECK(text_of(span_at(block, 0, 10)) == text);
    CHECK(span_at(block, 10, 0).empty());
    CHECK_THROWS_WITH_AS(span_at(block, 8, 3),
                         "moefold: 'a.bin' at byte 108: 3 bytes are needed from here, 2 are left; the file is cut short or damaged",
                         format_error);
    CHECK_THROWS_WITH_AS(span_at(block, 11, 0), doctest::Contains("at byte 110: 0 bytes are needed from here, 0 are left"), format_error);
    CHECK_THROWS_AS(span_at(block, most, 1), format_error);
    CHECK_THROWS_AS(span_at(block, 1, most), format_error);
    CHECK_THROWS_AS(span_at(block.bytes, 8, 3), error);
  }
  TEST_CASE("numbers are read and written at any byte, little-endian") {
    std::array<std::byte, 9> bytes{};
    const std::string file = "a.bin";
    store<std::uint32_t>(bytes, 1, 0x04030201u);
    CHECK(bytes[1] == std::byte{1});
    CHECK(bytes[4] == std::byte{4});
    const file_bytes block{bytes, file};
    CHECK(load<std::uint32_t>(block, 1) == 0x04030201u);
    CHECK(load<std::uint64_t>(block, 1) == 0x04030201u);
    CHECK(load<std::int8_t>(std::span<const std::byte>(bytes), 3) == 3);
    CHECK_THROWS_AS(load<std::uint64_t>(block, 2), format_error);
    CHECK_THROWS_AS(store(std::span(bytes), 6, 1.0f), error);
    std::array<std::uint16_t, 4> numbers{}, back{1, 2, 3, 4};
    store_all<std::uint16_t>(std::span(bytes).subspan(1), back);
    load_all<std::uint16_t>(std::span(bytes).subspan(1), numbers);
    CHECK(numbers == back);
    CHECK_THROWS_AS(load_all<std::uint16_t>(bytes, numbers), error);
  }
  TEST_CASE("what an error shows of a file is short and printable") {
    CHECK(shown_text("a\nb\xff") == "a?b?");
    CHECK(shown_text(std::string(100, 'x'), 3) == "xxx...");
  }
}
