#pragma once
// The part of NCCL that comm/nccl.cuh uses, over threads of one process and the emulator's streams. Give each rank a thread and a device of its own
// (MOEFOLD_EMULATOR_DEVICES). As inconvenient as NCCL may be: calls return ncclInProgress, and nothing is on the stream before the state has been asked
// for; a child of a split is there when its parent has settled; a send ends when its recv has come; the first collective, and the first message of two ranks,
// is in progress until all of them have called, since it connects them; operations of one communicator follow each other;
// sums go from the last rank to the first and are rounded at every step; who aborts leaves the others waiting.
//
//   an operation on a stream: arrives, then waits for its peers' operations, and meanwhile works on the streams they are behind; the last one moves the data
#include <cuda_runtime.h>

#include <algorithm>
#include <climits>

#define NCCL_MAJOR 2
#define NCCL_MINOR 28
#define NCCL_PATCH 9
#define NCCL_VERSION_CODE 22809
#define NCCL_UNIQUE_ID_BYTES 128
#define NCCL_CONFIG_UNDEF_INT INT_MIN
#define NCCL_SPLIT_NOCOLOR -1

struct ncclUniqueId {
  char internal[NCCL_UNIQUE_ID_BYTES];
};
enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
  ncclInProgress = 7
};
enum ncclDataType_t { ncclUint8 = 1, ncclInt32 = 2, ncclInt64 = 4, ncclFloat32 = 7, ncclFloat64 = 8, ncclBfloat16 = 9 };
enum ncclRedOp_t { ncclSum = 0, ncclMax = 2 };
struct ncclConfig_t {
  int blocking;
  const char* commName;
};
#define NCCL_CONFIG_INITIALIZER \
  { NCCL_CONFIG_UNDEF_INT, nullptr }

namespace emulator {

/// Whether a stream has come to an event, without working on it.
inline bool reached(cudaEvent_t event) {
  const auto [from, place] = recorded(event);
  return !from || from->done.load(std::memory_order_acquire) >= place;
}

/// One piece of a stream's work before `place`, if nobody is at it.
inline void work_on(stream_state& s, std::uint64_t place) {
  if (s.done.load(std::memory_order_acquire) >= place || !s.running.try_lock()) return;
  const std::lock_guard lock(s.running, std::adopt_lock);
  if (s.done.load(std::memory_order_acquire) >= place) return;
  std::function<void()> work;
  {
    const std::lock_guard of_queue(s.guard);
    work = std::move(s.queue.front());
    s.queue.pop_front();
  }
  work();
  s.done.fetch_add(1, std::memory_order_release);
}

struct bfloat {
  std::uint16_t bits;
  operator float() const { return std::bit_cast<float>(std::uint32_t{bits} << 16); }
  bfloat& operator=(float x) {
    const std::uint32_t wide = std::bit_cast<std::uint32_t>(x);
    bits = std::uint16_t((wide + 0x7fffu + ((wide >> 16) & 1u)) >> 16);
    return *this;
  }
};

inline std::size_t size_of(ncclDataType_t type) {
  return type == ncclUint8 ? 1 : type == ncclBfloat16 ? 2 : type == ncclInt32 || type == ncclFloat32 ? 4 : 8;
}

enum class deed { all_reduce, reduce, broadcast, all_gather, reduce_scatter, send, recv };

/// One rank's part of an operation.
struct part {
  deed what{};
  const void* in = nullptr;
  void* out = nullptr;
  std::size_t count = 0;
  ncclDataType_t type = ncclUint8;
  ncclRedOp_t op = ncclSum;
  int peer = -1;  // of a message, or the root
  std::size_t bytes(std::size_t n) const { return n * size_of(type); }
};

/// An operation of several ranks: a collective of all, or a message of two.
struct meeting {
  struct seat {
    part mine;
    bool needed = false, called = false, arrived = false;
    std::shared_ptr<stream_state> stream;  // set when it is issued
    std::uint64_t place = 0;
  };
  std::vector<seat> seats;
  bool done = false;
};

struct nccl_ranks {  // of one communicator
  struct rank_state {
    std::uint64_t collectives = 0, splits = 0;
    std::vector<std::uint64_t> sent, received;  // per peer
    bool aborted = false;
  };
  struct division {
    int colour = -1, key = 0;
    bool here = false;
    std::shared_ptr<nccl_ranks> child;
    int child_rank = 0;
  };
  explicit nccl_ranks(int n) : ranks(static_cast<std::size_t>(n)) {
    for (rank_state& r : ranks) r.sent.resize(ranks.size()), r.received.resize(ranks.size());
  }
  int size() const { return int(ranks.size()); }

  std::mutex mutex;
  std::vector<rank_state> ranks;
  int joined = 0;
  ncclResult_t state = ncclSuccess;  // of all: what they have done wrong together
  std::map<std::uint64_t, std::shared_ptr<meeting>> collectives;
  std::map<std::tuple<int, int, std::uint64_t>, std::shared_ptr<meeting>> messages;
  std::map<std::uint64_t, std::vector<division>> splits;
  std::set<std::pair<int, int>> connected;  // (from, to); (-1, -1): for collectives
};

template <class T, class W>
void add_up(const meeting& m, std::size_t first, std::size_t count, std::vector<std::byte>& out) {
  out.resize(count * sizeof(T));
  T* const to = reinterpret_cast<T*>(out.data());
  for (std::size_t i = 0; i < count; ++i) {
    T total = static_cast<const T*>(m.seats.back().mine.in)[first + i];
    for (std::size_t r = m.seats.size() - 1; r-- > 0;) {
      const W a = W(total), b = W(static_cast<const T*>(m.seats[r].mine.in)[first + i]);
      total = m.seats[0].mine.op == ncclSum ? W(a + b) : a < b ? b : a;
    }
    to[i] = total;
  }
}
inline void add_up(const meeting& m, std::size_t first, std::size_t count, std::vector<std::byte>& out) {
  switch (m.seats[0].mine.type) {
    case ncclUint8: return add_up<std::uint8_t, std::uint8_t>(m, first, count, out);
    case ncclInt32: return add_up<std::int32_t, std::int32_t>(m, first, count, out);
    case ncclInt64: return add_up<std::int64_t, std::int64_t>(m, first, count, out);
    case ncclFloat32: return add_up<float, float>(m, first, count, out);
    case ncclFloat64: return add_up<double, double>(m, first, count, out);
    case ncclBfloat16: return add_up<bfloat, float>(m, first, count, out);
  }
}

/// What the parts say together, done; false where they disagree.
inline bool perform(meeting& m) {
  const device_heap::opened here;
  const auto put = [](void* to, const void* from, std::size_t bytes) {
    if (bytes > 0) std::memmove(to, from, bytes);
  };
  std::vector<meeting::seat*> seats;
  for (meeting::seat& s : m.seats)
    if (s.needed) seats.push_back(&s);
  const part& first = seats[0]->mine;
  if (first.what == deed::send || first.what == deed::recv) {
    const part *from = nullptr, *to = nullptr;
    for (const meeting::seat* s : seats) (s->mine.what == deed::send ? from : to) = &s->mine;
    if (from == nullptr || to == nullptr || from->count != to->count || from->type != to->type) return false;
    put(to->out, from->in, from->bytes(from->count));
    return true;
  }
  for (const meeting::seat* s : seats) {
    const part& p = s->mine;
    if (p.what != first.what || p.count != first.count || p.type != first.type || p.op != first.op || p.peer != first.peer) return false;
  }
  const std::size_t n = seats.size(), bytes = first.bytes(first.count);
  std::vector<std::byte> whole;
  switch (first.what) {
    case deed::all_reduce:
      add_up(m, 0, first.count, whole);
      for (meeting::seat* s : seats) put(s->mine.out, whole.data(), bytes);
      return true;
    case deed::reduce:
      add_up(m, 0, first.count, whole);
      put(seats[std::size_t(first.peer)]->mine.out, whole.data(), bytes);
      return true;
    case deed::broadcast:
      for (meeting::seat* s : seats) put(s->mine.out, seats[std::size_t(first.peer)]->mine.in, bytes);
      return true;
    case deed::all_gather:
      for (meeting::seat* s : seats) {
        const auto* const in = static_cast<const std::byte*>(s->mine.in);
        whole.insert(whole.end(), in, in + bytes);
      }
      for (meeting::seat* s : seats) put(s->mine.out, whole.data(), whole.size());
      return true;
    case deed::reduce_scatter: {
      std::vector<std::vector<std::byte>> sums(n);
      for (std::size_t r = 0; r < n; ++r) add_up(m, r * first.count, first.count, sums[r]);
      for (std::size_t r = 0; r < n; ++r) put(seats[r]->mine.out, sums[r].data(), bytes);
      return true;
    }
    default: return false;
  }
}

struct issued_part {
  std::shared_ptr<meeting> where;
  std::size_t seat;
};

/// Runs on the stream: all parts of one group of one rank.
inline void take_part(nccl_ranks& comm, int rank, std::vector<issued_part>& parts) {
  std::unique_lock lock(comm.mutex);
  for (issued_part& p : parts) {
    meeting& m = *p.where;
    m.seats[p.seat].arrived = true;
    const bool all = std::all_of(m.seats.begin(), m.seats.end(), [](const auto& s) { return !s.needed || s.arrived; });
    if (!all || m.done) continue;
    if (!perform(m)) {
      std::fprintf(stderr, "emulator: ranks disagree on an operation of NCCL; on a device they would hang, or read wrong data\n");
      comm.state = ncclInvalidUsage;
      continue;
    }
    m.done = true;
  }
  for (unsigned tries = 0;; ++tries) {
    const auto open = std::find_if(parts.begin(), parts.end(), [](const issued_part& p) { return !p.where->done; });
    if (open == parts.end() || comm.ranks[std::size_t(rank)].aborted) return;
    std::vector<std::pair<std::shared_ptr<stream_state>, std::uint64_t>> behind;
    for (const issued_part& p : parts)
      for (const meeting::seat& s : p.where->seats)
        if (!p.where->done && s.needed && !s.arrived && s.stream) behind.emplace_back(s.stream, s.place);
    lock.unlock();
    for (const auto& [stream, place] : behind) work_on(*stream, place);
    if (tries < 100)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    lock.lock();
  }
}

}  // namespace emulator

struct ncclComm {
  struct group {
    cudaStream_t stream;
    std::vector<emulator::issued_part> parts;
  };
  ncclComm(std::shared_ptr<emulator::nccl_ranks> of, int as) : all(std::move(of)), rank(as) {}
  std::shared_ptr<emulator::nccl_ranks> all;
  int rank;
  int settling = 0;           // how often the state is still "in progress"
  std::vector<group> issued;  // not yet on their streams
  ncclComm** child = nullptr;
  std::uint64_t split = 0;
};
using ncclComm_t = ncclComm*;

namespace emulator {

struct nccl_group {
  int depth = 0;
  std::vector<std::tuple<ncclComm_t, cudaStream_t, part>> calls;
};
inline nccl_group& group_of_thread() {
  static thread_local nccl_group mine;
  return mine;
}

/// Gives a part its place among its peers'.
inline issued_part seated(ncclComm_t comm, const part& p) {
  nccl_ranks& all = *comm->all;
  nccl_ranks::rank_state& me = all.ranks[std::size_t(comm->rank)];
  std::shared_ptr<meeting>* where = nullptr;
  std::size_t seat = std::size_t(comm->rank);
  if (p.what == deed::send || p.what == deed::recv) {
    const bool sends = p.what == deed::send;
    const int from = sends ? comm->rank : p.peer, to = sends ? p.peer : comm->rank;
    auto& number = sends ? me.sent[std::size_t(p.peer)] : me.received[std::size_t(p.peer)];
    where = &all.messages[{from, to, number++}];
    if (!*where) {
      *where = std::make_shared<meeting>();
      (*where)->seats.resize(2);
      (*where)->seats[0].needed = (*where)->seats[1].needed = true;
    }
    seat = sends ? 0 : 1;
  } else {
    where = &all.collectives[me.collectives++];
    if (!*where) {
      *where = std::make_shared<meeting>();
      (*where)->seats.resize(all.ranks.size());
      for (meeting::seat& s : (*where)->seats) s.needed = true;
    }
  }
  (*where)->seats[seat].mine = p;
  (*where)->seats[seat].called = true;
  return {*where, seat};
}

inline ncclResult_t end_of_group();

inline ncclResult_t call(ncclComm_t comm, cudaStream_t stream, const part& p) {
  if (comm == nullptr) return ncclInvalidArgument;
  if (p.peer < -1 || p.peer >= comm->all->size()) return ncclInvalidArgument;
  nccl_group& g = group_of_thread();
  g.calls.emplace_back(comm, stream, p);
  if (g.depth > 0) return ncclSuccess;
  ++g.depth;
  return end_of_group();
}

inline ncclResult_t end_of_group() {
  nccl_group& g = group_of_thread();
  if (g.depth == 0) return ncclInvalidUsage;
  if (--g.depth > 0) return ncclSuccess;
  const auto calls = std::exchange(g.calls, {});
  for (const auto& [comm, stream, p] : calls) {
    const std::lock_guard lock(comm->all->mutex);
    if (comm->settling > 0 && comm->child != nullptr) return ncclInvalidUsage;  // a call while a split is in progress
    if (comm->issued.empty() || comm->issued.back().stream != stream || comm->settling == 0) comm->issued.push_back({stream, {}});
    comm->issued.back().parts.push_back(seated(comm, p));
    comm->settling = 2;
  }
  return calls.empty() ? ncclSuccess : ncclInProgress;
}

/// Whether the ranks of an operation are connected, or have all called it and so are now.
inline bool connects(ncclComm_t comm, const issued_part& p) {
  const part& mine = p.where->seats[p.seat].mine;
  std::pair<int, int> who{-1, -1};
  if (mine.what == deed::send) who = {comm->rank, mine.peer};
  if (mine.what == deed::recv) who = {mine.peer, comm->rank};
  std::set<std::pair<int, int>>& known = comm->all->connected;
  if (known.contains(who)) return true;
  for (const meeting::seat& s : p.where->seats)
    if (s.needed && !s.called) return false;
  known.insert(who);
  return true;
}

/// With the lock held: time passes, and what was called gets further.
inline ncclResult_t settle(ncclComm_t comm) {
  nccl_ranks& all = *comm->all;
  if (all.state != ncclSuccess) return all.state;
  if (all.joined < all.size()) return ncclInProgress;
  if (comm->child != nullptr) {
    nccl_ranks::division& mine = all.splits[comm->split][std::size_t(comm->rank)];
    if (!mine.child) return ncclInProgress;
    *comm->child = new ncclComm(mine.child, mine.child_rank);
    comm->child = nullptr;
  }
  if (comm->settling > 0 && --comm->settling > 0) return ncclInProgress;
  bool connected = true;
  for (const ncclComm::group& g : comm->issued)
    for (const issued_part& p : g.parts) connected = connects(comm, p) && connected;
  if (!connected) return ncclInProgress;
  for (ncclComm::group& g : std::exchange(comm->issued, {})) {
    stream_state& s = state_of(g.stream);
    const std::shared_ptr<stream_state> shared = (g.stream ? g.stream : &default_stream())->state;
    const std::lock_guard lock(s.guard);  // never run here, not even when streams are eager: a send would wait for its recv
    s.queue.push_back([all = comm->all, rank = comm->rank, parts = g.parts]() mutable { take_part(*all, rank, parts); });
    const std::uint64_t place = ++s.issued;
    for (issued_part& p : g.parts) p.where->seats[p.seat].stream = shared, p.where->seats[p.seat].place = place;
  }
  const bool left = std::any_of(all.ranks.begin(), all.ranks.end(), [](const auto& r) { return r.aborted; });
  return left ? ncclRemoteError : ncclSuccess;
}

}  // namespace emulator

inline ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}
inline const char* ncclGetErrorString(ncclResult_t r) {
  switch (r) {
    case ncclSuccess: return "no error";
    case ncclUnhandledCudaError: return "unhandled cuda error";
    case ncclSystemError: return "unhandled system error";
    case ncclInternalError: return "internal error";
    case ncclInvalidArgument: return "invalid argument";
    case ncclInvalidUsage: return "invalid usage";
    case ncclRemoteError: return "remote process exited or there was a network error";
    case ncclInProgress: return "NCCL operation in progress";
  }
  return "unknown result code";
}
inline const char* ncclGetLastError(ncclComm_t) { return ""; }

inline ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  static std::atomic<std::uint64_t> next{1};
  std::memset(id, 0, sizeof *id);
  const std::uint64_t number = next++;
  std::memcpy(id->internal, &number, sizeof number);
  return ncclSuccess;
}
inline ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t* config) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<emulator::nccl_ranks>> worlds;
  if (rank < 0 || rank >= ranks || config == nullptr || config->blocking != 0) return ncclInvalidArgument;
  const std::lock_guard lock(mutex);
  auto& world = worlds[std::string(id.internal, sizeof id.internal)];
  if (!world) world = std::make_shared<emulator::nccl_ranks>(ranks);
  if (world->size() != ranks) return ncclInvalidArgument;
  const std::lock_guard of_world(world->mutex);
  ++world->joined;
  *comm = new ncclComm(world, rank);
  return ncclInProgress;
}
inline ncclResult_t ncclCommSplit(ncclComm_t comm, int colour, int key, ncclComm_t* child, ncclConfig_t* config) {
  using namespace emulator;
  if (comm == nullptr || colour < NCCL_SPLIT_NOCOLOR || (config != nullptr && config->blocking != 0)) return ncclInvalidArgument;
  nccl_ranks& all = *comm->all;
  const std::lock_guard lock(all.mutex);
  if (comm->child != nullptr || !comm->issued.empty()) return ncclInvalidUsage;
  comm->split = all.ranks[std::size_t(comm->rank)].splits++;
  auto& parts = all.splits[comm->split];
  parts.resize(all.ranks.size());
  parts[std::size_t(comm->rank)] = {colour, key, true, nullptr, 0};
  comm->child = child;
  comm->settling = 2;
  if (std::all_of(parts.begin(), parts.end(), [](const auto& p) { return p.here; })) {
    std::vector<std::size_t> order(parts.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
      return parts[a].colour != parts[b].colour ? parts[a].colour < parts[b].colour : parts[a].key < parts[b].key;
    });
    for (std::size_t first = 0, last = 0; first < order.size(); first = last) {
      while (last < order.size() && parts[order[last]].colour == parts[order[first]].colour) ++last;
      auto made = std::make_shared<nccl_ranks>(int(last - first));
      made->joined = made->size();
      for (std::size_t i = first; i < last; ++i) parts[order[i]].child = made, parts[order[i]].child_rank = int(i - first);
    }
  }
  return ncclInProgress;
}
inline ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  if (comm == nullptr) return ncclInvalidArgument;
  const std::lock_guard lock(comm->all->mutex);
  *state = emulator::settle(comm);
  return ncclSuccess;
}
inline ncclResult_t ncclCommFinalize(ncclComm_t comm) { return comm == nullptr ? ncclInvalidArgument : ncclInProgress; }
inline ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm == nullptr) return ncclInvalidArgument;
  delete comm;
  return ncclSuccess;
}
inline ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return ncclInvalidArgument;
  {
    const std::lock_guard lock(comm->all->mutex);
    comm->all->ranks[std::size_t(comm->rank)].aborted = true;
  }
  delete comm;
  return ncclSuccess;
}
inline ncclResult_t ncclCommCount(ncclComm_t comm, int* count) {
  if (comm == nullptr) return ncclInvalidArgument;
  *count = comm->all->size();
  return ncclSuccess;
}
inline ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  if (comm == nullptr) return ncclInvalidArgument;
  *rank = comm->rank;
  return ncclSuccess;
}

inline ncclResult_t ncclGroupStart() {
  ++emulator::group_of_thread().depth;
  return ncclSuccess;
}
inline ncclResult_t ncclGroupEnd() { return emulator::end_of_group(); }
inline ncclResult_t ncclAllReduce(const void* in, void* out, std::size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                                  cudaStream_t stream) {
  return emulator::call(comm, stream, {emulator::deed::all_reduce, in, out, count, type, op, -1});
}
inline ncclResult_t ncclReduce(const void* in, void* out, std::size_t count, ncclDataType_t type, ncclRedOp_t op, int root, ncclComm_t comm,
                               cudaStream_t stream) {
  return emulator::call(comm, stream, {emulator::deed::reduce, in, out, count, type, op, root});
}
inline ncclResult_t ncclBroadcast(const void* in, void* out, std::size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                                  cudaStream_t stream) {
  return emulator::call(comm, stream, {emulator::deed::broadcast, in, out, count, type, ncclSum, root});
}
inline ncclResult_t ncclAllGather(const void* in, void* out, std::size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream) {
  return emulator::call(comm, stream, {emulator::deed::all_gather, in, out, count, type, ncclSum, -1});
}
inline ncclResult_t ncclReduceScatter(const void* in, void* out, std::size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                                      cudaStream_t stream) {
  return emulator::call(comm, stream, {emulator::deed::reduce_scatter, in, out, count, type, op, -1});
}
inline ncclResult_t ncclSend(const void* in, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return emulator::call(comm, stream, {emulator::deed::send, in, nullptr, count, type, ncclSum, peer});
}
inline ncclResult_t ncclRecv(void* out, std::size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return emulator::call(comm, stream, {emulator::deed::recv, nullptr, out, count, type, ncclSum, peer});
}
