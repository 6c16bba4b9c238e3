#pragma once
// What a MoE block lets its user choose, with defaults: derive from moe_defaults and say only what differs.
#include <moefold/core/model_shape.hpp>
#include <moefold/core/precision.hpp>
#include <moefold/moe/all_to_all.hpp>
#include <moefold/moe/tokens.hpp>

namespace moefold {

struct moe_defaults {
  static constexpr model_shape model{};
  using precision = fp32;
  using tokens = dropless;
  template <class T, class Comm, class Tokens>
  using dispatcher = all_to_all_dispatcher<T, Comm, Tokens>;
};

}  // namespace moefold
