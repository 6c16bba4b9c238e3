// A token file of llm.c: what is accepted has as many tokens as it says and as fit behind its header, and is read to its last byte.
#include <moefold/train/token_file.hpp>

#include <support/memory_storage.hpp>
#include <support/token_files.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  const std::vector<std::int32_t> tokens{1, 2, 3, 65535, 0};
  return {llmc_bytes(tokens, 2), llmc_bytes(tokens, 4), llmc_bytes(std::vector<std::int32_t>{}, 2), llmc_bytes(tokens, 2).substr(0, 1024)};
}

void fuzz_one(std::span<const std::byte> input) {
  test::memory_storage files;
  files.create("x.bin")->write(0, input);
  const shared_tokens tokens = open_llmc_tokens(files, "x.bin");
  const std::uint64_t bytes = input.size() - 1024, size = std::uint64_t(tokens->size());
  holds(size == load<std::uint32_t>(input, 8) && (bytes == 2 * size || bytes == 4 * size));
  std::vector<std::int32_t> all(static_cast<std::size_t>(size), -1);
  tokens->read(0, all);
  for (const std::int32_t token : all) holds(token >= 0);
}
