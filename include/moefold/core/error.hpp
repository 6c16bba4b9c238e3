#pragma once
// What goes wrong is said in one sentence: what was given, what is needed, how to mend it.
// `require(condition, parts...)` builds that sentence from values only when the condition fails.
//
//   error                 everything the library throws
//   +- config_error       a mesh, model, option or file that cannot work; found before anything runs
//   (the communicators' errors stand in comm/failure.hpp)
#include <moefold/core/config.hpp>

#include <concepts>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>

namespace moefold {

using extent_t = std::int64_t;  // a number of ranks, rows, heads: signed, so that differences are safe

class error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class config_error : public error {
 public:
  using error::error;
};

namespace detail {

inline void append(std::string& out, std::string_view part) { out += part; }
inline void append(std::string& out, char part) { out += part; }
template <std::integral T>
void append(std::string& out, T part) {
  if constexpr (std::same_as<T, bool>)
    out += part ? "true" : "false";
  else
    out += std::to_string(part);
}
template <std::floating_point T>
void append(std::string& out, T part) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", double(part));
  out += digits;
}

}  // namespace detail

/// One string from values: sentence("rank ", 3, " of ", 8).
template <class... Parts>
std::string sentence(const Parts&... parts) {
  std::string out;
  (detail::append(out, parts), ...);
  return out;
}

/// Throws Error with the sentence made of `parts` unless `holds`. Costs one branch when it holds; usable in constant expressions.
template <std::derived_from<error> Error = error, class... Parts>
constexpr void require(bool holds, const Parts&... parts) {
  if (!holds) throw Error(sentence(parts...));
}

}  // namespace moefold
