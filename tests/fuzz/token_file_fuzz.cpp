// A file that is nothing but tokens, in each of their kinds: every byte belongs to one token, all can be read, at once and from anywhere.
#include <moefold/train/token_file.hpp>

#include <support/memory_storage.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  return {std::string("\0ab", 3), std::string("\2\1\0\2\0", 5), std::string("\4\1\0\0\0\377\377\377\377", 9), "\3"};
}

void fuzz_one(std::span<const std::byte> input) {
  if (input.empty()) return;
  const token_kind kind = token_kind(std::uint8_t(input[0]) % 7);
  const auto bytes = input.subspan(1);
  test::memory_storage files;
  files.create("x")->write(0, bytes);
  const shared_tokens tokens = open_plain_tokens(files, "x", kind);
  holds(std::uint64_t(tokens->size()) * bytes_of(kind) == bytes.size());
  std::vector<std::int32_t> all(static_cast<std::size_t>(tokens->size()), -7), part(all.size() / 2);
  tokens->read(0, all);
  tokens->read(extent_t(all.size() - part.size()), part);
  holds(std::equal(part.begin(), part.end(), all.end() - std::ptrdiff_t(part.size())));
}
