#pragma once
// Token files as other programs write them, in memory or in a folder, whole or with one thing wrong.
#include <support/temporary_folder.hpp>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

namespace moefold {

template <class T>
void append_number(std::string& out, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  out.append(bytes, sizeof value);
}
template <class T, class Values>
std::string numbers_as(const Values& values) {
  std::string out;
  for (const auto v : values) append_number(out, T(v));
  return out;
}

/// The parts of a Megatron .idx, as its writer has them: change one and see.
struct megatron_index {
  std::string magic{"MMIDIDX\0\0", 9};
  std::uint64_t version = 1;
  std::uint8_t kind = 8;  // u16
  std::vector<std::int32_t> lengths{};
  std::vector<std::int64_t> places{};     // bytes
  std::vector<std::int64_t> documents{};  // first sequences, and how many sequences there are
  std::vector<std::int8_t> modes{};
  std::uint64_t sequence_count = 0, document_count = 0;

  megatron_index() = default;
  /// Sequences one after another, `per_document` of them in each document.
  explicit megatron_index(std::vector<std::int32_t> given, int width = 2, std::uint8_t of_kind = 8, std::int64_t per_document = 1)
      : kind(of_kind), lengths(std::move(given)) {
    std::int64_t place = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      if (std::int64_t(s) % per_document == 0) documents.push_back(std::int64_t(s));
      places.push_back(place);
      place += std::int64_t(lengths[s]) * width;
    }
    documents.push_back(std::int64_t(lengths.size()));
    sequence_count = lengths.size();
    document_count = documents.size();
  }
  std::string bytes() const {
    std::string out = magic;
    append_number(out, version);
    append_number(out, kind);
    append_number(out, sequence_count);
    append_number(out, document_count);
    return out + numbers_as<std::int32_t>(lengths) + numbers_as<std::int64_t>(places) + numbers_as<std::int64_t>(documents) +
           numbers_as<std::int8_t>(modes);
  }
};

/// An llm.c file: of GPT-2 with 2 bytes for each token, of Llama 3 with 4.
template <class Values>
std::string llmc_bytes(const Values& tokens, int width) {
  std::vector<std::int32_t> header(256);
  header[0] = width == 2 ? 20240520 : 20240801;
  header[1] = width == 2 ? 1 : 7;
  header[2] = std::int32_t(tokens.size());
  return numbers_as<std::int32_t>(header) + (width == 2 ? numbers_as<std::uint16_t>(tokens) : numbers_as<std::uint32_t>(tokens));
}

}  // namespace moefold
