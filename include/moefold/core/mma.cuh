#pragma once
// Products on tensor cores, one warp at a time, and the loads that feed them: the instructions that C++ has no words for, each with the same result in
// plain C++ for the emulator (tests/emulator). bf16 in, float out.
//
//   lane 4 g + t   a [16, 16]  row g: columns 2t 2t+1 | 2t+8 2t+9    a[0] a[2]      row g + 8: the same columns   a[1] a[3]
//                  b [16, 8]   column g: rows 2t 2t+1 | 2t+8 2t+9    b[0] b[1]      two bf16 in 32 bits, the first in the lower half
//                  d [16, 8]   row g: columns 2t 2t+1                d[0] d[1]      row g + 8                     d[2] d[3]
//
// Source: NVIDIA, "Parallel Thread Execution ISA": mma.m16n8k16, ldmatrix, cp.async. Needs sm_80.
#include <moefold/core/pack.cuh>
#include <moefold/core/warp.cuh>

#include <bit>
#include <cmath>
#if defined(MOEFOLD_EMULATED)
#include <async_copy.h>
#endif

namespace moefold {

/// Two numbers, rounded, as a fragment holds them.
__device__ inline unsigned pair_of_bf16(float low, float high) {
#if defined(MOEFOLD_EMULATED)
  return unsigned(bf16(low).bits) | unsigned(bf16(high).bits) << 16;
#else
  unsigned both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
#endif
}

/// 2^x, to about 22 bits; -inf gives 0.
__device__ inline float exp2_of(float x) {
#if defined(MOEFOLD_EMULATED)
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

/// d [16, 8] += a [16, 16] b [16, 8]. The whole warp calls it.
__device__ inline void mma_m16n8k16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if defined(MOEFOLD_EMULATED)
  struct of_a {
    unsigned part[4];
  };
  struct of_b {
    unsigned part[2];
  };
  const int lane = int(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
  const auto half = [](unsigned both, int which) { return std::bit_cast<float>(which ? both & 0xffff0000u : both << 16); };
  emulator::block& here = *emulator::block::current();  // a shuffle of which every lane sees all values, until the next but one
  of_a row[4];
  const auto* const rows = here.meet(emulator::collective::shuffle, whole_warp, of_a{{a[0], a[1], a[2], a[3]}});
  for (int i = 0; i < 4; ++i) std::memcpy(&row[i], rows[4 * g + i], sizeof row[i]);
  const auto* const columns = here.meet(emulator::collective::shuffle, whole_warp, of_b{{b[0], b[1]}});
  for (int i = 0; i < 4; ++i)  // lane i of a row or column holds four of its sixteen elements
    for (int c = 0; c < 2; ++c) {
      of_b column;
      std::memcpy(&column, columns[4 * (2 * t + c) + i], sizeof column);
      for (int r = 0; r < 2; ++r)
        for (int k = 0; k < 4; ++k) d[2 * r + c] += half(row[i].part[r + 2 * (k / 2)], k % 2) * half(column.part[k / 2], k % 2);
    }
#else
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/// Four 8 x 8 matrices of shared memory: lane l says where row l % 8 of matrix l / 8 begins (on 16 bytes) and gets, of each matrix, row g: columns 2t 2t+1;
/// Transposed: column g: rows 2t 2t+1. The whole warp calls it.
template <bool Transposed>
__device__ inline void load_matrices(unsigned (&to)[4], const bf16* row) {
#if defined(MOEFOLD_EMULATED)
  const int lane = int(threadIdx.x) % warp_lanes, g = lane / 4, t = lane % 4;
  const auto* const rows = emulator::block::current()->meet(emulator::collective::shuffle, whole_warp, row);
  for (int m = 0; m < 4; ++m)
    for (int i = 0; i < 2; ++i) {
      const bf16* from = nullptr;
      std::memcpy(&from, rows[8 * m + (Transposed ? 2 * t + i : g)], sizeof from);
      const unsigned bits = from[Transposed ? g : 2 * t + i].bits;
      to[m] = i == 0 ? bits : to[m] | bits << 16;
    }
#else
  const unsigned at = unsigned(__cvta_generic_to_shared(row));
  if constexpr (Transposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(at)
                 : "memory");
#endif
}

/// Copies 4 or 16 bytes to shared memory while the thread goes on, or writes zeros there (`from` must still be a valid address).
template <int Bytes>
__device__ inline void copy_async(void* to_shared, const void* from, bool real) {
  static_assert(Bytes == 4 || Bytes == 16);
#if defined(MOEFOLD_EMULATED)
  emulator::async_copies::own().begin(to_shared, from, Bytes, real);
#else
  const unsigned at = unsigned(__cvta_generic_to_shared(to_shared));
  if constexpr (Bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(real ? 16 : 0) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(at), "l"(from), "r"(real ? 4 : 0) : "memory");
#endif
}
/// Ends a group of this thread's copies.
__device__ inline void copy_async_commit() {
#if defined(MOEFOLD_EMULATED)
  emulator::async_copies::own().end_group();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
/// Waits until at most `Pending` groups of this thread are on their way; a barrier must follow before other threads read.
template <int Pending>
__device__ inline void copy_async_wait() {
#if defined(MOEFOLD_EMULATED)
  emulator::async_copies::own().wait(Pending);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

}  // namespace moefold
