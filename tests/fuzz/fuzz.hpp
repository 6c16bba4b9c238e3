#pragma once
// What every fuzz target shares. A target is one file <parser>_fuzz.cpp that includes this, says what to begin with and what must hold for any input:
//
//   std::vector<std::string> fuzz_seeds()        inputs to begin with; written into the corpus folder, the last argument of the program
//   void fuzz_one(std::span<const std::byte>)    calls the parser; format_error is an answer, anything else that is thrown, or a false `holds`, a finding
#include <moefold/checkpoint/bytes.hpp>
#include <moefold/checkpoint/storage.hpp>

#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

std::vector<std::string> fuzz_seeds();
void fuzz_one(std::span<const std::byte> input);

namespace moefold {

/// A finding unless it holds.
inline void holds(bool truth) {
  if (!truth) std::abort();
}

/// A file that is these bytes.
class file_in_memory final : public storage_file {
 public:
  explicit file_in_memory(std::span<const std::byte> bytes) : bytes_(bytes) {}
  const std::string& path() const override { return path_; }
  std::uint64_t size() override { return bytes_.size(); }
  void read(std::uint64_t offset, std::span<std::byte> to) override { load_all(span_at({bytes_, path_}, offset, to.size()), to); }
  void write(std::uint64_t, std::span<const std::byte>) override { holds(false); }
  void sync() override { holds(false); }

 private:
  std::span<const std::byte> bytes_;
  std::string path_ = "input";
};

}  // namespace moefold

extern "C" int LLVMFuzzerInitialize(int* count, char*** arguments) {
  const std::filesystem::path corpus = (*arguments)[*count - 1];
  if (*count < 2 || !std::filesystem::is_directory(corpus)) return 0;
  int n = 0;
  for (const std::string& seed : fuzz_seeds())
    std::ofstream(corpus / ("seed_" + std::to_string(n++)), std::ios::binary).write(seed.data(), std::streamsize(seed.size()));
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::clock_t begin = std::clock();
  try {
    fuzz_one(std::as_bytes(std::span(data, size)));
  } catch (const moefold::format_error&) {
  }
  moefold::holds(std::clock() - begin < CLOCKS_PER_SEC);  // of the processor: other jobs of the machine do not count
  return 0;
}
