#pragma once
// What an attention block lets its user choose, with defaults: derive from attention_defaults and say only what differs.
#include <moefold/attention/cp_all_to_all.hpp>
#include <moefold/core/model_shape.hpp>
#include <moefold/core/precision.hpp>

namespace moefold {

struct attention_defaults {
  static constexpr model_shape model{};
  static constexpr extent_t sequence = 256;  // tokens of one sequence before CP and TP cut it
  using precision = fp32;
  using context = cp_all_gather;
};

}  // namespace moefold
