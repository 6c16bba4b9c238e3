#pragma once
// The only macro file. Everything the preprocessor must decide is decided here, in five macros.
//
//   MOEFOLD_HD          a function that host and device code may call
//   MOEFOLD_HAS_CBLAS   1 when the build links a CBLAS (the CMake target sets MOEFOLD_WITH_CBLAS), else 0
//   MOEFOLD_HAS_MUTANTS 1 in the one program of the tests that puts known bugs back (core/mutant.hpp), else 0
//   MOEFOLD_RESTRICT    the pointer aliases nothing else in this function
//   MOEFOLD_RULE        one rule about numbers: a compile error for types, the same sentence for values
#include <moefold/core/version.hpp>

#if defined(__CUDACC__)
#define MOEFOLD_HD __host__ __device__
#else
#define MOEFOLD_HD
#endif

#if defined(MOEFOLD_WITH_CBLAS)
#define MOEFOLD_HAS_CBLAS 1
#else
#define MOEFOLD_HAS_CBLAS 0
#endif

#if defined(MOEFOLD_WITH_MUTANTS)
#define MOEFOLD_HAS_MUTANTS 1
#else
#define MOEFOLD_HAS_MUTANTS 0
#endif

#define MOEFOLD_RESTRICT __restrict__

// MOEFOLD_RULE(heads, q_heads, tp, q_heads % tp == 0, "moefold: ...") makes
//   check_heads<q_heads, tp>            a class whose instantiation fails with the sentence; its arguments are the numbers
//   heads_holds(q_heads, tp)            the bare condition
//   require_heads(q_heads, tp)          the same check at run time: throws config_error with the same sentence and the numbers
// A header that uses it includes <moefold/core/error.hpp>.
#define MOEFOLD_RULE(name, a, b, condition, sentence)                                               \
  constexpr bool name##_holds(::moefold::extent_t a, ::moefold::extent_t b) { return condition; }   \
  template < ::moefold::extent_t a, ::moefold::extent_t b>                                          \
  struct check_##name {                                                                             \
    static_assert(condition, sentence);                                                             \
    static constexpr bool ok = condition;                                                           \
  };                                                                                                \
  constexpr void require_##name(::moefold::extent_t a, ::moefold::extent_t b) {                     \
    ::moefold::require<::moefold::config_error>(condition, sentence, " (given " #a " = ", a, ", " #b " = ", b, ")"); \
  }
