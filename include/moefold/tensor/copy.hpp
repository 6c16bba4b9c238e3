#pragma once
// Between host memory and the memory of an exec. On the host both are one, and nothing moves; on a device upload returns at once and download waits.
//
//   upload     host -> exec; the source may change as soon as it returns       on_exec   the same numbers where kernels can read them
//   download   exec -> host; when it returns the numbers are there             on_host   the same numbers where the host can read them
#include <moefold/tensor/arena.hpp>

#include <cstring>

namespace moefold {

template <class T>
void upload(host_exec, std::type_identity_t<view<const T>> from, view<T> to) {
  require(from.size() == to.size(), "moefold: upload of ", from.size(), " elements into ", to.size());
  if (!from.empty() && from.data() != to.data()) std::memcpy(to.data(), from.data(), from.bytes());
}
template <class T>
void download(host_exec, std::type_identity_t<view<const T>> from, view<T> to) {
  require(from.size() == to.size(), "moefold: download of ", from.size(), " elements into ", to.size());
  if (!from.empty() && from.data() != to.data()) std::memcpy(to.data(), from.data(), from.bytes());
}

/// `from`, which the host wrote, where operations of e can read it: itself on the host, else in `keep` (an arena or a scratch).
template <class Exec, class T, class Keep>
view<const T> on_exec(Exec e, view<T> from, Keep& keep) {
  if constexpr (std::is_same_v<typename Exec::memory, host_memory>) {
    return from;
  } else {
    const view<std::remove_const_t<T>> to = keep.template take<std::remove_const_t<T>>(from.shape());
    upload(e, from, to);
    return to;
  }
}
/// `from`, which operations of e wrote, where the host can read it: itself on the host, else in `keep`. Waits.
template <class Exec, class T, class Keep>
view<const T> on_host(Exec e, view<T> from, Keep& keep) {
  if constexpr (std::is_same_v<typename Exec::memory, host_memory>) {
    return from;
  } else {
    const view<std::remove_const_t<T>> to = keep.template take_host<std::remove_const_t<T>>(from.shape());
    download(e, from, to);
    return to;
  }
}

}  // namespace moefold
