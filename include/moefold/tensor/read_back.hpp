#pragma once
// A few numbers that operations of an exec write and the host reads, such as the sums of a training step. On the host one array, on a device two, and
// read() is where the host waits for them.
//
//   ops of e -> at(first, count)        read(e) -> the same numbers on the host
#include <moefold/tensor/copy.hpp>
#include <moefold/tensor/tensor.hpp>

#include <span>
#include <vector>

namespace moefold {

template <class T, class Memory = host_memory>
class read_back {
 public:
  read_back() = default;
  explicit read_back(extent_t count) : host_(std::size_t(count), T(0)) {
    if constexpr (apart) there_ = tensor<T, Memory>({count});
  }

  extent_t size() const { return extent_t(host_.size()); }
  /// Where the exec writes `count` of them from number `first` on; uninitialised at first on a device.
  view<T> at(extent_t first, extent_t count) {
    require(first >= 0 && count >= 0 && first + count <= size(), "moefold: numbers ", first, " to ", first + count, " of ", size());
    if constexpr (apart)
      return {there_.data() + first, {count}};
    else
      return {host_.data() + first, {count}};
  }
  view<T> all() { return at(0, size()); }
  /// All of them as the operations of e have left them. Waits.
  template <class Exec>
  std::span<T> read(Exec e) {
    if constexpr (apart) download(e, there_.view(), view<T>(std::span(host_)));
    return host_;
  }
  /// What read() has given last.
  std::span<const T> last_read() const { return host_; }

 private:
  static constexpr bool apart = !std::is_same_v<Memory, host_memory>;
  struct nothing {};
  std::vector<T> host_;
  [[no_unique_address]] std::conditional_t<apart, tensor<T, Memory>, nothing> there_{};
};

}  // namespace moefold
