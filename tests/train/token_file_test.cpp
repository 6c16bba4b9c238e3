#include <moefold/train/token_file.hpp>

#include <support/token_files.hpp>

#include <doctest/doctest.h>

#include <thread>

using namespace moefold;

namespace {

std::vector<std::int32_t> tokens_of(const token_source& from, extent_t first, extent_t count) {
  std::vector<std::int32_t> out(static_cast<std::size_t>(count));
  from.read(first, out);
  return out;
}
std::vector<std::int32_t> tokens_of(const token_source& from) { return tokens_of(from, 0, from.size()); }
using numbers = std::vector<std::int32_t>;

template <class Error = format_error, class F>
std::string reason(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}
bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace

TEST_SUITE("train/token_file") {
  TEST_CASE("every format has its name, and another name is answered with all of them") {
    for (const data_format f : {data_format::bytes, data_format::u16, data_format::u32, data_format::megatron, data_format::llmc})
      CHECK(data_format_of(name_of(f)) == f);
    CHECK_THROWS_WITH_AS(data_format_of("numpy\n"), doctest::Contains("'numpy?'; choose bytes, u16, u32, megatron or llmc"), config_error);
  }
  TEST_CASE("plain files hold little-endian tokens of their width") {
    const temporary_folder folder;
    const std::string path = folder.put("a", std::string("\x01\x02\xff\xfe\x05\x00\x00\x00", 8));
    CHECK(tokens_of(*open_plain_tokens(disk(), path, token_kind::u8)) == numbers{1, 2, 255, 254, 5, 0, 0, 0});
    CHECK(tokens_of(*open_plain_tokens(disk(), path, token_kind::u16)) == numbers{0x0201, 0xfeff, 5, 0});
    CHECK(open_plain_tokens(disk(), path, token_kind::u16)->largest_possible() == 65535);
    const auto wide = open_plain_tokens(disk(), path, token_kind::u32);
    CHECK(wide->size() == 2);
    CHECK(wide->largest_possible() == 2147483647);
    CHECK(tokens_of(*wide, 1, 1) == numbers{5});
    CHECK(wide->describe(1) == "token 1 of '" + path + "'");
    CHECK(has(reason([&] { tokens_of(*wide); }), "'" + path + "' at byte 0: there is 4278125057, and a token id lies in 0 .. 2^31 - 1"));
  }
  TEST_CASE("a file that ends inside a token, or has none, is refused") {
    const temporary_folder folder;
    CHECK(has(reason([&] { open_plain_tokens(disk(), folder.put("odd", "abc"), token_kind::u16); }),
              "at byte 2: ends inside a token: 3 bytes"));
    CHECK(has(reason([&] { open_plain_tokens(disk(), folder.put("six", "abcdef"), token_kind::u32); }), "at byte 4: ends inside a token"));
    CHECK(has(reason([&] { open_plain_tokens(disk(), folder.put("none", ""), token_kind::u16); }), "has no tokens"));
    CHECK(has(reason<config_error>([&] { open_plain_tokens(disk(), folder.file("nowhere"), token_kind::u16); }), "there is no file"));
    CHECK(has(reason<storage_error>([&] { open_plain_tokens(disk(), folder.path.string(), token_kind::u16); }), "Is a directory"));
  }
  TEST_CASE("both kinds of llm.c files are read, from the end of their header to their own end") {
    const temporary_folder folder;
    const numbers small{7, 65535, 0, 50256}, large{128000, 5, 2147483647};
    CHECK(tokens_of(*open_llmc_tokens(disk(), folder.put("gpt2", llmc_bytes(small, 2)))) == small);
    CHECK(tokens_of(*open_llmc_tokens(disk(), folder.put("llama", llmc_bytes(large, 4)))) == large);
  }
  TEST_CASE("an llm.c file that contradicts itself is refused, at every length but its own, and says where") {
    const temporary_folder folder;
    const std::string whole = llmc_bytes(numbers{1, 2, 3}, 2);
    const auto refused = [&](std::string bytes) { return reason([&] { open_llmc_tokens(disk(), folder.put("x", bytes)); }); };
    const auto with = [&](std::size_t field, std::int32_t value) {
      std::string bytes = whole;
      std::memcpy(bytes.data() + 4 * field, &value, 4);
      return refused(bytes);
    };
    CHECK(refused(whole) == "");
    for (std::size_t length = 0; length < whole.size(); ++length) CHECK(refused(whole.substr(0, length)) != "");
    CHECK(has(refused(whole + "a"), "has 1031; it is cut short or damaged"));
    CHECK(has(with(0, 20240326), "at byte 0: there is 20240326"));
    CHECK(has(with(0, 20240801), "at byte 4: has version 1, needed 7"));
    CHECK(has(with(1, 2), "at byte 4: has version 2, needed 1"));
    for (const std::int32_t tokens : {-1, std::numeric_limits<std::int32_t>::min(), 0})
      CHECK(has(with(2, tokens), sentence("at byte 8: says it has ", tokens, " tokens")));
    for (const std::int32_t tokens : {2, 4, 2147483647}) CHECK(has(with(2, tokens), "at byte 8"));
  }
  TEST_CASE("runs that lie apart read as one, also over the ends of blocks") {
    const temporary_folder folder;
    std::vector<std::int32_t> values(70000);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::int32_t(i);
    const auto path = folder.put("a", numbers_as<std::int32_t>(values));
    // tokens 0..9 from place 100, 10..59999 from 200, the rest from 69000
    const token_file apart(disk().open(path), token_kind::i32, 60100, {{0, 400}, {10, 800}, {60000, 4 * 69000}});
    const auto all = tokens_of(apart);
    bool same = true;
    for (extent_t i = 0; i < 60100; ++i) same = same && all[std::size_t(i)] == (i < 10 ? 100 + i : i < 60000 ? 190 + i : 9000 + i);
    CHECK(same);
    CHECK(tokens_of(apart, 8, 4) == numbers{108, 109, 200, 201});
    CHECK(tokens_of(apart, 59999, 2) == numbers{60189, 69000});
  }
  TEST_CASE("a negative token, and one that needs 32 bits, are refused where they lie") {
    const temporary_folder folder;
    const auto refused = [&](const std::string& bytes, token_kind kind, extent_t tokens) {
      const token_file file(disk().open(folder.put("x", bytes)), kind, tokens, {{0, 0}});
      return reason([&] { tokens_of(file); });
    };
    CHECK(has(refused(numbers_as<std::int8_t>(numbers{1, 2, -3}), token_kind::i8, 3), "at byte 2: there is -3"));
    CHECK(has(refused(numbers_as<std::int16_t>(numbers{1, -2}), token_kind::i16, 2), "at byte 2: there is -2"));
    CHECK(has(refused(numbers_as<std::int32_t>(numbers{1, -2}), token_kind::i32, 2), "at byte 4: there is -2"));
    const std::vector<std::int64_t> wide{1, 2147483647, 2147483648};
    CHECK(has(refused(numbers_as<std::int64_t>(wide), token_kind::i64, 3), "at byte 16: there is 2147483648"));
    CHECK(refused(numbers_as<std::int64_t>(wide), token_kind::i64, 2) == "");
  }
  TEST_CASE("a file that grows or shrinks after it was opened is an error at the next read, and no signal") {
    const temporary_folder folder;
    const auto open = [&] { return open_plain_tokens(disk(), folder.put("x", std::string(100000, 'a')), token_kind::u16); };
    auto tokens = open();
    folder.put("x", std::string(100002, 'a'));
    CHECK(has(reason([&] { tokens_of(*tokens, 0, 1); }), "at byte 100000: has 100002 bytes and had 100000 when it was opened"));
    tokens = open();
    std::filesystem::resize_file(folder.file("x"), 10);
    CHECK(has(reason([&] { tokens_of(*tokens, 40000, 100); }), "at byte 10: has 10 bytes and had 100000 when it was opened"));
    std::filesystem::resize_file(folder.file("x"), 0);
    CHECK(reason([&] { tokens_of(*tokens, 0, 1); }) != "");
  }
  TEST_CASE("many threads read one file at once") {
    const temporary_folder folder;
    std::vector<std::int32_t> values(50000);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = std::int32_t(i);
    const auto tokens = open_plain_tokens(disk(), folder.put("a", numbers_as<std::uint16_t>(values)), token_kind::u16);
    std::array<int, 8> wrong{};
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < wrong.size(); ++t)
      threads.emplace_back([&, t] {
        std::vector<std::int32_t> read(301);
        for (extent_t first = extent_t(t) * 17; first + 301 <= 50000; first += 1234) {
          tokens->read(first, read);
          for (std::size_t i = 0; i < read.size(); ++i) wrong[t] += read[i] != std::int32_t(first + extent_t(i));
        }
      });
    for (std::thread& t : threads) t.join();
    for (const int w : wrong) CHECK(w == 0);
  }
}
