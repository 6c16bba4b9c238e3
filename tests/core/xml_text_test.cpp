#include <moefold/core/xml_text.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("core/xml_text") {
  TEST_CASE("what XML reads as markup is written out") { CHECK(xml_text("a<b>&c", 72) == "a&lt;b&gt;&amp;c"); }
  TEST_CASE("a long text is cut behind whole characters") {
    CHECK(xml_text("abc", 3) == "abc");
    CHECK(xml_text("abcd", 3) == "abc...");
    CHECK(xml_text("\xc3\xa4\xc3\xb6\xc3\xbc", 2) == "\xc3\xa4\xc3\xb6...");
  }
  TEST_CASE("what XML cannot hold becomes a question mark") {
    CHECK(xml_text(std::string_view("a\0b\x1f\x7f", 5), 72) == "a?b??");
    CHECK(xml_text("\xc3(", 72) == "?(");          // a character that was never finished
    CHECK(xml_text("\xed\xa0\x80", 72) == "???");  // half of a surrogate pair
    CHECK(xml_text("\xf0\x9f\x98\x80", 72) == "\xf0\x9f\x98\x80");
  }
}
