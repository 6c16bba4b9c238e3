#pragma once
// Thread ranks that cannot see each other's memory: what MPI and NCCL ranks are to a dispatcher, which must then pack, exchange and sort.
#include <moefold/comm/thread.hpp>

namespace moefold::test {

struct packed_comm : thread_comm {
  explicit packed_comm(thread_comm inner) : thread_comm(std::move(inner)) {}
  packed_comm split(int colour, int key, comm_label label = {}) { return packed_comm(thread_comm::split(colour, key, label)); }
  template <class... Arguments>
  void fetch_v(Arguments&&...) = delete;
};
static_assert(communicator<packed_comm> && !fetching<packed_comm>);

}  // namespace moefold::test
