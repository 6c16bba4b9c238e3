// model.safetensors.index.json: no file that is named leaves the folder, and every tensor is found under its name.
#include <moefold/checkpoint/shard_index.hpp>

#include "fuzz.hpp"

using namespace moefold;

std::vector<std::string> fuzz_seeds() {
  return {R"({"metadata":{"total_size":12},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}})",
          R"({"weight_map":{"a":"../a.safetensors"}})",
          R"({"weight_map":{"a":"/a.safetensors","b":"a\u0000.safetensors"}})",
          R"({"weight_map":{"a":3}})",
          R"({"weight_map":[]})",
          R"({"weight_map":{},"metadata":[{"a":[1,2.5,null,true]}]})"};
}

void fuzz_one(std::span<const std::byte> input) {
  const shard_index index = shard_index::parse(text_of(input), "input");
  for (const std::string& file : index.files())
    holds(std::filesystem::path(file).filename() == file && file.size() > std::string(".safetensors").size());
  for (std::size_t i = 0; i < index.size(); ++i) {
    holds(index.lower_bound(index.name(i)) == i);
    holds(index.file_of(i) < index.files().size());
  }
}
