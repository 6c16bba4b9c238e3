#include <moefold/tensor/arena.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>

using namespace moefold;

TEST_SUITE("tensor/arena") {
  TEST_CASE("tensors of an arena have their shape and their own aligned memory until it is cleared") {
    arena keep;
    const view<double> a = keep.take<double>(3, 5);
    const view<std::uint8_t> b = keep.take<std::uint8_t>(extent_t{7});
    const view<float> none = keep.take<float>(0, 4), scalar = keep.take<float>();
    CHECK((a.shape() == shape{3, 5} && b.shape() == shape{7} && none.shape() == shape{0, 4} && scalar.size() == 1));
    std::fill(a.begin(), a.end(), 1.5);
    std::fill(b.begin(), b.end(), std::uint8_t{255});
    scalar[0] = 3;
    CHECK(std::count(a.begin(), a.end(), 1.5) == 15);
    for (const void* p : {static_cast<const void*>(a.data()), static_cast<const void*>(b.data()), static_cast<const void*>(none.data())})
      CHECK((p != nullptr && std::uintptr_t(p) % 64 == 0));
    CHECK(keep.peak() == 128 + 64 + 64 + 64);
    keep.clear();
    CHECK(keep.take<float>(1).data() == static_cast<void*>(a.data()));
    CHECK(keep.peak() == 320);
  }
  TEST_CASE("a tensor of another one's shape is taken from arena and scratch alike, and is memory of its own") {
    arena keep;
    host_context context;
    scratch local{host_exec(context)};
    const view<float> a = keep.take<float>(2, 3, 1, 5), b = keep.take<float>(a.shape()), c = local.take<float>(a.shape());
    CHECK((b.shape() == a.shape() && c.shape() == a.shape()));
    CHECK((b.data() >= a.data() + a.size() && c.data() != a.data() && c.data() != b.data()));
    CHECK(local.take<float>(1).data() >= c.data() + c.size());
  }
  TEST_CASE("marks of an arena nest") {
    arena keep(4096);
    keep.take<float>(10);
    const auto outer = keep.mark();
    float* const first = keep.take<float>(10).data();
    const auto inner = keep.mark();
    float* const second = keep.take<float>(10).data();
    keep.release(inner);
    CHECK(keep.take<float>(10).data() == second);
    keep.release(outer);
    CHECK(keep.take<float>(10).data() == first);
  }
  TEST_CASE("a reserved arena allocates nothing while what is taken fits") {
    arena keep;
    keep.reserve(64 * 100);
    CHECK(keep.capacity() == 6400);
    const std::size_t before = host_memory::allocations();
    for (int step = 0; step < 3; ++step, keep.clear())
      for (int i = 0; i < 100; ++i) keep.take<double>(8);
    CHECK(host_memory::allocations() == before);
  }

  TEST_CASE("scratch nests by scope: what an inner scope took is taken again after it, what the outer took stays") {
    host_context context;
    const host_exec e(context);
    double* inner_first = nullptr;
    {
      scratch outer(e);
      const view<double> kept = outer.take<double>(2, 3);
      std::fill(kept.begin(), kept.end(), 4.0);
      for (int i = 0; i < 3; ++i) {
        scratch inner(e);
        const view<double> borrowed = inner.take<double>(100, 2);
        std::fill(borrowed.begin(), borrowed.end(), -1.0);
        if (i == 0) inner_first = borrowed.data();
        CHECK(borrowed.data() == inner_first);
        {
          scratch innermost(e);
          CHECK(innermost.take<float>(1).data() == static_cast<void*>(borrowed.data() + 200));
        }
      }
      CHECK(std::count(kept.begin(), kept.end(), 4.0) == 6);
      CHECK(outer.take<double>(1).data() == inner_first);
    }
    scratch again(e);
    CHECK(again.take<double>(1).data() == inner_first - 8);
    static_assert(!std::is_copy_constructible_v<scratch<host_exec>>);
  }
  TEST_CASE("an exception gives scratch back too") {
    host_context context;
    const host_exec e(context);
    float* borrowed = nullptr;
    try {
      scratch local(e);
      borrowed = local.take<float>(10).data();
      require(false, "moefold: on purpose");
    } catch (const error&) {
    }
    scratch local(e);
    CHECK(local.take<float>(1).data() == borrowed);
  }
  TEST_CASE("an arena and the scratch of a rank grow while they warm up and never after") {
    host_context context;
    const host_exec e(context);
    arena keep;
    const auto step = [&] {
      keep.clear();
      for (int layer = 0; layer < 4; ++layer) {
        scratch local(e);
        local.take<float>(300000);
        keep.take<float>(100, 1000);
        scratch inner(e);
        inner.take<float>(200000);
      }
    };
    step();
    const std::size_t warm = host_memory::allocations(), peak = keep.peak();
    for (int i = 0; i < 3; ++i) step();
    CHECK(host_memory::allocations() == warm);
    CHECK((keep.peak() == peak && peak == 4 * 400000));
  }
}
