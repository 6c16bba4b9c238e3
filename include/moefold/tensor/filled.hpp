#pragma once
// Tensors that begin with numbers: filled with one value, or with what the host has written. In memory of any exec.
//
//   filled<T, Memory>(e, shape, value)        uploaded<Memory>(e, numbers)        on the host, where nothing is launched, e may be no_exec
#include <moefold/tensor/copy.hpp>
#include <moefold/tensor/tensor.hpp>

namespace moefold {

/// In place of an exec, for host memory.
struct no_exec {
  using memory = host_memory;
};

/// An exec whose operations work on Memory.
template <class Exec, class Memory>
concept works_on = std::is_same_v<typename Exec::memory, Memory>;

template <class T, class Memory, works_on<Memory> Exec>
tensor<T, Memory> filled(Exec e, const shape& s, T value) {
  if constexpr (std::is_same_v<Memory, host_memory>) {
    return tensor<T, Memory>(s, value);
  } else {
    tensor<T, Memory> made(s);
    fill(e, made.view(), value);  // ops/elementwise
    return made;
  }
}

template <class Memory, works_on<Memory> Exec, class T>
tensor<T, Memory> uploaded(Exec e, std::span<const T> numbers) {
  tensor<T, Memory> made({extent_t(numbers.size())});
  if constexpr (std::is_same_v<Memory, host_memory>)
    std::copy(numbers.begin(), numbers.end(), made.data());
  else
    upload(e, view<const T>(numbers.data(), made.shape()), made.view());
  return made;
}

}  // namespace moefold
