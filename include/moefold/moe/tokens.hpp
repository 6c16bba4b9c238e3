#pragma once
// Which (token, expert) pairs a MoE layer keeps. A token policy is a small struct; dropless keeps them all.

namespace moefold {

struct dropless {  // every pair is kept; shapes follow the routing
  static constexpr const char* name = "dropless";
};

template <class P>
concept token_policy = requires {
  P::name;
};

static_assert(token_policy<dropless>);

}  // namespace moefold
