#include <moefold/checkpoint/json.hpp>

#include <doctest/doctest.h>

#include <chrono>

using namespace moefold;

namespace {

std::string repeated(std::string_view text, std::size_t times) {
  std::string out;
  for (std::size_t i = 0; i < times; ++i) out += text;
  return out;
}
/// The error's sentence without the file; "" where the text is accepted.
std::string refusal(std::string_view text, const json_limits& limits = {}) {
  try {
    read_json(text, "a.json", 8, limits);
  } catch (const format_error& e) {
    CHECK(e.file() == "a.json");
    CHECK(e.offset() >= 8);
    CHECK(e.offset() <= 8 + text.size());
    return std::string(e.what()).substr(std::string("moefold: 'a.json' ").size());
  }
  return "";
}
bool refused(std::string_view text, std::string_view because, const json_limits& limits = {}) {
  const std::string said = refusal(text, limits);
  INFO(said);
  const bool found = said.find(because) != std::string::npos;
  CHECK(found);
  return found;
}

}  // namespace

TEST_SUITE("checkpoint/json") {
  TEST_CASE("a text becomes a tree with its values, in order and by key") {
    const json_value all = read_json(R"( {"b": [1, -2, 2.5, "x\u00e9\n", true, false, null, [], {}], "a": {"c": 7}} )", "a.json");
    CHECK(all.members().size() == 2);
    CHECK(all.members()[0].key() == "a");
    CHECK(all.at("a").at("c").integer<int>() == 7);
    const auto& b = all.at("b").array();
    REQUIRE(b.size() == 9);
    CHECK(b[0].integer<std::uint8_t>() == 1);
    CHECK(b[1].integer<std::int64_t>() == -2);
    CHECK(b[1].number() == -2);
    CHECK(b[2].number() == 2.5);
    CHECK(b[3].text() == "x\xc3\xa9\n");
    CHECK(b[4].boolean());
    CHECK(!b[5].boolean());
    CHECK(b[6].kind() == json_kind::null);
    CHECK(b[7].array().empty());
    CHECK(b[8].members().empty());
    CHECK(all.find("c") == nullptr);
    CHECK(read_json("3", "a.json").integer<int>() == 3);
  }
  TEST_CASE("integers are exact over 64 bits, and no further") {
    CHECK(read_json("18446744073709551615", "a").integer<std::uint64_t>() == 18446744073709551615ull);
    CHECK(read_json("9007199254740993", "a").integer<std::int64_t>() == 9007199254740993);
    CHECK(read_json("-9223372036854775808", "a").integer<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
    CHECK(read_json("-0", "a").integer<std::uint64_t>() == 0);
    refused("18446744073709551616", "at byte 28: the integer 18446744073709551616 does not fit in 64 bits");
    refused("[-9223372036854775809]", "does not fit in 64 bits");
    CHECK_THROWS_WITH_AS(read_json("{\"n\": 300}", "a").at("n").integer<std::uint8_t>(),
                         "moefold: 'a' at byte 10: 'n': the integer is out of range, needs 0 to 255", format_error);
    CHECK_THROWS_AS(read_json("-1", "a").integer<std::uint64_t>(), format_error);
    CHECK_THROWS_AS(read_json("18446744073709551615", "a").integer<std::int64_t>(), format_error);
    CHECK_THROWS_WITH_AS(read_json("1.0", "a").integer<int>(), doctest::Contains("found a number, needs an integer"), format_error);
    CHECK_THROWS_WITH_AS(read_json("{}", "a").at("n"), doctest::Contains("the object has no 'n'"), format_error);
    CHECK_THROWS_AS(read_json("[]", "a").at("n"), format_error);
  }
  TEST_CASE("what is no JSON is refused at the byte where it stops being it") {
    refused("", "no valid JSON");
    refused("{\"a\": 1,}", "at byte 17: no valid JSON");
    refused("[1] x", "no valid JSON");
    refused("[1][2]", "no valid JSON");
    refused("[1", "no valid JSON");
    refused("[01]", "no valid JSON");
    refused("[1.]", "no valid JSON");
    refused("[NaN]", "no valid JSON");
    refused("[1e999]", "no valid JSON");
    refused("{a: 1}", "no valid JSON");
    refused("{1: 1}", "no valid JSON");
    refused("// note\n1", "no valid JSON");
    refused("['a']", "no valid JSON");
    refused("[\"a\nb\"]", "no valid JSON");
    refused("[\"\\x\"]", "no valid JSON");
    refused("[\"\\ud800\"]", "no valid JSON");
    refused("[\"\xff\"]", "no valid JSON");
    refused("[\"\xc0\x80\"]", "no valid JSON");      // an overlong zero
    refused("[\"\xed\xa0\x80\"]", "no valid JSON");  // half of a surrogate pair
    refused("\xef\xbb\xbf{}", "byte order mark");
    refused(std::string_view("{}\0", 3), "at byte 10: no valid JSON: a zero byte");
    refused(std::string_view("{}\0{", 4), "a zero byte");
    refused(std::string_view("[\"\0\"]", 5), "a zero byte");
    const std::string said = refusal("[\"" + std::string(5000, 'y') + "\x01");
    CHECK(said.size() < 300);  // does not repeat the file
  }
  TEST_CASE("a key that stands twice is refused, in whichever object and order") {
    refused(R"({"a": 1, "a": 1})", "at byte 18: a key stands twice in one object");
    refused(R"({"b": {"x": 1, "y": 2, "x": 3}})", "a key stands twice");
    refused(R"({"a": 1, "\u0061": 2})", "a key stands twice");
    refused(R"({"": 1, "": 2})", "a key stands twice");
    CHECK(refusal(R"({"a": {"a": 1}, "b": {"a": 1}})").empty());
  }
  TEST_CASE("nesting, keys and tokens have limits") {
    CHECK(refusal(repeated("[", 64) + repeated("]", 64)).empty());
    refused(repeated("[", 65) + repeated("]", 65), "nests deeper than 64 levels");
    refused(repeated("[", 1'000'000), "nests deeper than 64 levels");
    refused(repeated("{\"a\":", 1'000'000), "nests deeper than 64 levels");
    refused(R"({"a": 1, "b": 2, "c": 3})", "more than 2 keys", {.keys = 2});
    refused(R"([{"a": 1}, {"b": 2}, {"c": 3}])", "more than 2 keys", {.keys = 2});
    CHECK(refusal(R"(["12345678"])", {.token = 9}).empty());
    refused(R"(["123456789"])", "longer than 9 bytes", {.token = 9});
    refused(R"(["1234\"6789"])", "longer than 9 bytes", {.token = 9});
    refused(R"(["12345,[]{")", "longer than 9 bytes", {.token = 9});
    refused("[" + std::string(5'000'000, '1') + "]", "longer than 4194304 bytes");
    refused("[\"" + std::string(5'000'000, '1'), "longer than 4194304 bytes");
    CHECK(refusal(R"(["\\", "\"", "1234567"])", {.token = 9}).empty());
  }
  TEST_CASE("ten times the text takes about ten times as long") {
    const auto seconds = [](std::size_t keys) {
      std::string text = "{";
      for (std::size_t i = 0; i < keys; ++i) text += sentence(i ? "," : "", "\"k", i, "\":[1,2]");
      text += "}";
      const auto begin = std::chrono::steady_clock::now();
      read_json(text, "a.json");
      return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    };
    seconds(10'000);
    const double small = seconds(10'000), large = seconds(100'000);
    CHECK(large < 40 * small + 0.05);
    CHECK(large < 5);
  }
  TEST_CASE("what the writer writes is read back, whatever is in it") {
    json_writer out(2);
    out.begin('{').key("text").value("a\"b\\c\n\x01\xc3\xa9").key("bad").value("\xff").key("most").value(~std::uint64_t{0});
    out.key("least").value(std::numeric_limits<std::int64_t>::min()).key("real").value(0.1).key("yes").value(true);
    out.key("list").begin('[').value(1).value(2).begin('{').end().end().key("none").begin('[').end().end();
    const json_value all = read_json(out.text(), "a.json");
    CHECK(all.at("text").text() == "a\"b\\c\n\x01\xc3\xa9");
    CHECK(all.at("bad").text() == "\xef\xbf\xbd");
    CHECK(all.at("most").integer<std::uint64_t>() == ~std::uint64_t{0});
    CHECK(all.at("least").integer<std::int64_t>() == std::numeric_limits<std::int64_t>::min());
    CHECK(all.at("real").number() == 0.1);
    CHECK(all.at("yes").boolean());
    CHECK(all.at("list").array().size() == 3);
    CHECK(all.at("none").array().empty());

    json_writer line;
    line.begin('{').key("a").begin('[').value(1).value("x").end().end();
    CHECK(line.text() == R"({"a":[1,"x"]})");
  }
}
