// JSON: what is accepted is also accepted by the parser underneath, and comes back the same when it is written and read again.
#include <moefold/checkpoint/json.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  return {R"({"a":[1,-2,2.5e-3,"x\u00e9\n\"\\",true,false,null,[],{}],"b":{"c":18446744073709551615}})",
          R"([-9223372036854775808, 1e300, 0.1, -0, -0.0])",
          R"({"a":1,"a":2})",
          R"("\ud83d\ude00 \u0000")",
          R"([[[[[[[[{"a":{"b":{"c":[]}}}]]]]]]]])",
          "[\"\xf0\x9f\x98\x80\"]",
          "18446744073709551616"};
}

static void write(json_writer& to, const json_value& value) {
  switch (value.kind()) {
    case json_kind::null: return void(to.value(std::numeric_limits<double>::quiet_NaN()));
    case json_kind::boolean: return void(to.value(value.boolean()));
    case json_kind::real: return void(to.value(value.number()));
    case json_kind::text: return void(to.value(value.text()));
    case json_kind::integer:
      return void(value.number() < 0 ? to.value(value.integer<std::int64_t>()) : to.value(value.integer<std::uint64_t>()));
    case json_kind::array:
      to.begin('[');
      for (const json_value& part : value.array()) write(to, part);
      return void(to.end());
    case json_kind::object:
      to.begin('{');
      for (const json_value& part : value.members()) write(to.key(part.key()), part);
      return void(to.end());
  }
}
static bool same(const json_value& a, const json_value& b) {
  if (a.kind() != b.kind() || a.key() != b.key()) return false;
  switch (a.kind()) {
    case json_kind::null: return true;
    case json_kind::boolean: return a.boolean() == b.boolean();
    case json_kind::text: return a.text() == b.text();
    case json_kind::integer:
    case json_kind::real: return a.number() == b.number();
    case json_kind::array: return std::equal(a.array().begin(), a.array().end(), b.array().begin(), b.array().end(), same);
    case json_kind::object: return std::equal(a.members().begin(), a.members().end(), b.members().begin(), b.members().end(), same);
  }
  return false;
}

void fuzz_one(std::span<const std::byte> input) {
  const std::string_view text = text_of(input);
  const json_value value = read_json(text, "input");
  holds(nlohmann::json::accept(text));
  for (const int indent : {0, 2}) {
    json_writer out(indent);
    write(out, value);
    holds(same(value, read_json(out.text(), "again")));
  }
}
