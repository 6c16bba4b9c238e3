#pragma once
// The router's jitter: every element of a token times its own factor from U(1 - eps, 1 + eps), a function of (seed, step, layer, global token,
// element): the same in every mapping, in backward and on a device.
//
//   local token t -> sequence first_sample + t % batch, true position -> global token -> the factor's place in the stream (core/rng.hpp)
#include <moefold/core/rng.hpp>
#include <moefold/core/sequence_part.hpp>
#include <moefold/ops/rows.hpp>

namespace moefold {

struct jitter_rule {
  random_stream draw{0, std::uint64_t{0}};
  double strength = 0;        // eps
  extent_t first_sample = 0;  // the sequence of token 0
  extent_t batch = 1;         // sequences of the micro-batch: token t is of sequence first_sample + t % batch
  sequence_part part{};       // which positions; without a sequence all tokens of a sequence are its first

  /// Place in the stream of element 0 of a token whose rows have `width` elements.
  MOEFOLD_HD constexpr std::uint64_t first(extent_t token, extent_t width) const {
    const extent_t sequence = part.sequence > 1 ? part.sequence : 1;
    return std::uint64_t(((first_sample + token % batch) * sequence + part.local_position(token / batch)) * width);
  }
  MOEFOLD_HD constexpr double factor(std::uint64_t place) const { return 1 + strength * (2 * draw.uniform(place) - 1); }
};

/// out = in, every element times its factor. out may be the memory of in.
template <class T>
void jitter_rows(host_exec, input<T> in, const jitter_rule& rule, view<T> out) {
  using A = accumulate_t<T>;
  const extent_t n = rows_of(out), width = cols_of(out);
  require_matrix("jitter_rows", "in", in, n, width);
  for (extent_t t = 0; t < n; ++t) {
    const std::uint64_t first = rule.first(t, width);
    for (extent_t c = 0; c < width; ++c)
      out.data()[t * width + c] = T(A(in.data()[t * width + c]) * A(rule.factor(first + std::uint64_t(c))));
  }
}

/// y += in, every element times its factor: the way back, rounded once.
template <class T>
void add_jittered(host_exec, input<accumulate_t<T>> in, const jitter_rule& rule, view<T> y) {
  using A = accumulate_t<T>;
  const extent_t n = rows_of(y), width = cols_of(y);
  require_matrix("add_jittered", "in", in, n, width);
  for (extent_t t = 0; t < n; ++t) {
    const std::uint64_t first = rule.first(t, width);
    for (extent_t c = 0; c < width; ++c) {
      T& to = y.data()[t * width + c];
      to = T(A(to) + in.data()[t * width + c] * A(rule.factor(first + std::uint64_t(c))));
    }
  }
}

}  // namespace moefold
