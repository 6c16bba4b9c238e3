#include <moefold/core/fault.cuh>
#include <moefold/core/launch.cuh>

#include "../support/device.hpp"

#include <doctest/doctest.h>

using namespace moefold;

namespace {
namespace kernel {
__global__ void complain(device_fault* to, int kind) { report(to, fault_kind(kind), 3, std::int64_t(threadIdx.x) + 70, 64); }
}  // namespace kernel
}  // namespace

TEST_SUITE("core/fault") {
  TEST_CASE("the first complaint of a kernel is thrown when the host waits, and only then, and only once") {
    test::both_execs on;
    const auto complain = [&](fault_kind kind) {
      launch(on.device, "complain", kernel::complain, 1, 1, 0, on.there.faults.device(), int(kind));
    };
    complain(fault_kind::token);
    complain(fault_kind::row);
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: token 70 is outside the vocabulary of 64 (at place 3); use tokens from 0 to below it",
                         error);
    on.device.wait();
    complain(fault_kind::label);
    CHECK_THROWS_WITH_AS(on.device.wait(),
                         "moefold: label 70 is outside the vocabulary of 64 (at place 3); use labels below it, negative to ignore", error);
    complain(fault_kind::expert);
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: token 3 chose expert 70, of 64; experts are numbered from 0, -1 means dropped", error);
    complain(fault_kind::row);
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: place 3 asks for row 70 of 64", error);
    complain(fault_kind::slot);
    CHECK_THROWS_WITH_AS(on.device.wait(), "moefold: row 3 names slot 70 of 64", error);
    complain(fault_kind::capacity);
    CHECK_THROWS_AS(on.device.wait(), error);
    on.device.wait();
  }
}
