#pragma once
// JSON from files that nobody vouches for. parse_json hands its parts on as they come and is strict: one value and nothing behind it, keys once, integers
// exact, UTF-8 valid, nesting and sizes bounded, time linear. read_json makes a tree of them for small files; json_writer writes one.
//
//   {"dim": [2, 3]}      begin(object) key("dim") begin(array) integer(2) integer(3) end() end()
//   read_json(text, "config.json").at("dim").array()[1].integer<int>() == 3        every error names file and byte
#include <moefold/checkpoint/bytes.hpp>

#include <nlohmann/json.hpp>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include <compare>
#include <concepts>
#include <iterator>
#include <memory>
#include <utility>
#include <vector>

namespace moefold {

struct json_limits {
  std::size_t depth = 64;               // of objects and arrays in each other
  std::size_t keys = 1'000'000;         // of all objects together
  std::size_t token = 4 * 1024 * 1024;  // bytes of one text or number
};

enum class json_kind : std::uint8_t { null, boolean, integer, real, text, array, object };
inline const char* name_of(json_kind kind) {
  constexpr const char* names[] = {"null", "a boolean", "an integer", "a number", "a text", "an array", "an object"};
  return names[std::size_t(kind)];
}

/// An integer as JSON has it: exact from -2^63 to 2^64 - 1.
struct json_integer {
  std::uint64_t bits = 0;
  bool negative = false;

  template <std::integral T>
  bool fits() const {
    return negative ? std::in_range<T>(std::int64_t(bits)) : std::in_range<T>(bits);
  }
};

/// Receives the parts of a JSON text in order; `where` of each call is the byte of the file just behind the part.
class json_events {
 public:
  virtual ~json_events() = default;
  virtual void begin(json_kind array_or_object, std::uint64_t where) = 0;
  virtual void end(std::uint64_t where) = 0;
  virtual void key(std::string& text, std::uint64_t where) = 0;  // may be moved from
  virtual void text(std::string& text, std::uint64_t where) = 0;
  virtual void integer(json_integer value, std::uint64_t where) = 0;
  virtual void real(double value, std::uint64_t where) = 0;
  virtual void boolean(bool value, std::uint64_t where) = 0;
  virtual void null(std::uint64_t where) = 0;
};

namespace detail {

/// Walks over a text and tells how far it is, also to those that do not hold it.
struct json_cursor {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  std::string_view text;
  std::size_t* at = nullptr;  // null: the end

  reference operator*() const { return text[*at]; }
  json_cursor& operator++() { return ++*at, *this; }
  json_cursor operator++(int) { return ++*at, *this; }
  friend bool operator==(const json_cursor& a, const json_cursor& b) {
    const auto place = [](const json_cursor& c) { return c.at ? *c.at : c.text.size(); };
    return place(a) == place(b);
  }
};

/// What nlohmann's parser calls. Errors leave as exceptions.
class json_sax {
 public:
  using string_t = std::string;
  json_sax(json_events& to, const std::string& file, std::uint64_t first, const std::size_t& at, const json_limits& limits)
      : to_(to), file_(file), first_(first), at_(at), limits_(limits) {}

  bool null() { return to_.null(here()), true; }
  bool boolean(bool value) { return to_.boolean(value, here()), true; }
  bool number_integer(std::int64_t value) { return to_.integer({std::uint64_t(value), value < 0}, here()), true; }
  bool number_unsigned(std::uint64_t value) { return to_.integer({value, false}, here()), true; }
  bool number_float(double value, const std::string& digits) {
    require_file(digits.find_first_of(".eE") != std::string::npos, file_, here(), "the integer ", shown_text(digits),
                 " does not fit in 64 bits; write a smaller one");
    return to_.real(value, here()), true;
  }
  bool string(std::string& text) { return to_.text(text, here()), true; }
  template <class Binary>
  bool binary(Binary&) {
    return false;  // not in JSON texts
  }
  bool start_object(std::size_t) { return begin(json_kind::object); }
  bool start_array(std::size_t) { return begin(json_kind::array); }
  bool key(std::string& text) {
    require_file(++keys_ <= limits_.keys, file_, here(), "it has more than ", limits_.keys, " keys; split the file");
    const XXH128_hash_t hash = XXH3_128bits(text.data(), text.size());
    open_.back().push_back({hash.low64, std::uint32_t(hash.high64), std::uint32_t(at_ - text.size() - 1)});
    return to_.key(text, here()), true;
  }
  bool end_object() {
    // By 96 bits of hash: whoever makes two keys collide gets his own file refused.
    std::vector<seen>& keys = open_.back();
    std::sort(keys.begin(), keys.end());
    const auto twice =
        std::adjacent_find(keys.begin(), keys.end(), [](const seen& a, const seen& b) { return a.low == b.low && a.high == b.high; });
    require_file(twice == keys.end(), file_, first_ + (twice == keys.end() ? 0 : std::next(twice)->at), "a key stands twice in one object");
    return end();
  }
  bool end_array() { return end(); }
  template <class Exception>
  bool parse_error(std::size_t, const std::string&, const Exception& wrong) {
    std::string_view text = wrong.what();  // "[json.exception.parse_error.101] parse error at line 1, column 2: syntax error ..."
    text.remove_prefix(std::min(text.size(), text.find("column ")));
    text.remove_prefix(std::min(text.size(), text.find(": ") + 2));
    require_file(false, file_, here(), "no valid JSON: ", shown_text(text, 200));
    return false;
  }

 private:
  struct seen {  // a key: bits of its hash, and where it stands
    std::uint64_t low;
    std::uint32_t high, at;
    friend auto operator<=>(const seen&, const seen&) = default;
  };
  std::uint64_t here() const { return first_ + at_; }
  bool begin(json_kind kind) {
    require_file(open_.size() < limits_.depth, file_, here(), "it nests deeper than ", limits_.depth, " levels; flatten it");
    open_.emplace_back();
    return to_.begin(kind, here()), true;
  }
  bool end() {
    open_.pop_back();
    return to_.end(here()), true;
  }

  json_events& to_;
  const std::string& file_;
  std::uint64_t first_;
  const std::size_t& at_;
  const json_limits& limits_;
  std::vector<std::vector<seen>> open_;
  std::size_t keys_ = 0;
};

/// No token may be long: the parser keeps several copies of the one it reads.
inline void require_short_tokens(std::string_view text, const std::string& file, std::uint64_t first, std::size_t most) {
  bool quoted = false, escaped = false;
  std::size_t begin = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    require_file(c != '\0', file, first + i, "no valid JSON: a zero byte");
    if (quoted ? c == '"' && !escaped : std::string_view("{}[],: \t\r\n").find(c) != std::string_view::npos) begin = i + 1;
    if (c == '"' && !escaped) quoted = !quoted;
    escaped = quoted && c == '\\' && !escaped;
    require_file(i + 1 - begin <= most, file, first + begin, "a text or number is longer than ", most, " bytes");
  }
}

}  // namespace detail

/// Hands the parts of one JSON text to `to`. Throws format_error that names `file` and the byte; `first` is where the text begins in it. Allocates for
/// the keys of open objects, 16 bytes each. What `to` throws passes through.
inline void parse_json(std::string_view text, const std::string& file, std::uint64_t first, json_events& to,
                       const json_limits& limits = {}) {
  require_file(!text.starts_with("\xef\xbb\xbf"), file, first, "no valid JSON: it begins with a byte order mark; save it as plain UTF-8");
  detail::require_short_tokens(text, file, first, limits.token);
  std::size_t at = 0;
  detail::json_sax sax(to, file, first, at, limits);
  const bool all = nlohmann::json::sax_parse(detail::json_cursor{text, &at}, detail::json_cursor{text, nullptr}, &sax);
  require_file(all, file, first + at, "no valid JSON");
}

/// A value of a JSON text as a tree. What asks for another kind than it is throws format_error that names the file and the byte.
class json_value {
 public:
  json_kind kind() const { return kind_; }
  const std::string& key() const { return key_; }   // of a member of an object
  std::uint64_t offset() const { return offset_; }  // in the file: behind the value, up to a byte (where it begins, for arrays and objects)

  bool boolean() const { return need(json_kind::boolean).number_.bits != 0; }
  template <std::integral T>
  T integer() const {
    const json_integer n = need(json_kind::integer).number_;
    require(n.fits<T>(), "the integer is out of range, needs ", std::numeric_limits<T>::min(), " to ", std::numeric_limits<T>::max());
    return T(n.bits);
  }
  double number() const {  // an integer too
    if (kind_ != json_kind::integer) return need(json_kind::real).real_;
    return number_.negative ? double(std::int64_t(number_.bits)) : double(number_.bits);
  }
  const std::string& text() const { return need(json_kind::text).text_; }
  const std::vector<json_value>& array() const { return need(json_kind::array).parts_; }
  const std::vector<json_value>& members() const { return need(json_kind::object).parts_; }  // sorted by key
  /// The member of this key; null where there is none.
  const json_value* find(std::string_view key) const {
    const std::vector<json_value>& all = members();
    const auto at = std::lower_bound(all.begin(), all.end(), key, [](const json_value& m, std::string_view k) { return m.key_ < k; });
    return at != all.end() && at->key_ == key ? &*at : nullptr;
  }
  /// The same, and format_error where there is none.
  const json_value& at(std::string_view key) const {
    const json_value* const found = find(key);
    if (!found) require(false, "the object has no '", shown_text(key), "', which is needed");
    return *found;
  }

  /// Throws format_error about this value unless it holds.
  template <class... Parts>
  void require(bool holds, const Parts&... parts) const {
    if (holds) return;
    const std::string named = key_.empty() ? std::string() : sentence("'", shown_text(key_), "': ");
    require_file(false, file_ ? *file_ : std::string("JSON"), offset_, named, parts...);
  }

 private:
  friend class json_tree;
  const json_value& need(json_kind needed) const {
    require(kind_ == needed, "found ", name_of(kind_), ", needs ", name_of(needed));
    return *this;
  }

  std::shared_ptr<const std::string> file_;
  std::uint64_t offset_ = 0;
  std::string key_;
  json_kind kind_ = json_kind::null;
  json_integer number_;  // booleans too
  double real_ = 0;
  std::string text_;
  std::vector<json_value> parts_;
};

/// Builds the tree.
class json_tree final : public json_events {
 public:
  explicit json_tree(const std::string& file) : file_(std::make_shared<const std::string>(file)) {}
  json_value take() { return std::move(root_); }

  void begin(json_kind kind, std::uint64_t where) override { open_.push_back(made(kind, where)); }
  void end(std::uint64_t) override {
    json_value done = std::move(open_.back());
    open_.pop_back();
    if (done.kind_ == json_kind::object)
      std::sort(done.parts_.begin(), done.parts_.end(), [](const json_value& a, const json_value& b) { return a.key_ < b.key_; });
    add(std::move(done));
  }
  void key(std::string& text, std::uint64_t) override { key_ = std::move(text); }
  void text(std::string& text, std::uint64_t where) override {
    json_value value = made(json_kind::text, where);
    value.text_ = std::move(text);
    add(std::move(value));
  }
  void integer(json_integer number, std::uint64_t where) override {
    json_value value = made(json_kind::integer, where);
    value.number_ = number;
    add(std::move(value));
  }
  void real(double number, std::uint64_t where) override {
    json_value value = made(json_kind::real, where);
    value.real_ = number;
    add(std::move(value));
  }
  void boolean(bool truth, std::uint64_t where) override {
    json_value value = made(json_kind::boolean, where);
    value.number_.bits = truth;
    add(std::move(value));
  }
  void null(std::uint64_t where) override { add(made(json_kind::null, where)); }

 private:
  json_value made(json_kind kind, std::uint64_t where) {
    json_value value;
    value.file_ = file_;
    value.offset_ = where;
    value.kind_ = kind;
    value.key_ = std::exchange(key_, {});
    return value;
  }
  void add(json_value value) { open_.empty() ? void(root_ = std::move(value)) : open_.back().parts_.push_back(std::move(value)); }

  std::shared_ptr<const std::string> file_;
  json_value root_;
  std::vector<json_value> open_;  // arrays and objects that have begun
  std::string key_;
};

/// One JSON text as a tree, for files that are small: about 160 bytes for each value. Throws format_error.
inline json_value read_json(std::string_view text, const std::string& file, std::uint64_t first = 0, const json_limits& limits = {}) {
  json_tree tree(file);
  parse_json(text, file, first, tree, limits);
  return tree.take();
}

/// "text" with its quotes; bytes that are no UTF-8 become U+FFFD.
inline std::string json_quoted(std::string_view text) {
  return nlohmann::json(std::string(text)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

/// Writes a JSON text: writer.begin('{').key("a").value(1).end(). Commas come by themselves; begin with indent 0 for one line.
class json_writer {
 public:
  explicit json_writer(int indent = 0) : indent_(indent) {}
  const std::string& text() const { return text_; }

  json_writer& begin(char bracket) {  // '{' or '['
    next();
    text_ += bracket;
    open_.push_back({bracket == '{' ? '}' : ']', true});
    return *this;
  }
  json_writer& end() {
    const level last = open_.back();
    open_.pop_back();
    if (!last.empty) line();
    text_ += last.bracket;
    return *this;
  }
  json_writer& key(std::string_view name) {
    next();
    text_ += json_quoted(name);
    text_ += indent_ > 0 ? ": " : ":";
    keyed_ = true;
    return *this;
  }
  json_writer& value(std::string_view text) { return put(json_quoted(text)); }
  json_writer& value(const char* text) { return put(json_quoted(text)); }
  template <std::integral T>
  json_writer& value(T number) {
    if constexpr (std::same_as<T, bool>)
      return put(number ? "true" : "false");
    else
      return put(std::to_string(number));
  }
  json_writer& value(double number) {
    return put(nlohmann::json(number).dump());
  }  // the shortest that reads back the same; null for no number

 private:
  struct level {
    char bracket;
    bool empty;
  };
  json_writer& put(std::string_view text) {
    next();
    text_ += text;
    return *this;
  }
  void next() {
    if (std::exchange(keyed_, false) || open_.empty()) return;
    if (!std::exchange(open_.back().empty, false)) text_ += ',';
    line();
  }
  void line() {
    if (indent_ > 0) (text_ += '\n').append(std::size_t(indent_) * open_.size(), ' ');
  }

  int indent_;
  bool keyed_ = false;
  std::string text_;
  std::vector<level> open_;
};

}  // namespace moefold
