#pragma once
// What attention needs of memory on cp ranks: scratch and kept tensors together, of the rank that needed most. The sequence is packed with documents of
// 64 tokens: shapes and messages are those of one long document, the computation is not.
//
//   share   peak(cp) / peak(base) against base / cp: 1 where memory falls as 1/cp. The base is the fewest ranks on which everything travels that
//           travels on more: 2, and 4 for cp_combined<2>, whose ring begins there; on fewer nothing is held for it.
#include "attended.hpp"

namespace moefold::test {

template <class Context>
double context_peak(int cp, extent_t sequence) {
  attended a(model_shape{.hidden = 4, .heads = 8, .kv_heads = 8, .head_dim = 2}, sequence, 1);
  for (extent_t i = 0; i < sequence; ++i) a.first.push_back(std::int32_t(i / 64 * 64));
  return double(a.on<fp32, Context>(1, cp).peak);
}

/// How far peak(cp) is above a fair share of peak(base); 1: exactly a share.
template <class Context>
double context_share(int base, int cp, extent_t sequence) {
  return context_peak<Context>(cp, sequence) / context_peak<Context>(base, sequence) * cp / base;
}

template <class Context>
void check_memory_falls(int base, extent_t sequence) {
  const std::string name = Context::name;
  const double most = context_peak<Context>(base, sequence);
  for (int cp = 2 * base; cp <= 8; cp *= 2) {
    const double peak = context_peak<Context>(cp, sequence);
    INFO(name << ", cp " << cp << ": " << peak << " bytes; cp " << base << ": " << most);
    CHECK(peak / most * cp / base == doctest::Approx(1).epsilon(0.15));
  }
}

}  // namespace moefold::test
