#pragma once
// The only way in which readers of files touch bytes: products and sums that say when they overflow, parts of a block that lie inside it or throw, and
// numbers that are copied out, because files align nothing. Neither a cast nor a pointer is needed beyond (a test looks for them).
//
//   file_bytes   | 8 | header ............ |          span_at(block, 8, n)             the n bytes from 8, or format_error at that byte
//                  ^ block.first in the file           load<std::uint64_t>(block, 0)    little-endian, as the files are
#include <moefold/core/file_error.hpp>

#include <algorithm>
#include <bit>
#include <cstddef>
#include <limits>
#include <optional>
#include <span>
#include <string_view>

namespace moefold {

static_assert(std::endian::native == std::endian::little, "moefold: model, token and checkpoint files hold little-endian numbers");

/// a * b and a + b, or nothing where they do not fit.
constexpr std::optional<std::uint64_t> checked_mul(std::uint64_t a, std::uint64_t b) {
  if (b != 0 && a > std::numeric_limits<std::uint64_t>::max() / b) return std::nullopt;
  return a * b;
}
constexpr std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) {
  if (a > std::numeric_limits<std::uint64_t>::max() - b) return std::nullopt;
  return a + b;
}

/// A block of a file in memory, which does not own it; `first` is where it begins in the file.
struct file_bytes {
  std::span<const std::byte> bytes;
  const std::string& file;
  std::uint64_t first = 0;
};

/// The `length` bytes from `offset` of the block. Throws format_error unless all lie in it.
inline std::span<const std::byte> span_at(const file_bytes& block, std::uint64_t offset, std::uint64_t length) {
  const std::uint64_t size = block.bytes.size();
  require_file(offset <= size && length <= size - offset, block.file, block.first + std::min(offset, size), length,
               " bytes are needed from here, ", size - std::min(offset, size), " are left; the file is cut short or damaged");
  return block.bytes.subspan(std::size_t(offset), std::size_t(length));
}
/// The same of memory that is written, or is no file's: throws error.
template <class T>
std::span<T> span_at(std::span<T> all, std::uint64_t offset, std::uint64_t length) {
  require(offset <= all.size() && length <= all.size() - offset, "moefold: elements ", offset, " and the ", length,
          " from there do not lie in a span of ", all.size());
  return all.subspan(std::size_t(offset), std::size_t(length));
}

/// The number at byte `offset`, wherever that is.
template <class T>
T load(const file_bytes& block, std::uint64_t offset) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, span_at(block, offset, sizeof value).data(), sizeof value);
  return value;
}
template <class T>
T load(std::span<const std::byte> bytes, std::uint64_t offset) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, span_at(bytes, offset, sizeof value).data(), sizeof value);
  return value;
}
template <class T>
void store(std::span<std::byte> bytes, std::uint64_t offset, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(span_at(bytes, offset, sizeof value).data(), &value, sizeof value);
}

/// All numbers of `bytes`, which holds exactly those of `to`, and back.
template <class T>
void load_all(std::span<const std::byte> bytes, std::span<T> to) {
  static_assert(std::is_trivially_copyable_v<T>);
  require(bytes.size() == to.size_bytes(), "moefold: ", bytes.size(), " bytes are no ", to.size(), " numbers of ", sizeof(T));
  if (!bytes.empty()) std::memcpy(to.data(), bytes.data(), bytes.size());
}
template <class T>
void store_all(std::span<std::byte> bytes, std::span<const T> from) {
  static_assert(std::is_trivially_copyable_v<T>);
  require(bytes.size() == from.size_bytes(), "moefold: ", bytes.size(), " bytes are no ", from.size(), " numbers of ", sizeof(T));
  if (!bytes.empty()) std::memcpy(bytes.data(), from.data(), bytes.size());
}

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text.data(), text.size())); }
inline std::string_view text_of(std::span<const std::byte> bytes) { return {reinterpret_cast<const char*>(bytes.data()), bytes.size()}; }

/// At most `most` bytes of what a file holds, to be shown in an error: printable ASCII, the rest as '?'.
inline std::string shown_text(std::string_view text, std::size_t most = 80) {
  std::string out(text.substr(0, most));
  for (char& c : out)
    if (c < ' ' || c > '~') c = '?';
  return text.size() > out.size() ? out + "..." : out;
}

}  // namespace moefold
