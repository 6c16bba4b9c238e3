#include <moefold/comm/self.hpp>
#include <moefold/moe/all_to_all.hpp>
#include <moefold/moe/dispatcher.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

struct no_way_back : all_to_all_dispatcher<float, self_comm> {
  template <class Exec>
  void dispatch_backward(Exec) const {}  // hides the real one
};
struct no_tokens : all_to_all_dispatcher<float, self_comm> {
  struct tokens {};
};

}  // namespace

TEST_SUITE("moe/dispatcher") {
  TEST_CASE("what dispatches, combines and goes back through both is a dispatcher; what lacks one of them is not") {
    CHECK(dispatcher<all_to_all_dispatcher<float, self_comm>, host_exec>);
    CHECK(dispatcher<all_to_all_dispatcher<double, self_comm>, host_exec>);
    CHECK_FALSE(dispatcher<no_way_back, host_exec>);
    CHECK_FALSE(dispatcher<no_tokens, host_exec>);
    CHECK_FALSE(dispatcher<int, host_exec>);
  }
}
