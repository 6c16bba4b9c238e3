#pragma once
// What a stage tells while it computes, so that communication can run beside it: which layer it is about to touch (its parameters must be there) and which
// layer's gradients are final (they may be summed). Two plain callbacks; without them nothing is told.
//
//   layer   -1: embedding     0 .. layers - 1: blocks     layers: final norm and head
//   before  in forward, in order of use                  ready   in the backward of a chunk's last micro-batch, from its last layer to its first
#include <moefold/core/error.hpp>

namespace moefold {

struct stage_events {
  using function = void (*)(void* context, extent_t layer);
  void* context = nullptr;
  function before = nullptr;
  function ready = nullptr;

  void about_to_use(extent_t layer) const {
    if (before != nullptr) before(context, layer);
  }
  void gradients_ready(extent_t layer) const {
    if (ready != nullptr) ready(context, layer);
  }
  /// The same without `ready`: the gradients are not final yet.
  stage_events not_last() const { return {context, before, nullptr}; }
};

}  // namespace moefold
