#include <moefold/core/rng.hpp>

#include <doctest/doctest.h>

#include <set>
#include <vector>

using namespace moefold;

TEST_SUITE("core/rng") {
  TEST_CASE("Philox4x32-10 gives the known answers of its authors' test vectors") {
    using block = std::array<std::uint32_t, 4>;
    constexpr std::uint32_t ones = 0xffffffffu;
    static_assert(philox({0, 0, 0, 0}, 0, 0) == block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
    static_assert(philox({ones, ones, ones, ones}, ones, ones) == block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
    const block digits_of_pi = philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0xa4093822, 0x299f31d0);
    CHECK((digits_of_pi == block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  }
  TEST_CASE("names become numbers by FNV-1a") {
    static_assert(hash_of("") == 0xcbf29ce484222325u && hash_of("a") == 0xaf63dc4c8601ec8cu);
    CHECK(hash_of("foobar") == 0x85944171f73967e8u);
    CHECK(hash_of("\xff") == (0xcbf29ce484222325u ^ 0xffu) * 0x100000001b3u);  // a byte is a byte, whether char is signed or not
  }
  TEST_CASE("the i-th number depends on seed, name and i alone, and on all 64 bits of each") {
    const random_stream s(1, "a");
    CHECK(s.bits(7) == random_stream(1, hash_of("a")).bits(7));
    std::set<std::uint64_t> seen;
    const std::uint64_t high = std::uint64_t{1} << 32;
    for (const random_stream& stream : {s, random_stream(2, "a"), random_stream(1 + high, "a"), random_stream(1, "b"),
                                        random_stream(1, hash_of("a") + 1), random_stream(1, hash_of("a") ^ high)})
      for (const std::uint64_t index : {std::uint64_t{0}, std::uint64_t{7}, 7 + high}) seen.insert(stream.bits(index));
    CHECK(seen.size() == 6 * 3);
  }
  TEST_CASE("no bits make a uniform number 0 or 1") {
    static_assert(open_unit(0) > 0.0 && open_unit(~std::uint64_t{0}) < 1.0);
    static_assert(open_unit(std::uint64_t{1} << 63) > 0.5 && open_unit((std::uint64_t{1} << 63) - 1) < 0.5);
    CHECK(open_unit(0) + open_unit(~std::uint64_t{0}) == 1.0);
  }
  TEST_CASE("uniform numbers fill (0, 1) evenly") {
    const random_stream s(3, "uniform");
    constexpr int count = 200000, bins = 20;
    std::vector<int> bin(bins);
    double sum = 0;
    bool inside = true;
    for (std::uint64_t i = 0; i < count; ++i) {
      const double u = s.uniform(i);
      inside = inside && u > 0 && u < 1;
      sum += u;
      ++bin[std::size_t(u * bins)];
    }
    CHECK(inside);
    CHECK(sum / count == doctest::Approx(0.5).epsilon(0.005));
    double chi_squared = 0;
    for (const int n : bin) chi_squared += (n - count / bins) * double(n - count / bins) / (count / bins);
    CHECK(chi_squared < 43.8);  // 19 degrees of freedom: one seed in a thousand is above
  }
  TEST_CASE("normal numbers have mean 0, variance 1, no skew, kurtosis 3 and light tails, and neighbours are uncorrelated") {
    const random_stream s(4, "normal");
    constexpr int count = 200000;
    double moment[5] = {}, neighbours = 0, last = 0, largest = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
      const double x = s.normal(i);
      double power = 1;
      for (double& m : moment) m += power / count, power *= x;
      neighbours += x * last / count;
      last = x;
      largest = std::max(largest, std::abs(x));
    }
    CHECK(std::abs(moment[1]) < 0.01);
    CHECK(std::abs(moment[2] - 1) < 0.015);
    CHECK(std::abs(moment[3]) < 0.03);
    CHECK(std::abs(moment[4] - 3) < 0.1);
    CHECK(std::abs(neighbours) < 0.01);
    CHECK((largest > 4 && largest < 6));
  }
}
