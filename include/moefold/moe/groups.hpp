#pragma once
// The communicators a MoE layer uses. Only ep and etp are always needed; what a policy needs besides is asked for by name.
//
//   ep, etp              of the MoE mesh: tokens travel over them
//   tp                   of the attention mesh: the shared expert's width is split over it
//   sequence  tp x cp    full-sequence dropping; balance losses over a micro-batch or a sequence
//   batch     tp x cp x dp    running balance loss
#include <moefold/comm/communicator.hpp>

namespace moefold {

template <class Comm>
struct moe_groups {
  Comm* ep = nullptr;
  Comm* etp = nullptr;
  Comm* tp = nullptr;
  Comm* sequence = nullptr;
  Comm* batch = nullptr;
};

/// The communicator, or a config_error that says who needs it.
template <class Comm>
Comm& require_group(Comm* group, const char* member, const char* axes, const char* why) {
  require<config_error>(group != nullptr, "moefold: ", why, " works over the ranks of ", axes,
                        "; pass that communicator as moe_groups::", member);
  return *group;
}

}  // namespace moefold
