#include <moefold/tensor/tensor.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <numeric>

using namespace moefold;

namespace {

struct booked {
  static inline int live = 0;
  static inline std::size_t asked = 0;  // bytes of the last block
  static void* allocate(std::size_t bytes) {
    ++live;
    asked = bytes;
    return host_memory::allocate(bytes);
  }
  static void deallocate(void* block) noexcept {
    live -= block != nullptr;
    host_memory::deallocate(block);
  }
};
using owned = tensor<int, booked>;

}  // namespace

TEST_SUITE("tensor/tensor") {
  TEST_CASE("a tensor owns as many elements as its shape says, aligned, one allocation") {
    const std::size_t before = host_memory::allocations();
    tensor<double> t({3, 5}, 2.5);
    CHECK(host_memory::allocations() == before + 1);
    CHECK((t.size() == 15 && t.shape() == shape{3, 5} && t.extent(1) == 5));
    CHECK(std::uintptr_t(t.data()) % 64 == 0);
    CHECK(std::accumulate(t.begin(), t.end(), 0.0) == 37.5);
    t[14] = 1;
    CHECK(t.view()(2, 4) == 1);
    CHECK(tensor<float>(shape{}, 3.0f)[0] == 3.0f);
  }
  TEST_CASE("a tensor gives views, writable only if it is") {
    tensor<float> t({2, 2}, 0.0f);
    const tensor<float>& read = t;
    const view<float> w = t;
    w(1, 1) = 4;
    const view<const float> r = read;
    CHECK((r.data() == t.data() && r(1, 1) == 4 && read[3] == 4 && read.end() - read.begin() == 4));
    static_assert(!std::is_convertible_v<const tensor<float>&, view<float>>);
    static_assert(!std::is_copy_constructible_v<tensor<float>>);  // a copy of a tensor is never an accident
  }
  TEST_CASE("no tensor and no rows are tensors without elements") {
    const tensor<float> none, empty({0, 7});
    CHECK((none.size() == 0 && none.data() == nullptr && none.view().empty()));
    CHECK((empty.size() == 0 && empty.data() != nullptr && empty.extent(1) == 7));
  }
  TEST_CASE("a move takes memory and shape along; everything is given back once") {
    {
      owned a({2, 3}, 1), b({4}, 2);
      CHECK(booked::asked == 4 * sizeof(int));
      const int* const memory = a.data();
      owned c(std::move(a));
      CHECK((c.data() == memory && c.shape() == shape{2, 3}));
      CHECK((a.data() == nullptr && a.size() == 0));
      b = std::move(c);
      CHECK((b.data() == memory && b[5] == 1));
      owned empty;
      b = std::move(empty);
      CHECK(b.size() == 0);
      CHECK(booked::live == 2);
    }
    CHECK(booked::live == 0);
  }
}
