#include <moefold/train/data_options.hpp>

#include <support/token_files.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

std::vector<std::int32_t> counted(std::int32_t first, std::size_t n) {
  std::vector<std::int32_t> out(n);
  for (std::size_t i = 0; i < n; ++i) out[i] = first + std::int32_t(i);
  return out;
}
data_options of(std::vector<std::string> files, data_format format) {
  data_options o;
  o.files = std::move(files);
  o.format = format;
  o.shuffle = false;
  o.held_out_share = 0;
  return o;
}
std::vector<std::int32_t> tokens_of(const dataset& data, extent_t g) {
  std::vector<std::int32_t> tokens(std::size_t(data.sequence())), labels(tokens);
  data.training_sample(g, tokens, labels);
  return tokens;
}
std::vector<std::int32_t> starts_of(const dataset& data, extent_t g) {
  std::vector<std::int32_t> tokens(std::size_t(data.sequence())), labels(tokens), starts(tokens);
  data.training_sample(g, tokens, labels, starts);
  return starts;
}
std::string reason(const data_options& options) {
  try {
    make_dataset(options, 4, 1);
  } catch (const config_error& e) {
    return e.what();
  }
  return "";
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
using numbers = std::vector<std::int32_t>;

}  // namespace

TEST_SUITE("train/data_options") {
  TEST_CASE("the same tokens in any format make the same samples, shuffled or not") {
    const temporary_folder folder;
    const auto values = counted(0, 128);
    folder.put("x.idx", megatron_index({60, 8, 60}, 4, 4).bytes());
    folder.put("x.bin", numbers_as<std::int32_t>(values));
    const std::vector<data_options> all{of({folder.put("a", numbers_as<std::uint8_t>(values))}, data_format::bytes),
                                        of({folder.put("b", numbers_as<std::uint16_t>(values))}, data_format::u16),
                                        of({folder.put("c", numbers_as<std::uint32_t>(values))}, data_format::u32),
                                        of({folder.file("x")}, data_format::megatron),
                                        of({folder.put("d", llmc_bytes(values, 2))}, data_format::llmc),
                                        of({folder.put("e", llmc_bytes(values, 4))}, data_format::llmc)};
    for (data_options options : all) {
      const dataset data = make_dataset(options, 4, 1);
      REQUIRE(data.training_sequences() == 31);
      for (extent_t g = 0; g < 31; ++g) CHECK(tokens_of(data, g) == counted(std::int32_t(4 * g), 4));
      options.shuffle = true;
      options.held_out_share = 0.1;
      const dataset mixed = make_dataset(options, 4, 1),
                    first = make_dataset({all[0].files, data_format::bytes, {}, true, -1, false, false, 0.1}, 4, 1);
      for (extent_t g = 0; g < 60; ++g) CHECK(tokens_of(mixed, g) == tokens_of(first, g));
    }
  }
  TEST_CASE("files without weights are one text, and with weights each is a source of its own") {
    const temporary_folder folder;
    const std::string a = folder.put("a", numbers_as<std::uint16_t>(counted(0, 6))),
                      b = folder.put("b", numbers_as<std::uint16_t>(counted(100, 7)));
    data_options options = of({a, b}, data_format::u16);
    const dataset one = make_dataset(options, 4, 1);
    CHECK(one.sources() == 1);
    CHECK(tokens_of(one, 1) == numbers{4, 5, 100, 101});
    CHECK(!one.has_documents());
    options.weights = {1, 3};
    const dataset two = make_dataset(options, 4, 1);
    CHECK(two.sources() == 2);
    int of_b = 0;
    for (extent_t g = 0; g < 40; ++g) of_b += tokens_of(two, g) == numbers{100, 101, 102, 103};
    CHECK(of_b == 30);
    options.weights.clear();
    options.document_marks = true;
    CHECK(starts_of(make_dataset(options, 4, 1), 1) == numbers{0, 0, 2, 2});
  }
  TEST_CASE("documents are those of the file, of the end token, and are packed where asked for") {
    const temporary_folder folder;
    const numbers values{1, 2, 9, 3, 4, 5, 9, 6, 7, 9, 8, 8, 9};
    folder.put("x.idx", megatron_index({3, 4, 6}).bytes());
    folder.put("x.bin", numbers_as<std::uint16_t>(values));
    data_options options = of({folder.file("x.bin")}, data_format::megatron);
    CHECK(!make_dataset(options, 4, 1).has_documents());
    options.document_marks = true;
    CHECK(starts_of(make_dataset(options, 4, 1), 1) == numbers{0, 0, 0, 3});
    options.document_marks = false, options.document_end = 9;
    CHECK(starts_of(make_dataset(options, 4, 1), 2) == numbers{0, 0, 2, 2});
    options.pack = true;  // documents 1 2 (9), 3 4 5 (9), 6 7 (9), 8 8 (9): of 2, 3, 2 and 2 tokens with a label
    const dataset by_token = make_dataset(options, 4, 1);
    CHECK(by_token.training_sequences() == 3);
    CHECK(tokens_of(by_token, 0) == numbers{1, 2, 6, 7});
    CHECK(starts_of(by_token, 0) == numbers{0, 0, 2, 2});
    CHECK(tokens_of(by_token, 1) == numbers{3, 4, 5, -1});
    options.document_end = -1;  // those of the index: 2, 3 and 5, of which the last is cut after 4
    const dataset by_file = make_dataset(options, 4, 1);
    CHECK(by_file.training_sequences() == 3);
    CHECK(tokens_of(by_file, 2) == numbers{6, 7, 9, 8});
    CHECK(tokens_of(by_file, 0) == numbers{1, 2, -1, -1});
    CHECK(tokens_of(by_file, 1) == numbers{3, 4, 5, 8});
    CHECK(starts_of(by_file, 1) == numbers{0, 0, 0, 3});
  }
  TEST_CASE("small text files stay what they were, larger formats say that they changed") {
    const temporary_folder folder;
    const std::string path = folder.put("a", "abcdefgh");
    const dataset text = make_dataset(of({path}, data_format::bytes), 4, 1), wide = make_dataset(of({path}, data_format::u16), 2, 1);
    folder.put("a", "somebody edits it");
    CHECK(tokens_of(text, 0) == numbers{'a', 'b', 'c', 'd'});
    CHECK_THROWS_WITH_AS(tokens_of(wide, 0), doctest::Contains("when it was opened"), format_error);
  }
  TEST_CASE("options that contradict each other are refused, and files that are none") {
    const temporary_folder folder;
    const std::string a = folder.put("a", "abcdefgh"), b = folder.put("b", "abcdefgh");
    CHECK(has(reason(of({}, data_format::u16)), "no data file given"));
    data_options options = of({a, b}, data_format::bytes);
    options.weights = {1};
    CHECK(has(reason(options), "2 data files have 1 weights; give each file one, or none to any"));
    options.weights = {1, -1};
    CHECK(has(reason(options), "a weight is a positive finite number"));
    options.weights.clear();
    options.document_end = -2;
    CHECK(has(reason(options), "(given -2)"));
    CHECK(has(reason(of({folder.put("none", "")}, data_format::bytes)), "none' is empty"));
    CHECK(has(reason(of({folder.put("odd", "abc")}, data_format::u16)), "odd' at byte 2"));
    CHECK(has(reason(of({folder.file("nowhere")}, data_format::megatron)), "nowhere.idx'"));
    options = of({a}, data_format::bytes);
    options.vocabulary = 100;
    CHECK_NOTHROW(make_dataset(options, 4, 1));  // the trainer says which tokens do not fit
    CHECK_THROWS_AS(make_dataset(options, 4, 1).require_vocabulary(100), config_error);
  }
}
