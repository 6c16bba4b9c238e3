#include <moefold/train/token_source.hpp>

#include <support/temporary_folder.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

std::vector<std::int32_t> tokens_of(const token_source& from, extent_t first, extent_t count) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(count));
  from.read(first, out);
  return out;
}
shared_tokens text(std::string bytes) { return std::make_shared<token_stream>(token_stream::from_bytes(std::move(bytes))); }

}  // namespace

TEST_SUITE("train/token_source") {
  TEST_CASE("joined sources read as one, across every border, empty ones among them") {
    const joined_tokens all({text(""), text("abc"), text(""), text("d"), text("efgh")});
    const std::string whole = "abcdefgh";
    REQUIRE(all.size() == 8);
    for (extent_t first = 0; first <= 8; ++first)
      for (extent_t count = 0; first + count <= 8; ++count) {
        const auto read = tokens_of(all, first, count);
        CHECK(std::string(read.begin(), read.end()) == whole.substr(std::size_t(first), std::size_t(count)));
      }
    CHECK(all.largest_possible() == 255);
    CHECK(all.describe(4) == "token 0");
    CHECK_THROWS_WITH_AS(tokens_of(all, 5, 4), doctest::Contains("there are no tokens [5, +4) in data of 8 tokens"), error);
    CHECK_THROWS_AS(tokens_of(all, -1, 1), error);
    CHECK_THROWS_AS(tokens_of(*text("abc"), std::numeric_limits<extent_t>::max(), 2), error);
  }
  TEST_CASE("each joined source begins a document") {
    const joined_tokens all({text("abc"), text("d"), text("efgh")});
    const std::vector<extent_t> documents(all.documents().begin(), all.documents().end());
    CHECK(documents == std::vector<extent_t>{0, 3, 4});
  }
  TEST_CASE("frequencies are counted for small and for large tokens alike") {
    token_frequencies seen;
    CHECK(seen.entropy() == 0);
    for (const std::int32_t token : {1, 65535, 65536, 2147483647}) seen.add(token, 0.5);
    CHECK(seen.entropy() == doctest::Approx(std::log(4.0)));
  }
  TEST_CASE("blocks come in order and without gaps, whatever their number") {
    std::string bytes;
    for (int i = 0; i < 40000; ++i) bytes += char(i % 251);
    extent_t next = 7;
    bool same = true;
    for_each_block(*text(bytes), 7, 39990, [&](extent_t first, std::span<const std::int32_t> tokens) {
      same = same && first == next;
      for (const std::int32_t token : tokens) same = same && token == next++ % 251;
    });
    CHECK(same);
    CHECK(next == 39997);
  }
}
