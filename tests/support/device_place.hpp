#pragma once
// Device memory as a place of the communicator suite: check_communicator<float, bf16>(c, test::in_device_memory{e}). Nothing here waits before the call
// under test: a communicator that forgets an event finds memory that is not written yet, or not its any more.
#include "communicator_suite.hpp"
#include "device.hpp"

namespace moefold::test {

struct in_device_memory {
  cuda_exec e;

  template <class T>
  device_tensor<T> put(const std::vector<T>& v) const {
    device_tensor<T> out({extent_t(v.size())});
    upload(e, view<const T>(v.data(), {extent_t(v.size())}), out.view());
    return out;
  }
  template <class T>
  device_tensor<T> room(std::size_t count, T) const {
    device_tensor<T> out({extent_t(count)});
    spoil(out);
    return out;
  }
  template <class Range>
  auto get(const Range& range) const {
    using T = element_of<const Range>;
    std::vector<T> out(std::size(range));
    const shape s{extent_t(out.size())};
    download(e, view<const T>(std::data(range), s), view<T>(out.data(), s));
    return out;
  }
  template <class Range>
  void spoil(Range&& range) const {
    const auto bytes = std::as_writable_bytes(span_of(range));
    if (!bytes.empty()) cuda_check(cudaMemsetAsync(bytes.data(), 0xff, bytes.size(), e.stream), "spoiling a test input");
  }
};

}  // namespace moefold::test
