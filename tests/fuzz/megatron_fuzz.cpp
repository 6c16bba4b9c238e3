// A Megatron .idx, with the number of bytes of its .bin in front (two bytes): what is accepted lies in the .bin, in order, and is read.
#include <moefold/train/token_index.hpp>

#include <support/memory_storage.hpp>
#include <support/token_files.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds;
  const auto add = [&](std::uint16_t bin_bytes, const megatron_index& index) {
    seeds.push_back(numbers_as<std::uint16_t>(std::vector{bin_bytes}) + index.bytes());
  };
  add(20, megatron_index({2, 5, 0, 3}));
  add(5, megatron_index({2, 3}, 1, 1, 2));
  add(5, megatron_index({2, 3}, 1, 2));
  add(10, megatron_index({2, 3}, 2, 3));
  add(20, megatron_index({2, 3}, 4, 4));
  add(40, megatron_index({2, 3}, 8, 5));
  add(0, megatron_index(std::vector<std::int32_t>{}));
  add(3950, megatron_index(std::vector<std::int32_t>(150, 13), 2, 8, 7));
  megatron_index apart({2, 0, 3, 1});
  apart.places = {4, 20, 20, 26};
  apart.documents = {0, 0, 2, 4, 4};
  apart.modes = {0, 1, 0, 1};
  add(60, apart);
  return seeds;
}

void fuzz_one(std::span<const std::byte> input) {
  if (input.size() < 2) return;
  const std::uint64_t bin_bytes = load<std::uint16_t>(input, 0) % 4096u;  // small ones are fast
  test::memory_storage files;
  files.create("x.idx")->write(0, input.subspan(2));
  std::vector<std::byte> bin(static_cast<std::size_t>(bin_bytes));
  for (std::size_t i = 0; i < bin.size(); ++i) bin[i] = std::byte(i * 37 % 131);
  files.create("x.bin")->write(0, bin);

  const shared_tokens tokens = open_megatron_tokens(files, "x", true);
  holds(tokens->size() > 0 && std::uint64_t(tokens->size()) <= bin_bytes);
  const auto documents = tokens->documents();
  holds(!documents.empty() && documents[0] == 0 && documents.back() < tokens->size());
  for (std::size_t d = 1; d < documents.size(); ++d) holds(documents[d - 1] < documents[d]);
  extent_t first = -1;
  for (const token_file::run& run : dynamic_cast<const token_file&>(*tokens).runs()) {
    holds(run.first > first && run.first < tokens->size() && run.byte < bin_bytes);
    first = run.first;
  }
  std::vector<std::int32_t> all(static_cast<std::size_t>(tokens->size()), -1);
  tokens->read(0, all);
  for (const std::int32_t token : all) holds(token >= 0);
}
