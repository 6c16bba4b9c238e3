#include <moefold/train/token_sequences.hpp>

#include <doctest/doctest.h>

#include <map>

using namespace moefold;

namespace {

// Tokens 0, 1, 2, ... with documents of these lengths; after each document's last token the next begins.
class numbered final : public token_source {
 public:
  explicit numbered(const std::vector<extent_t>& lengths) {
    documents_.clear();
    for (const extent_t n : lengths) documents_.push_back(size_), size_ += n;
  }
  extent_t size() const override { return size_; }
  void read(extent_t first, std::span<std::int32_t> to) const override {
    check_range(first, to.size());
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = std::int32_t(first + extent_t(i));
  }

 private:
  extent_t size_ = 0;
};

struct sample {
  std::vector<std::int32_t> tokens, labels, starts;
};
sample read(const token_sequences& from, extent_t i) {
  const auto s = std::size_t(from.sequence());
  sample out{std::vector<std::int32_t>(s), std::vector<std::int32_t>(s), std::vector<std::int32_t>(s)};
  from.read(i, out.tokens, out.labels);
  from.raise_starts(i, out.starts);
  return out;
}
using numbers = std::vector<std::int32_t>;
constexpr document_rule of_source{-1, true, false}, packed{-1, true, true};

}  // namespace

TEST_SUITE("train/token_sequences") {
  TEST_CASE("a cut sequence goes over document borders, and knows them where the source is asked") {
    const auto from = std::make_shared<numbered>(std::vector<extent_t>{3, 0, 4, 1, 9});
    const token_sequences plain(from, 5), aware(from, 5, of_source);
    REQUIRE(plain.size() == 3);  // 17 tokens
    CHECK(read(plain, 1).tokens == numbers{5, 6, 7, 8, 9});
    CHECK(read(plain, 1).labels == numbers{6, 7, 8, 9, 10});
    CHECK(read(plain, 1).starts == numbers{0, 0, 0, 0, 0});
    CHECK(read(aware, 0).starts == numbers{0, 0, 0, 3, 3});
    CHECK(read(aware, 1).starts == numbers{0, 0, 2, 3, 3});
    CHECK(read(aware, 2).starts == numbers{0, 0, 0, 0, 0});
    CHECK(read(aware, 1).tokens == read(plain, 1).tokens);
    CHECK(aware.place_of(1, 4) == 9);
    CHECK_THROWS_AS(read(plain, 3), error);
    CHECK_THROWS_AS(read(plain, -1), error);
  }
  TEST_CASE("documents are packed whole, best fit, and what is left is padding") {
    // tokens with a label: 3, 5, 2, 1, 0 (a single token has none), 4
    const token_sequences from(std::make_shared<numbered>(std::vector<extent_t>{4, 6, 3, 2, 1, 5}), 6, packed);
    REQUIRE(from.size() == 3);
    CHECK(read(from, 0).tokens == numbers{0, 1, 2, 10, 11, 13});  // 2 into the room of 3, not that of 1; 1 into the first of two
    CHECK(read(from, 0).labels == numbers{1, 2, 3, 11, 12, 14});
    CHECK(read(from, 0).starts == numbers{0, 0, 0, 3, 3, 5});
    CHECK(read(from, 1).tokens == numbers{4, 5, 6, 7, 8, -1});
    CHECK(read(from, 1).starts == numbers{0, 0, 0, 0, 0, 5});
    CHECK(read(from, 2).tokens == numbers{16, 17, 18, 19, -1, -1});
    CHECK(read(from, 2).labels == numbers{17, 18, 19, 20, -1, -1});
    CHECK(from.place_of(0, 4) == 11);
    CHECK(from.place_of(2, 5) == -1);
  }
  TEST_CASE("every token that has a label in its document is packed once, with that label; only long documents are cut") {
    std::uint64_t state = 7;
    for (int round = 0; round < 200; ++round) {
      std::vector<extent_t> lengths;
      const extent_t s = 1 + extent_t(round % 9);
      for (int d = 0; d < 40; ++d) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        lengths.push_back(extent_t(state >> 33) % 14);
      }
      lengths.push_back(2);
      const auto source = std::make_shared<numbered>(lengths);
      const token_sequences from(source, s, packed);
      std::map<std::int32_t, std::int32_t> label, count, pieces;  // by token; pieces by document
      const auto document_of = [&](std::int32_t token) {
        return std::int32_t(std::upper_bound(source->documents().begin(), source->documents().end(), extent_t(token)) -
                            source->documents().begin()) -
               1;
      };
      for (extent_t i = 0; i < from.size(); ++i) {
        const sample at = read(from, i);
        for (std::size_t k = 0; k < at.tokens.size(); ++k) {
          if (at.tokens[k] < 0) {
            CHECK(at.labels[k] == -1);
            continue;
          }
          CHECK(from.place_of(i, extent_t(k)) == at.tokens[k]);
          ++count[at.tokens[k]];
          label[at.tokens[k]] = at.labels[k];
          CHECK(document_of(at.labels[k]) == document_of(at.tokens[k]));
          const std::size_t start = std::size_t(at.starts[k]);
          CHECK(start <= k);
          CHECK(document_of(at.tokens[start]) == document_of(at.tokens[k]));
          if (start == k) ++pieces[document_of(at.tokens[k])];
        }
      }
      extent_t needed = 0;
      for (std::size_t d = 0; d < lengths.size(); ++d) {
        const extent_t inside = std::max(extent_t{0}, lengths[d] - 1);
        needed += inside;
        CHECK(pieces[std::int32_t(d)] == (inside + s - 1) / s);
      }
      CHECK(extent_t(count.size()) == needed);
      for (const auto& [token, times] : count) {
        CHECK(times == 1);
        CHECK(label[token] == token + 1);
      }
    }
  }
  TEST_CASE("packing wastes little: under 3 percent where documents are a third of a sequence on average") {
    std::vector<extent_t> lengths;
    std::uint64_t state = 3;
    extent_t labels = 0;
    for (int d = 0; d < 5000; ++d) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      lengths.push_back(2 + extent_t(state >> 33) % 128);
      labels += lengths.back() - 1;
    }
    const token_sequences from(std::make_shared<numbered>(lengths), 192, packed);
    CHECK(double(labels) / double(from.size() * 192) > 0.97);
  }
  TEST_CASE("documents end after a token, where the source says, or both") {
    const auto text = std::make_shared<token_stream>(token_stream::from_bytes("ab.cde..f"));
    const auto documents = [&](const token_source& of, const document_rule& rule) {
      std::string out;
      for_each_document(of, rule, [&](extent_t first, extent_t last) { out += sentence(first, "-", last, " "); });
      return out;
    };
    CHECK(documents(*text, {'.', false, false}) == "0-3 3-7 7-8 8-9 ");
    CHECK(documents(*text, {-1, false, false}) == "0-9 ");
    const joined_tokens both({text, text});
    CHECK(documents(both, {'.', true, false}) == "0-3 3-7 7-8 8-9 9-12 12-16 16-17 17-18 ");
    CHECK(documents(both, {'.', false, false}) == "0-3 3-7 7-8 8-12 12-16 16-17 17-18 ");
    CHECK(documents(both, of_source) == "0-9 9-18 ");
    std::string large(40000, 'a');  // more than a block
    large[20000] = '.';
    CHECK(documents(token_stream::from_bytes(large), {'.', false, false}) == "0-20001 20001-40000 ");
  }
  TEST_CASE("data that make no sequence are refused") {
    const auto of = [](std::vector<extent_t> lengths, extent_t s, document_rule rule) {
      return [=] { token_sequences(std::make_shared<numbered>(lengths), s, rule); };
    };
    CHECK_THROWS_WITH_AS(of({5}, 5, {})(), doctest::Contains("the data have 5 tokens, one sequence of 5 needs 6"), config_error);
    CHECK_THROWS_WITH_AS(of({0}, 5, {})(), doctest::Contains("the data have 0 tokens"), config_error);
    CHECK_THROWS_WITH_AS(of({1, 1, 1}, 5, packed)(), doctest::Contains("no document of 2 tokens or more"), config_error);
    CHECK_THROWS_WITH_AS(of({5}, 0, {})(), doctest::Contains("at least 1 token"), config_error);
    CHECK_THROWS_WITH_AS(of({5}, extent_t{1} << 31, {})(), doctest::Contains("at most 2^31 - 1"), config_error);
    CHECK_NOTHROW(of({2}, 5, packed)());
  }
}
