// A file of recorded routing: what is accepted is written again as the same bytes, and its choices are experts that exist.
#include <moefold/moe/routing_file.hpp>

#include "fuzz.hpp"

#include <sys/mman.h>
#include <unistd.h>

using namespace moefold;

namespace {

std::string file_of(const std::string& header, const std::vector<std::int32_t>& choices) {
  return header + std::string(reinterpret_cast<const char*>(choices.data()), choices.size() * sizeof(std::int32_t));
}

}  // namespace

std::vector<std::string> fuzz_seeds() {
  const std::string small = "moefold routing 1 steps 1 layers 1 samples 1 sequence 2 top_k 2 experts 4\n";
  return {file_of(small, {0, 3, 2, 1}), file_of(small, {-1, -1, 0, 1}), file_of(small, {0, 3, 2}),
          file_of("moefold routing 1 steps 2 layers 1 samples 1 sequence 1 top_k 1 experts 2147483647\n", {7, -1}),
          "moefold routing 1 steps 9223372036854775807 layers 9 samples 1 sequence 1 top_k 1 experts 1\n"};
}

void fuzz_one(std::span<const std::byte> input) {
  static const int file = memfd_create("routing", 0);
  static const std::string path = "/proc/self/fd/" + std::to_string(file);
  holds(ftruncate(file, 0) == 0 && pwrite(file, input.data(), input.size(), 0) == ssize_t(input.size()));
  try {
    const stored_routing read = read_routing(path);
    for (const std::int32_t expert : read.trace.choices()) holds(expert >= -1 && expert < read.experts);
    const routing_trace& t = read.trace;
    const detail::routing_header header{{t.steps(), t.layers(), t.samples(), t.sequence(), t.top_k(), read.experts}};
    holds(file_of(header.text() + "\n", {t.choices().begin(), t.choices().end()}) == text_of(input));
  } catch (const config_error&) {
  }
}
