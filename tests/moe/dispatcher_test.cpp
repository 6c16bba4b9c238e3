#include <moefold/comm/self.hpp>
#include <moefold/moe/all_gather.hpp>
#include <moefold/moe/all_to_all.hpp>
#include <moefold/moe/dispatcher.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

struct no_way_back : all_to_all_dispatcher<float, self_comm> {
  template <class Exec>
  void dispatch_backward(Exec) const {}  // hides the real one
};
struct never_idle : all_to_all_dispatcher<float, self_comm> {
  template <class Exec, class Arena>
  ticket dispatch(Exec e, view<const float> x, const routing<float>& choice, Arena& keep) const;  // has no place for work in the meantime
};

}  // namespace

TEST_SUITE("moe/dispatcher") {
  TEST_CASE("what dispatches, combines and goes back through both is a dispatcher; what lacks one of them is not") {
    CHECK(dispatcher<all_to_all_dispatcher<float, self_comm>, host_exec>);
    CHECK(dispatcher<all_to_all_dispatcher<double, self_comm>, host_exec>);
    CHECK(dispatcher<all_gather_dispatcher<double, self_comm>, host_exec>);
    CHECK_FALSE(dispatcher<no_way_back, host_exec>);
    CHECK_FALSE(dispatcher<never_idle, host_exec>);
    CHECK_FALSE(dispatcher<int, host_exec>);
  }
}
