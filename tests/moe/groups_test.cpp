#include <moefold/moe/groups.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>

using namespace moefold;

TEST_SUITE("moe/groups") {
  TEST_CASE("a group that is there is given back itself") {
    self_comm tp("tp"), other("other");
    const moe_groups<self_comm> groups{.ep = &other, .etp = &other, .tp = &tp};
    CHECK(&require_group(groups.tp, "tp", "tp", "the shared expert") == &tp);
  }
  TEST_CASE("no group is there unless it is given") {
    const moe_groups<self_comm> groups;
    CHECK((!groups.ep && !groups.etp && !groups.tp && !groups.sequence && !groups.batch));
  }
  TEST_CASE("a missing group is refused with who needs it, over which axes, and where it goes") {
    const moe_groups<self_comm> groups;
    CHECK_THROWS_WITH_AS(
        require_group(groups.batch, "batch", "tp x cp x dp", "the running balance loss"),
        "moefold: the running balance loss works over the ranks of tp x cp x dp; pass that communicator as moe_groups::batch",
        config_error);
  }
}
