// A whole file, and a header with the number of data bytes behind it in front (two bytes): what is accepted owns every byte of its data once, and what is
// laid out from it is accepted again.
#include <moefold/checkpoint/safetensors.hpp>

#include <support/malformed_safetensors.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  std::vector<std::string> seeds = wellformed_safetensors();
  for (const malformed_file& bad : malformed_safetensors())
    if (bad.bytes.size() < 4096) seeds.push_back(bad.bytes);
  for (const std::string& file : std::vector(seeds)) {
    if (file.size() < 8) continue;
    const std::uint64_t length = std::min<std::uint64_t>(load<std::uint64_t>(bytes_of(std::string_view(file)), 0), file.size() - 8);
    const std::uint64_t data = file.size() - 8 - length;
    seeds.push_back(std::string{char(data & 0xff), char(data >> 8)} + file.substr(8, length));
  }
  return seeds;
}

static void check(const safetensors_header& header, std::uint64_t data, std::uint64_t file_size) {
  std::uint64_t owned = 0;
  std::vector<tensor_to_store> again;
  for (std::size_t i = 0; i < header.size(); ++i) {
    const stored_tensor t = header[i];
    holds(data <= t.begin && t.begin <= t.end && t.end <= file_size);
    holds(header.find(t.name)->begin == t.begin);
    owned += t.end - t.begin;
    again.push_back({std::string(t.name), t.type, {t.shape.begin(), t.shape.end()}});
    holds(again.back().bytes() == t.end - t.begin);
  }
  holds(owned == file_size - data);
  if (header.find("__metadata__")) return;
  const safetensors_layout layout = lay_out(again, header.metadata());
  const safetensors_header back = safetensors_header::parse(std::string_view(layout.header).substr(8), "again", layout.file_size);
  holds(back.size() == header.size());
  for (std::size_t i = 0; i < back.size(); ++i) holds(back[i].name == header[i].name && back[i].type == header[i].type);
}

void fuzz_one(std::span<const std::byte> input) {
  if (input.size() >= 2) {
    try {
      const std::uint64_t json = input.size() - 2, size = 8 + json + load<std::uint16_t>(input, 0);
      check(safetensors_header::parse(text_of(input.subspan(2)), "input", size), 8 + json, size);
    } catch (const format_error&) {
    }
  }
  file_in_memory file(input);
  const safetensors_header header = read_safetensors_header(file);
  check(header, 8 + load<std::uint64_t>(input, 0), input.size());
}
