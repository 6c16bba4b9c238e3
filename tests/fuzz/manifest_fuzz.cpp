// The manifest of a checkpoint, behind its hash: what is taken covers every tensor once, lies inside its files, and is written and read as the same.
#include <moefold/checkpoint/manifest.hpp>

#include "fuzz.hpp"

using namespace moefold;

namespace {

constexpr std::string_view tail = ",\n\"hash\":\"";

}  // namespace

std::vector<std::string> fuzz_seeds() {
  checkpoint_manifest m;
  m.id = "0123456789abcdef", m.step = 7, m.notes = {{"seed", "1"}};
  m.files = {{"rank-0000.safetensors", 64 + 40 + 8, 64, 5}, {"rank-0001.safetensors", 100 + 32 + 24, 100, 6}};
  const shape g{4, 6};
  const box left{g, {0, 0}, {4, 4}}, right{g, {0, 4}, {4, 2}};
  m.tensors = {
      {"a", dtype::fp32, g, {{{left, {0, 10}, 24}, 0, 64, {1}}, {{left, {10, 16}, 24}, 1, 132, {2}}, {{right, {0, 8}, 24}, 1, 100, {3}}}}};
  m.arrays = {{"b", dtype::fp64, {}, {{{{}, {0, 1}, 1}, 0, 104, {4}}}}, {"empty", dtype::int64, {0}, {}}};
  std::vector<std::string> seeds;
  for (const checkpoint_manifest& each : {m, checkpoint_manifest{.id = m.id, .files = {{"rank-0000.safetensors", 8, 8, 0}}}}) {
    const std::string text = manifest_text(each);
    seeds.push_back(text.substr(0, text.rfind(tail)));
  }
  return seeds;
}

void fuzz_one(std::span<const std::byte> input) {
  std::string text = std::string(text_of(input)) + std::string(tail);
  text += hash_text(XXH3_64bits(text.data(), text.size())) + "\"}\n";
  const checkpoint_manifest m = parse_manifest(text, "input");
  std::vector<std::uint64_t> bytes(m.files.size());
  for (const auto* all : {&m.tensors, &m.arrays})
    for (const saved_tensor& t : *all) {
      extent_t elements = 0;
      for (const saved_piece& p : t.pieces) {
        elements += p.piece.range.size();
        bytes[p.file] += std::uint64_t(p.piece.range.size()) * element_bytes(t.type);
        holds(p.hashes.size() == chunks_of(std::uint64_t(p.piece.range.size()) * element_bytes(t.type)));
      }
      holds(elements == t.extent.size());
    }
  for (std::size_t i = 0; i < bytes.size(); ++i) holds(bytes[i] + m.files[i].header == m.files[i].bytes);
  holds(parse_manifest(manifest_text(m), "again") == m);
}
