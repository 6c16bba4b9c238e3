#pragma once
// A counter-based generator: the i-th number of a stream is a pure function of (seed, stream name, i). Every rank computes exactly the
// elements it owns, so a model is initialised identically in every mapping. Philox4x32-10, Salmon et al. 2011,
// "Parallel random numbers: as easy as 1, 2, 3" (SC'11).
#include <moefold/core/config.hpp>

#include <array>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace moefold {

/// Ten rounds of Philox4x32: 128 random bits from a 128-bit counter and a 64-bit key.
MOEFOLD_HD constexpr std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {std::uint32_t(b >> 32) ^ counter[1] ^ key0, std::uint32_t(b), std::uint32_t(a >> 32) ^ counter[3] ^ key1, std::uint32_t(a)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

/// FNV-1a: a stream's number from its name, the same on every machine.
constexpr std::uint64_t hash_of(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (char c : name) hash = (hash ^ std::uint8_t(c)) * 0x100000001b3u;
  return hash;
}

/// Uniform in (0, 1) from the upper 52 bits: the middle of one of 2^52 equal cells, exact in a double, so never 0 or 1.
constexpr double open_unit(std::uint64_t bits) { return (double(bits >> 12) + 0.5) * 0x1p-52; }

/// Random numbers addressed by index: stream(seed, "layers.3.attention.q").normal(i).
class random_stream {
 public:
  constexpr random_stream(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}
  constexpr random_stream(std::uint64_t seed, std::string_view name) : random_stream(seed, hash_of(name)) {}

  constexpr std::uint64_t bits(std::uint64_t index) const { return low(block(index)); }
  /// Uniform in (0, 1).
  constexpr double uniform(std::uint64_t index) const { return open_unit(bits(index)); }
  /// Standard normal (Box-Muller).
  double normal(std::uint64_t index) const {
    const auto r = block(index);
    return std::sqrt(-2.0 * std::log(open_unit(low(r)))) * std::cos(6.283185307179586476925 * open_unit(high(r)));
  }

 private:
  static constexpr std::uint64_t low(const std::array<std::uint32_t, 4>& r) { return (std::uint64_t{r[1]} << 32) | r[0]; }
  static constexpr std::uint64_t high(const std::array<std::uint32_t, 4>& r) { return (std::uint64_t{r[3]} << 32) | r[2]; }
  constexpr std::array<std::uint32_t, 4> block(std::uint64_t index) const {
    return philox({std::uint32_t(index), std::uint32_t(index >> 32), std::uint32_t(stream_), std::uint32_t(stream_ >> 32)},
                  std::uint32_t(seed_), std::uint32_t(seed_ >> 32));
  }
  std::uint64_t seed_;
  std::uint64_t stream_;
};

}  // namespace moefold
