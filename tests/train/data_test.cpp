#include <moefold/train/data.hpp>

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
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

struct temporary_folder {
  std::filesystem::path path;
  temporary_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "moefold_data_XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~temporary_folder() { std::filesystem::remove_all(path); }
  std::string file(const char* name, const std::string& bytes) const {
    std::ofstream(path / name, std::ios::binary) << bytes;
    return (path / name).string();
  }
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
    const auto text = token_stream::from_files({folder.file("a", big), folder.file("b", std::string("\0\r\n\xfe", 4))});
    CHECK(text.size() == 200004);
    CHECK(text[199999] == 'x');
    CHECK(text[200000] == 0);
    CHECK(text[200001] == '\r');
    CHECK(text[200003] == 254);
  }
  TEST_CASE("a missing, empty or unreadable file is named") {
    const temporary_folder folder;
    const std::string good = folder.file("good", "text");
    CHECK(has(reason([&] { token_stream::from_files({good, "/no/such/file"}); }), "there is no file '/no/such/file'"));
    CHECK(has(reason([&] { token_stream::from_files({good, folder.file("empty", "")}); }), "empty' is empty"));
    CHECK(has(reason([&] { token_stream::from_files({folder.path.string()}); }), "cannot open '" + folder.path.string()));
    CHECK(has(reason([&] { token_stream::from_files({}); }), "no data file given"));
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
}
