#include <moefold/train/token_index.hpp>

#include <support/token_files.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

using numbers = std::vector<std::int32_t>;
numbers tokens_of(const token_source& from) {
  numbers out(static_cast<std::size_t>(from.size()));
  from.read(0, out);
  return out;
}
std::vector<extent_t> documents_of(const token_source& from) { return {from.documents().begin(), from.documents().end()}; }

// Opens and reads an index with a .bin of so many bytes; the error, or nothing.
struct bench {
  temporary_folder folder;
  std::string refused(const std::string& idx, std::size_t bin_bytes = 20) const {
    const auto prefix = folder.file("x");
    folder.put("x.idx", idx);
    folder.put("x.bin", std::string(bin_bytes, '\1'));
    try {
      tokens_of(*open_megatron_tokens(disk(), prefix, true));
    } catch (const format_error& e) {
      return e.what();
    }
    return "";
  }
  template <class Change>
  std::string with(Change&& change, std::size_t bin_bytes = 20) const {
    megatron_index index({2, 5, 0, 3});  // of 2 bytes: 20 bytes
    change(index);
    return refused(index.bytes(), bin_bytes);
  }
};
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
constexpr std::int64_t huge = std::numeric_limits<std::int64_t>::max();

}  // namespace

TEST_SUITE("train/token_index") {
  TEST_CASE("the sequences of every integer kind are read in order, named with or without a suffix") {
    const temporary_folder folder;
    const numbers values{5, 0, 127, 3, 1, 9, 2};
    const auto check = [&](std::uint8_t kind, int width, const std::string& bytes) {
      folder.put("x.idx", megatron_index({3, 4}, width, kind).bytes());
      folder.put("x.bin", bytes);
      for (const char* name : {"x", "x.idx", "x.bin"}) CHECK(tokens_of(*open_megatron_tokens(disk(), folder.file(name))) == values);
      const auto file = open_megatron_tokens(disk(), folder.file("x"));
      CHECK(dynamic_cast<const token_file&>(*file).runs().size() == 1);
    };
    check(1, 1, numbers_as<std::uint8_t>(values));
    check(2, 1, numbers_as<std::int8_t>(values));
    check(3, 2, numbers_as<std::int16_t>(values));
    check(4, 4, numbers_as<std::int32_t>(values));
    check(5, 8, numbers_as<std::int64_t>(values));
    check(8, 2, numbers_as<std::uint16_t>(values));
  }
  TEST_CASE("documents begin where the index says, empty ones apart; modes are left alone") {
    const temporary_folder folder;
    megatron_index index({2, 5, 0, 3, 1}, 2, 8, 2);  // documents of 2 sequences: 7, 3 and 1 tokens
    index.modes = {0, 1, 0, 1, 0};
    folder.put("x.bin", std::string(22, '\1'));
    folder.put("x.idx", index.bytes());
    CHECK(documents_of(*open_megatron_tokens(disk(), folder.file("x"), true)) == std::vector<extent_t>{0, 7, 10});
    CHECK(documents_of(*open_megatron_tokens(disk(), folder.file("x"))) == std::vector<extent_t>{0});
    index.documents = {0, 0, 2, 3, 3, 5, 5};  // empty ones at both ends, and the one of an empty sequence
    index.document_count = 7;
    folder.put("x.idx", index.bytes());
    CHECK(documents_of(*open_megatron_tokens(disk(), folder.file("x"), true)) == std::vector<extent_t>{0, 7});
  }
  TEST_CASE("documents without tokens at the end begin nowhere") {
    const temporary_folder folder;
    folder.put("x.idx", megatron_index({2, 3, 0, 0}).bytes());
    folder.put("x.bin", std::string(10, '\1'));
    CHECK(documents_of(*open_megatron_tokens(disk(), folder.file("x"), true)) == std::vector<extent_t>{0, 2});
  }

  TEST_CASE("sequences that lie apart in the .bin are read, as an index of a choice of them has it") {
    const temporary_folder folder;
    numbers values(30);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::int32_t(i);
    megatron_index index({2, 0, 3, 1});
    index.places = {4, 20, 20, 26};  // bytes; the last two touch
    folder.put("x.idx", index.bytes());
    folder.put("x.bin", numbers_as<std::uint16_t>(values));
    const auto tokens = open_megatron_tokens(disk(), folder.file("x"), true);
    CHECK(tokens_of(*tokens) == numbers{2, 3, 10, 11, 12, 13});
    CHECK(dynamic_cast<const token_file&>(*tokens).runs().size() == 2);
    CHECK(documents_of(*tokens) == std::vector<extent_t>{0, 2, 5});
  }
  TEST_CASE("an index longer than a block is read whole") {
    const temporary_folder folder;
    std::vector<std::int32_t> lengths(50000);
    extent_t tokens = 0;
    std::vector<extent_t> starts;
    for (std::size_t s = 0; s < lengths.size(); ++s) starts.push_back(tokens), tokens += lengths[s] = 1 + std::int32_t(s % 3);
    folder.put("x.idx", megatron_index(lengths).bytes());
    folder.put("x.bin", std::string(std::size_t(2 * tokens), '\0'));
    const auto all = open_megatron_tokens(disk(), folder.file("x"), true);
    CHECK(all->size() == tokens);
    CHECK(documents_of(*all) == starts);
  }
  TEST_CASE("malformed indices are refused with the byte that is wrong (F22)") {
    const bench on;
    using index = megatron_index;
    int cases = 0;
    const auto refused = [&](auto&& change, const std::string& needed, std::size_t bin_bytes = 20) {
      ++cases;
      const std::string said = on.with(change, bin_bytes);
      CAPTURE(said);
      CAPTURE(needed);
      CHECK(has(said, needed));
    };
    CHECK(on.with([](index&) {}) == "");
    refused([](index& i) { i.magic[0] = 'm'; }, "at byte 0: does not begin with MMIDIDX");
    refused([](index& i) { i.magic[8] = 1; }, "at byte 0: does not begin");
    refused([](index& i) { i.version = 2; }, "at byte 9: has version 2, needed 1");
    refused([](index& i) { i.version = std::uint64_t{1} << 63; }, "has version 9223372036854775808");
    // counts: products and sums that overflow 64 bits to something small, and ones that only exceed the file
    refused([](index& i) { i.sequence_count = std::uint64_t{1} << 63; }, "at byte 18: says it has 9223372036854775808 sequences");
    refused([](index& i) { i.sequence_count = std::uint64_t{1} << 62; }, "more than 2^64");
    refused([](index& i) { i.sequence_count = std::uint64_t{1} << 61; }, "more than 2^64");
    refused([](index& i) { i.sequence_count = ~std::uint64_t{0}; }, "more than 2^64");
    refused([](index& i) { i.document_count = std::uint64_t{1} << 63; }, "more than 2^64");
    refused([](index& i) { i.document_count = std::uint64_t{1} << 61; }, "more than 2^64");
    refused([](index& i) { i.sequence_count = (std::uint64_t{1} << 60) + 1, i.document_count = (std::uint64_t{1} << 60) + 1; },
            "more than 2^64");
    refused([](index& i) { i.sequence_count = 5; }, "at byte 18: says it has 5 sequences");
    refused([](index& i) { i.sequence_count = 3; }, "at byte 18: says it has 3 sequences");
    refused([](index& i) { i.document_count = 6; }, "6 document marks");
    refused([](index& i) { i.document_count = 4; }, "4 document marks: 114 bytes, or with modes one more");
    refused([](index& i) { i.document_count = 0, i.documents.clear(); }, "at byte 26: has no document marks");
    refused([](index& i) { i.modes = {0, 0, 0}; }, "at byte 18");
    refused([](index& i) { i.modes = {0, 0, 0, 0, 0}; }, "at byte 18");
    // lengths at byte 34, places at 50, documents at 82
    refused([](index& i) { i.lengths[1] = -1; }, "at byte 38: sequence 1 has -1 tokens");
    refused([](index& i) { i.lengths[3] = std::numeric_limits<std::int32_t>::min(); }, "at byte 46: sequence 3 has -2147483648 tokens");
    refused([](index& i) { i.lengths[3] = std::numeric_limits<std::int32_t>::max(); },
            "at byte 74: sequence 3 has 2147483647 tokens of 2 bytes");
    refused([](index& i) { i.lengths[3] = 4; }, "at byte 74: sequence 3 has 4 tokens of 2 bytes from byte 14 of the .bin, which has 20");
    refused([](index& i) { i.lengths[0] = 3; }, "at byte 58: sequence 1 begins at byte 4 of the .bin, and the one before ends at 6");
    refused([](index& i) { i.places[0] = -2; }, "at byte 50: sequence 0 begins at byte -2");
    refused([](index& i) { i.places[3] = 15; }, "at byte 74: sequence 3 begins at byte 15 of the .bin, needed a multiple of 2");
    refused([](index& i) { i.places[3] = 12; }, "at byte 74: sequence 3 begins at byte 12");
    refused([](index& i) { i.places[3] = 0; }, "at byte 74: sequence 3 begins at byte 0");
    refused([](index& i) { i.places[2] = 22; }, "at byte 66: sequence 2 has 0 tokens of 2 bytes from byte 22");
    refused([](index& i) { i.places[3] = 16; }, "at byte 74: sequence 3 has 3 tokens");
    refused([](index& i) { i.places[3] = huge - 1; }, "at byte 74: sequence 3 has 3 tokens");
    refused([](index& i) { i.places[1] = huge - 1; }, "at byte 58");
    refused([](index& i) { i.places[1] = std::numeric_limits<std::int64_t>::min(); }, "at byte 58");
    refused([](index&) {}, "belongs to another index", 18);
    refused([](index&) {}, "belongs to another index", 0);
    refused([](index& i) { i.documents[0] = 1; }, "at byte 82: the first document begins with sequence 1, needed 0");
    refused([](index& i) { i.documents[0] = -1; }, "at byte 82: the first document begins with sequence -1");
    refused([](index& i) { i.documents[2] = 0; }, "at byte 98: a document begins with sequence 0 after one that begins with 1");
    refused([](index& i) { i.documents[1] = -5; }, "at byte 90: a document begins with sequence -5");
    refused([](index& i) { i.documents[1] = 5; },
            "at byte 90: a document begins with sequence 5 after one that begins with 0, of 4 sequences");
    refused([](index& i) { i.documents[4] = huge; }, "at byte 114: a document begins with sequence 9223372036854775807");
    refused([](index& i) { i.documents[4] = 3; }, "at byte 114: the last document ends with sequence 3, needed 4");
    refused([](index& i) { i.lengths = {0, 0, 0, 0}, i.places = {0, 0, 0, 0}; }, "has no tokens");
    refused([](index& i) { i = index(std::vector<std::int32_t>{}); }, "has no tokens");
    CHECK(cases >= 30);
  }
  TEST_CASE("of the 256 kinds of number only the six of integers are taken") {
    const bench on;
    for (int kind = 0; kind < 256; ++kind) {
      const int width = kind == 4 ? 4 : kind == 5 ? 8 : kind <= 2 ? 1 : 2;
      const std::string said = on.refused(megatron_index({2, 3}, width, std::uint8_t(kind)).bytes(), std::size_t(5 * width));
      const bool integers = (kind >= 1 && kind <= 5) || kind == 8;
      CAPTURE(kind);
      if (kind == 5)
        CHECK(has(said, "there is 72340172838076673, and a token id"));  // 8 bytes of 1
      else if (integers)
        CHECK(said == "");
      else
        CHECK(has(said,
                  sentence("at byte 17: the kind of number is ", kind, kind == 6 || kind == 7 ? ", floating point" : ", which is none")));
    }
  }
  TEST_CASE("an index or a .bin cut at any byte, or lengthened, is refused or reads the same tokens") {
    const bench on;
    const std::string whole = megatron_index({2, 5, 0, 3}).bytes();
    for (std::size_t n = 0; n < whole.size(); ++n) CHECK(on.refused(whole.substr(0, n)) != "");
    for (std::size_t n = 0; n < 20; ++n) CHECK(on.refused(whole, n) != "");
    CHECK(on.refused(whole + "a") != "");
    CHECK(on.refused(whole, 21) == "");  // an index may speak of a part of the .bin only
  }
  TEST_CASE("whichever bit of an index is flipped, it is refused or read within the .bin") {
    const bench on;
    const std::string whole = megatron_index({2, 5, 0, 3}).bytes();
    int refused = 0;
    for (std::size_t bit = 0; bit < 8 * whole.size(); ++bit) {
      std::string bytes = whole;
      bytes[bit / 8] = char(bytes[bit / 8] ^ (1 << (bit % 8)));
      refused += on.refused(bytes) != "";
    }
    CHECK(refused > int(8 * whole.size()) - 80);  // shorter lengths, later places, other documents are well-formed
  }
  TEST_CASE("a .bin that changes after it was opened is an error at the next read") {
    const temporary_folder folder;
    folder.put("x.idx", megatron_index({2, 5, 0, 3}).bytes());
    folder.put("x.bin", std::string(20, '\1'));
    const auto tokens = open_megatron_tokens(disk(), folder.file("x"));
    for (const std::uintmax_t bytes : {22, 18, 0}) {
      std::filesystem::resize_file(folder.file("x.bin"), bytes);
      CHECK_THROWS_WITH_AS(tokens_of(*tokens), doctest::Contains("when it was opened"), format_error);
    }
  }
  TEST_CASE("either file that is missing is named") {
    const temporary_folder folder;
    CHECK_THROWS_WITH_AS(open_megatron_tokens(disk(), folder.file("x")), doctest::Contains("/x.idx'"), config_error);
    folder.put("x.idx", megatron_index({2}).bytes());
    CHECK_THROWS_WITH_AS(open_megatron_tokens(disk(), folder.file("x")), doctest::Contains("/x.bin'"), config_error);
    CHECK(megatron_prefix(".bin") == ".bin");
  }
}
