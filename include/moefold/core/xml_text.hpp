#pragma once
// Text that nobody vouches for as XML character data, for pictures that are XML.
//
//   xml_text("a<b", 72) == "a&lt;b"
#include <moefold/core/error.hpp>

#include <algorithm>

namespace moefold {

namespace detail {

/// Bytes of the UTF-8 character at text[i] that XML 1.0 may hold; 0 where there is none.
inline std::size_t xml_character(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t at) { return at < text.size() ? static_cast<unsigned char>(text[at]) : 0u; };
  const unsigned first = byte(i);
  if (first < 0x80) return first >= 0x20 && first != 0x7F ? 1 : 0;
  const std::size_t length = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  unsigned code = first & (0xFFu >> (length + 1));
  for (std::size_t k = 1; k < length; ++k) {
    if ((byte(i + k) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(i + k) & 0x3F);
  }
  const unsigned least = length == 4 ? 0x10000 : length == 3 ? 0x800 : 0x80;
  const bool character = first >= 0xC0 && first < 0xF8 && code >= least && code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
  return character && code != 0xFFFE && code != 0xFFFF ? length : 0;
}

}  // namespace detail

/// `text` as XML character data, at most `most` characters; what XML cannot hold becomes '?'.
inline std::string xml_text(std::string_view text, std::size_t most) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); --most) {
    if (most == 0) return out + "...";
    const std::size_t length = detail::xml_character(text, i);
    if (length == 0)
      out += '?';
    else if (text[i] == '&')
      out += "&amp;";
    else if (text[i] == '<')
      out += "&lt;";
    else if (text[i] == '>')
      out += "&gt;";
    else
      out += text.substr(i, length);
    i += std::max<std::size_t>(length, 1);
  }
  return out;
}

}  // namespace moefold
