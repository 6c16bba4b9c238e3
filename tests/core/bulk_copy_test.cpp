#include <moefold/core/bulk_copy.hpp>

#include <doctest/doctest.h>

#include <vector>

using namespace moefold;

TEST_SUITE("core/bulk_copy") {
  TEST_CASE("every byte arrives and none beside them changes, at every alignment, past the cache and through it") {
    std::vector<unsigned char> from(12000), to(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<unsigned char>(i * 7 + i / 256);
    int wrong = 0;
    for (std::size_t footprint : {std::size_t{0}, bulk_footprint + 1})
      for (std::size_t shift = 0; shift < 70; ++shift)
        for (std::size_t bytes : {0, 1, 63, 4095, 4096, 4097, 8191, 10000}) {
          std::fill(to.begin(), to.end(), static_cast<unsigned char>(0xee));
          bulk_copy(to.data() + shift, from.data() + 2 * shift, bytes, footprint);
          for (std::size_t i = 0; i < to.size(); ++i) {
            const bool inside = i >= shift && i < shift + bytes;
            wrong += to[i] != (inside ? from[i + shift] : 0xee);
          }
        }
    CHECK(wrong == 0);
    for (std::size_t shift = 0; shift < 70; ++shift)
      for (std::size_t bytes : {0, 1, 255, 256, 257, 700}) {
        std::fill(to.begin(), to.end(), static_cast<unsigned char>(0xee));
        stream_copy(to.data() + shift, from.data() + 2 * shift, bytes);
        stream_fence();
        for (std::size_t i = 0; i < to.size(); ++i) wrong += to[i] != (i >= shift && i < shift + bytes ? from[i + shift] : 0xee);
      }
    CHECK(wrong == 0);
  }
}
