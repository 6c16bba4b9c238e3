#pragma once
// 16 bytes of elements, moved by one instruction. A kernel has a path in packs, for rows that begin on 16 bytes and have a whole number of packs, and
// a path in single elements for all others: both from one template, by the number of lanes.
//
//   pack<bf16> 8 lanes    pack<float> 4    pack<double> 2        lanes = packs(width, x, y) ? whole_pack<T> : 1
#include <moefold/core/config.hpp>
#include <moefold/core/scalar.hpp>

#include <cstdint>

namespace moefold {

template <class T>
inline constexpr int whole_pack = int(16 / sizeof(T));

template <class T, int Lanes = whole_pack<T>>
struct alignas(sizeof(T) * Lanes) pack {
  T lane[Lanes];
};

template <int Lanes, class T>
MOEFOLD_HD inline pack<T, Lanes> load_pack(const T* from) {
  return *reinterpret_cast<const pack<T, Lanes>*>(from);
}
template <class T, int Lanes>
MOEFOLD_HD inline void store_pack(T* to, const pack<T, Lanes>& value) {
  *reinterpret_cast<pack<T, Lanes>*>(to) = value;
}

/// The same to device memory by one instruction, whatever the compiler thinks: a pack that goes to several places in a loop it takes apart, and stores in pieces
/// of two bytes, at a quarter of the speed. No load moves across it.
template <class T, int Lanes>
MOEFOLD_HD inline void store_whole(T* to, const pack<T, Lanes>& value) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof value == 16)
    return __stwb(reinterpret_cast<uint4*>(to), __builtin_bit_cast(uint4, value));
  else if constexpr (sizeof value == 4 && Lanes > 1)
    return __stwb(reinterpret_cast<unsigned*>(to), __builtin_bit_cast(unsigned, value));
#endif
  store_pack(to, value);
}

/// Whether rows of `width` elements that begin at these addresses may be read and written in packs of 16 bytes.
template <class T, class... Pointers>
inline bool packs(std::int64_t width, const T* first, const Pointers*... others) {
  const auto aligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 == 0; };
  return width % whole_pack<T> == 0 && aligned(first) && (... && aligned(others));
}

}  // namespace moefold
