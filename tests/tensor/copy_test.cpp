#include <moefold/tensor/copy.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("tensor/copy") {
  TEST_CASE("on the host nothing moves: on_exec and on_host give the view itself") {
    host_context context;
    const host_exec e(context);
    arena keep;
    const view<int> x = keep.take<int>(3);
    CHECK(on_exec(e, x, keep).data() == x.data());
    CHECK(on_host(e, x, keep).data() == x.data());
    CHECK(keep.take_host<int>(2).data() != x.data());
  }
  TEST_CASE("upload and download copy, and refuse different sizes") {
    host_context context;
    const host_exec e(context);
    arena keep;
    const view<int> x = keep.take<int>(2), y = keep.take<int>(2), z = keep.take<int>(2);
    x[0] = 4, x[1] = 5;
    upload(e, x, y);
    download(e, y, z);
    CHECK(z[0] == 4);
    CHECK(z[1] == 5);
    CHECK_THROWS_WITH_AS(upload(e, x, y.rows(0, 1)), "moefold: upload of 2 elements into 1", error);
    CHECK_THROWS_WITH_AS(download(e, x, y.rows(0, 1)), "moefold: download of 2 elements into 1", error);
  }
}
