#include <moefold/train/data.hpp>

#include <moefold/checkpoint/posix_storage.hpp>

#include <support/temporary_folder.hpp>

#include <doctest/doctest.h>

#include <set>

using namespace moefold;

namespace {

std::string letters(std::size_t n) {
  std::string text;
  for (std::size_t i = 0; i < n; ++i) text += char('a' + i % 26);
  return text;
}
dataset data_of(std::size_t bytes, extent_t sequence, double share = 0.05, std::uint64_t seed = 1, bool shuffle = true) {
  return dataset(token_stream::from_bytes(letters(bytes)), sequence, seed, share, shuffle);
}
template <class F>
std::string reason(F&& f) {
  try {
    f();
  } catch (const error& e) {
    return e.what();
  }
  return "";
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// Two sources: tokens 0..99 and 100..255 as u8, in memory.
std::vector<token_sequences> two_sources(extent_t sequence, std::size_t first = 100, std::size_t second = 156, document_rule rule = {}) {
  std::string a, b;
  for (std::size_t i = 0; i < first; ++i) a += char(i % 100);
  for (std::size_t i = 0; i < second; ++i) b += char(100 + i % 156);
  std::vector<token_sequences> out;
  for (std::string* text : {&a, &b}) out.emplace_back(std::make_shared<token_stream>(token_stream::from_bytes(*text)), sequence, rule);
  return out;
}
token_blend weights(std::vector<double> w) { return token_blend(w); }

// Counts up from 0 for ever, as if it lay in a file too large to look at.
class endless final : public token_source {
 public:
  explicit endless(extent_t size) : size_(size) {}
  extent_t size() const override { return size_; }
  void read(extent_t first, std::span<std::int32_t> to) const override {
    check_range(first, to.size());
    for (std::size_t i = 0; i < to.size(); ++i) to[i] = std::int32_t((first + extent_t(i)) % 70000);
  }

 private:
  extent_t size_;
};

}  // namespace

TEST_SUITE("train/data") {
  TEST_CASE("the shuffle is a permutation for every size") {
    for (extent_t n = 1; n <= 200; ++n)
      for (std::uint64_t epoch = 0; epoch < 3; ++epoch) {
        std::set<extent_t> seen;
        for (extent_t i = 0; i < n; ++i) seen.insert(shuffled(i, n, 42, epoch));
        CHECK(seen.size() == std::size_t(n));
        CHECK(*seen.begin() == 0);
        CHECK(*seen.rbegin() == n - 1);
      }
  }
  TEST_CASE("epochs and seeds are shuffled differently") {
    for (extent_t n = 16; n <= 200; ++n) {
      int same_epoch = 0, same_seed = 0, fixed = 0;
      for (extent_t i = 0; i < n; ++i) {
        same_epoch += shuffled(i, n, 42, 0) == shuffled(i, n, 42, 1);
        same_seed += shuffled(i, n, 42, 0) == shuffled(i, n, 43, 0);
        fixed += shuffled(i, n, 42, 0) == i;
      }
      CHECK(same_epoch < n / 2);
      CHECK(same_seed < n / 2);
      CHECK(fixed < n / 2);
    }
  }
  TEST_CASE("every place is equally likely, to five standard deviations") {
    constexpr extent_t n = 10;
    constexpr int epochs = 4000;
    std::array<std::array<int, n>, n> count{};
    for (int epoch = 0; epoch < epochs; ++epoch)
      for (extent_t i = 0; i < n; ++i) ++count[std::size_t(i)][std::size_t(shuffled(i, n, 7, std::uint64_t(epoch)))];
    for (const auto& row : count)
      for (int c : row) CHECK(std::abs(c - epochs / n) < 5 * 19);  // sqrt(4000 * 0.1 * 0.9) = 19
  }
  TEST_CASE("one epoch sees every training sequence once and no held-out one") {
    const dataset data = data_of(1000, 10);
    std::set<extent_t> seen;
    for (extent_t g = 0; g < data.training_sequences(); ++g) seen.insert(data.sequence_index(g));
    CHECK(seen.size() == std::size_t(data.training_sequences()));
    CHECK(*seen.rbegin() == data.training_sequences() - 1);
  }
  TEST_CASE("without shuffling every epoch is in file order") {
    const dataset data = data_of(101, 10, 0.2, 1, false);
    for (extent_t g = 0; g < 20; ++g) CHECK(data.sequence_index(g) == g % 8);
  }
  TEST_CASE("labels are the tokens one further on, also across the end of a sequence") {
    const dataset data = data_of(31, 10, 0.0, 1, false);
    std::vector<std::int32_t> tokens(10), labels(10);
    data.training_sample(2, tokens, labels);
    for (int i = 0; i < 10; ++i) {
      CHECK(tokens[std::size_t(i)] == 'a' + (20 + i) % 26);
      CHECK(labels[std::size_t(i)] == 'a' + (21 + i) % 26);
    }
    CHECK_THROWS_AS(data.training_sample(0, std::span(tokens).first(9), labels), error);
  }
  TEST_CASE("held-out sequences are the last ones, in file order") {
    const dataset data = data_of(201, 10, 0.25);
    CHECK(data.training_sequences() == 15);
    CHECK(data.held_out_sequences() == 5);
    std::vector<std::int32_t> tokens(10), labels(10);
    data.evaluation_sample(4, tokens, labels);
    CHECK(tokens[0] == 'a' + 190 % 26);
    CHECK(labels[9] == 'a' + 200 % 26);
    CHECK_THROWS_AS(data.evaluation_sample(5, tokens, labels), error);
  }
  TEST_CASE("at least one sequence is held out where there are two, and one is left to train on") {
    CHECK(data_of(11, 10).held_out_sequences() == 0);
    CHECK(data_of(11, 10).training_sequences() == 1);
    CHECK(data_of(21, 10).held_out_sequences() == 1);
    CHECK(data_of(21, 10, 0.99).training_sequences() == 1);
    CHECK(data_of(201, 10, 0.0).held_out_sequences() == 0);
  }
  TEST_CASE("bytes above 127 are tokens above 127") {
    CHECK(token_stream::from_bytes("\xff\x80z")[0] == 255);
    CHECK(token_stream::from_bytes("\xff\x80z")[1] == 128);
  }
  TEST_CASE("data shorter than a batch are refused with the tokens that would just do") {
    const std::string text = reason([] { data_of(100, 10).require_batch(16); });
    CHECK(has(text, "the data have 100 tokens"));
    CHECK(has(text, "a batch of 16 sequences of 10 needs 171"));
    CHECK(reason([] { data_of(171, 10).require_batch(16); }) == "");
    CHECK(reason([] { data_of(170, 10).require_batch(16); }) != "");
    CHECK(has(reason([] { data_of(10, 10); }), "the data have 10 tokens, one sequence of 10 needs 11"));
    CHECK(has(reason([] { data_of(100, 10, 1.01); }), "held-out share"));
    CHECK(has(reason([] { data_of(100, 0); }), "at least 1 token"));
  }
  TEST_CASE("the tokens asked for are the fewest that do, for any share, and an absurd batch is refused at once") {
    for (const double share : {0.0, 0.05, 0.3, 0.5, 0.9})
      for (extent_t batch = 2; batch < 60; ++batch) {
        const std::string text = reason([&] { data_of(2, 1, share).require_batch(batch); }), before = "of 1 needs ";
        const extent_t bytes = std::stoll(text.substr(text.find(before) + before.size()));
        CAPTURE(text);
        CHECK(data_of(std::size_t(bytes), 1, share).training_sequences() >= batch);
        CHECK(data_of(std::size_t(bytes - 1), 1, share).training_sequences() < batch);
      }
    const auto asked = [](extent_t batch, double share) { return reason([&] { data_of(100, 10, share).require_batch(batch); }); };
    CHECK(has(asked(1'000'000'000'000'000, 0.05), "needs 10526315789473681 (held-out"));
    CHECK(has(asked(1'000'000'000'000'000, 0.0), "needs 10000000000000001;"));
    CHECK(has(asked(std::numeric_limits<extent_t>::max(), 0.05), "needs more than can be counted (held-out"));
    CHECK(has(asked(1'000'000'000'000'000, 0.9999999), "needs more than can be counted (held-out"));
  }
  TEST_CASE("files are read one after another, byte for byte") {
    const temporary_folder folder;
    const std::string big(200000, 'x');
    const auto text = token_stream::from_files({folder.put("a", big), folder.put("b", std::string("\0\r\n\xfe", 4))}, disk());
    CHECK(text.size() == 200004);
    CHECK(text[199999] == 'x');
    CHECK(text[200000] == 0);
    CHECK(text[200001] == '\r');
    CHECK(text[200003] == 254);
  }
  TEST_CASE("a missing, empty or unreadable file is named") {
    const temporary_folder folder;
    const std::string good = folder.put("good", "text");
    CHECK(has(reason([&] { token_stream::from_files({good, "/no/such/file"}, disk()); }), "there is no file '/no/such/file'"));
    CHECK(has(reason([&] { token_stream::from_files({good, folder.put("empty", "")}, disk()); }), "empty' is empty"));
    CHECK(has(reason([&] { token_stream::from_files({folder.path.string()}, disk()); }), "cannot open '" + folder.path.string()));
    CHECK(has(reason([&] { token_stream::from_files({}, disk()); }), "no data file given"));
  }
  TEST_CASE("order-0 entropy of equally frequent letters is the logarithm of their number") {
    CHECK(order0_entropy(token_stream::from_bytes("abcdabcd")) == doctest::Approx(std::log(4.0)));
    CHECK(order0_entropy(token_stream::from_bytes("aaaa")) == 0);
    CHECK(order0_entropy(token_stream::from_bytes("aaaabbbb"), 4, 4) == 0);
    CHECK(order0_entropy(token_stream::from_bytes("")) == 0);
  }
  TEST_CASE("training and held-out entropy are those of the labels of their parts") {
    const dataset data(token_stream::from_bytes("aaaaabababab"), 4, 1, 0.5, false);  // one sequence trained on, one held out
    CHECK(data.training_entropy() == 0);                                             // labels aaaa
    CHECK(data.held_out_entropy() == doctest::Approx(std::log(2.0)));                // labels baba
  }
  TEST_CASE("the ranks' micro-batches hold every sample of a step exactly once") {
    for (extent_t ranks : {1, 2, 4})
      for (extent_t b : {1, 2, 3}) {
        std::set<extent_t> seen;
        for (extent_t rank = 0; rank < ranks; ++rank) {
          const batch_part part{24, b, ranks, rank};
          for (extent_t m = 0; m < part.micro_batches(); ++m)
            for (extent_t i = 0; i < b; ++i) seen.insert(part.sample(5, m, i));
        }
        CHECK(seen.size() == 24);
        CHECK(*seen.begin() == 120);
        CHECK(*seen.rbegin() == 143);
      }
  }
  TEST_CASE("micro-batch m of rank d starts at sample (m * DP + d) * B") {
    CHECK(batch_part{16, 2, 4, 3}.sample(0, 1, 0) == (1 * 4 + 3) * 2);
  }
  TEST_CASE("of a blend every source is shuffled and repeated on its own, and no held-out sequence is trained on") {
    const dataset data(two_sources(5, 101, 156), weights({1, 3}), 9, 0.2);  // 20 and 31 sequences; 4 and 6 held out
    CHECK(data.training_sequences() == 41);
    CHECK(data.held_out_sequences() == 10);
    CHECK(data.tokens() == 257);
    std::vector<std::vector<extent_t>> seen(2);
    for (extent_t g = 0; g < 400; ++g) {
      const extent_t index = data.sequence_index(g);
      CHECK((index < 16 || (index >= 20 && index < 45)));
      seen[index >= 20].push_back(index);
    }
    CHECK(seen[0].size() == 100);
    CHECK(seen[1].size() == 300);
    for (std::size_t s = 0; s < 2; ++s) {
      const std::size_t n = s == 0 ? 16 : 25;
      for (std::size_t epoch = 0; (epoch + 1) * n <= seen[s].size(); ++epoch) {
        const auto from = seen[s].begin() + std::ptrdiff_t(epoch * n);
        CHECK(std::set<extent_t>(from, from + std::ptrdiff_t(n)).size() == n);
      }
      CHECK(!std::equal(seen[s].begin(), seen[s].begin() + std::ptrdiff_t(n), seen[s].begin() + std::ptrdiff_t(n)));
    }
    std::vector<std::int32_t> tokens(5), labels(5);
    data.training_sample(0, tokens, labels);
    CHECK((tokens[0] >= 100) == (data.sequence_index(0) >= 20));
  }
  TEST_CASE("sources of the same size are shuffled differently") {
    const dataset data(two_sources(5, 101, 101), weights({1, 1}), 9, 0.0);
    std::vector<extent_t> first, second;
    for (extent_t g = 0; g < 40; ++g) {
      const extent_t index = data.sequence_index(g);
      index < 20 ? first.push_back(index) : second.push_back(index - 20);
    }
    CHECK(first.size() == 20);
    CHECK(first != second);
  }
  TEST_CASE("evaluation sees every held-out sequence of a blend once, the sources mixed") {
    const dataset data(two_sources(5, 501, 501), weights({1, 9}), 9, 0.5);
    std::set<extent_t> seen;
    int of_first = 0;
    dataset noted = data;
    noted.set_edit([&](extent_t index, auto, auto) { seen.insert(index); });
    std::vector<std::int32_t> tokens(5), labels(5);
    for (extent_t i = 0; i < 100; ++i) {
      noted.evaluation_sample(i, tokens, labels);
      of_first += i < 50 && tokens[0] < 100;
    }
    CHECK(seen.size() == 100);
    for (const extent_t index : seen) CHECK(index % 100 >= 50);
    CHECK(of_first > 10);
    CHECK(of_first < 40);
  }
  TEST_CASE("with everything held out evaluation goes over all sequences in file order") {
    const dataset data(two_sources(5, 51, 36), weights({1, 9}), 9, 1.0);
    CHECK(data.training_sequences() == 0);
    CHECK(data.held_out_sequences() == 17);
    CHECK_NOTHROW(data.require_batch(8));
    std::vector<std::int32_t> tokens(5), labels(5);
    for (extent_t i = 0; i < 17; ++i) {
      data.evaluation_sample(i, tokens, labels);
      CHECK(tokens[0] == (i < 10 ? 5 * i : 100 + 5 * (i - 10)));
      CHECK(labels[4] == tokens[0] + 5);
    }
    CHECK_THROWS_AS(data.evaluation_sample(17, tokens, labels), error);
    CHECK(has(reason([&] { data.training_sample(0, tokens, labels); }), "all sequences are held out"));
  }
  TEST_CASE("documents begin after the end token, where the source says, and at the later of both") {
    const auto starts_of = [](const dataset& data, extent_t g) {
      std::vector<std::int32_t> tokens(6), labels(6), starts(6, 99);
      data.training_sample(g, tokens, labels, starts);
      return starts;
    };
    const auto text = [](const char* t) { return std::make_shared<token_stream>(token_stream::from_bytes(t)); };
    const auto both = std::make_shared<joined_tokens>(std::vector<shared_tokens>{text("ab.c"), text("d.efghij")});
    dataset data({token_sequences(both, 6, {-1, true, false})}, {}, 1, 0.0, false);  // ab.c|d.  efghij (12 tokens: 1 sequence)
    CHECK(data.has_documents());
    CHECK(starts_of(data, 0) == std::vector<std::int32_t>{0, 0, 0, 0, 4, 4});
    data.end_documents_after('.');
    CHECK(starts_of(data, 0) == std::vector<std::int32_t>{0, 0, 0, 3, 4, 4});
    dataset plain({token_sequences(both, 6)}, {}, 1, 0.0, false);
    CHECK(!plain.has_documents());
    CHECK(starts_of(plain, 0) == std::vector<std::int32_t>{0, 0, 0, 0, 0, 0});
    plain.end_documents_after('.');
    CHECK(plain.has_documents());
    CHECK(starts_of(plain, 0) == std::vector<std::int32_t>{0, 0, 0, 3, 3, 3});
    plain.set_edit([](extent_t, std::span<std::int32_t> tokens, auto) { tokens[3] = '.'; });  // documents are those of the edited tokens
    CHECK(starts_of(plain, 0) == std::vector<std::int32_t>{0, 0, 0, 3, 4, 4});
  }
  TEST_CASE("data too large to look at are checked as they are read, naming the token") {
    const auto large = std::make_shared<endless>(dataset::most_scanned + 1);
    dataset data({token_sequences(large, 10000)}, {}, 1, 0.0, false);
    CHECK(std::isnan(data.training_entropy()));
    CHECK(has(reason([&] { data.require_vocabulary(100000); }), "too many to look for one"));
    data.set_vocabulary(65536);
    CHECK_NOTHROW(data.require_vocabulary(65536));
    CHECK_THROWS_AS(data.require_vocabulary(65535), config_error);
    std::vector<std::int32_t> tokens(10000), labels(10000);
    data.training_sample(5, tokens, labels);
    CHECK(has(reason([&] { data.training_sample(6, tokens, labels); }), "token 65536 is 65536 and the model has a vocabulary of 65536"));
    data.set_vocabulary(20000);
    CHECK(has(reason([&] { data.training_sample(1, tokens, labels); }), "token 20000 is 20000"));  // a label only
    dataset small({token_sequences(std::make_shared<endless>(100001), 10)}, {}, 1);
    CHECK(has(reason([&] { small.require_vocabulary(69999); }), "the data have token 69999 and the model a vocabulary of 69999"));
    CHECK_NOTHROW(small.require_vocabulary(70000));
  }
  TEST_CASE("the entropy of a blend is that of its mixture") {
    std::vector<token_sequences> sources;
    for (const char c : {'a', 'b'})
      sources.emplace_back(std::make_shared<token_stream>(token_stream::from_bytes(std::string(c == 'a' ? 11 : 101, c))), 10);
    const dataset data(std::move(sources), weights({1, 3}), 1, 0.0);
    CHECK(data.training_entropy() == doctest::Approx(-0.25 * std::log(0.25) - 0.75 * std::log(0.75)));
  }
  TEST_CASE("sources that do not fit together are refused") {
    CHECK(has(reason([] { dataset(two_sources(5), {}, 1); }), "a blend of 1 sources was given 2"));
    CHECK(has(reason([] {
                auto sources = two_sources(5);
                sources[1] = two_sources(6)[1];
                dataset(sources, weights({1, 1}), 1);
              }),
              "sequences of 5 and of 6 tokens cannot be mixed"));
    CHECK(has(reason([] {
                dataset(two_sources(5), weights({1, 1}), 1).require_batch(99);
              }),
              "the data make 47 sequences of 5 tokens to train on, and a batch has 99"));
  }
  TEST_CASE("datasets that give other samples say another identity, and the same ones the same") {
    std::set<std::string> said;
    const auto note = [&](const dataset& data) { return said.insert(data.identity()).second; };
    const dataset plain = data_of(1000, 10);
    CHECK(has(plain.identity(), "1 source, 94 sequences of 10 tokens, shuffled, #"));
    CHECK(note(plain));
    CHECK(!note(data_of(1000, 10)));
    CHECK(!note(data_of(1000, 10, 0.05, 7)));  // the seed is said elsewhere
    CHECK(note(data_of(1001, 10)));
    CHECK(note(data_of(1000, 10, 0.06)));
    CHECK(note(data_of(1000, 10, 0.05, 1, false)));
    CHECK(note(data_of(1000, 11)));
    std::string other = letters(1000);
    other[999] = '!';
    CHECK(note(dataset(token_stream::from_bytes(other), 10, 1)));
    dataset ended = plain;
    ended.end_documents_after('z');
    CHECK(note(ended));
    CHECK(note(dataset(two_sources(5), weights({1, 2}), 1)));
    CHECK(note(dataset(two_sources(5), weights({1, 3}), 1)));
    CHECK(note(dataset(two_sources(5, 100, 156, {-1, true, false}), weights({1, 3}), 1)));
    CHECK(has(dataset(two_sources(5, 51, 36), weights({1, 3}), 1, 1.0).identity(), "2 sources, 0 sequences"));
  }
}
