#pragma once
// What each rank called last, kept in memory at all times, so that after a failure or in a hang one can see where every rank was. One ring per rank and
// lane, written by one thread without locks; any thread reads it at any time and sees whole entries only (comm/flight_dump.hpp writes them to files).
//
//   ring of a lane    | entry 4094 | entry 4095 | entry 4096 | ... |       4096 places of 64 bytes; the newest overwrites the oldest
//   entry, 8 words    stamp | start | end, state | seq | count | op, type, reduction, label, root | group | size, rank
//                     ^ odd while it is being written: a reader that meets an odd or a changed stamp leaves the entry out
// A call writes 8 words when it begins and one when it ends, with the times the call reads anyway: some nanoseconds, no allocation.
#include <moefold/comm/signature.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

namespace moefold {

enum class flight_state : std::uint8_t { inside, done, failed };
inline constexpr std::size_t flight_states = 3;
constexpr const char* name_of(flight_state state) {
  constexpr const char* names[flight_states] = {"inside", "done", "failed"};
  return std::size_t(state) < flight_states ? names[std::size_t(state)] : "?";
}

/// The communicator of a call, as its ranks know it: made once per communicator, copied into each entry.
struct flight_group {
  std::uint64_t id = 0;              // equal on all ranks of the communicator, on no other communicator of the job
  std::uint32_t label = 0;           // flight_labels::number_of
  std::uint32_t size = 1, rank = 0;  // ranks of it, and which one this is
};

/// An id for communicators whose ranks count them: those without a rank in common may have one number, but not one first member too.
constexpr std::uint64_t flight_id(std::uint64_t number, std::uint64_t first_member, std::uint64_t of = 0) {
  std::uint64_t id = 0;
  for (const std::uint64_t part : {of, number, first_member}) {  // splitmix64
    id = id + part + 0x9E3779B97F4A7C15u;
    id = (id ^ id >> 30) * 0xBF58476D1CE4E5B9u;
    id = (id ^ id >> 27) * 0x94D049BB133111EBu;
    id ^= id >> 31;
  }
  return id;
}

/// One call, read back.
struct flight_entry {
  std::uint64_t number = 0;  // of the calls of this rank and lane, from 0
  flight_group group;
  signature what;
  flight_state state = flight_state::inside;
  std::int64_t start = 0, end = 0;  // ns of the steady clock; end is 0 while inside
};

/// The labels of a recorder's communicators: few, so an entry holds a number. Numbers are given under a lock, and read without.
class flight_labels {
 public:
  static constexpr std::uint32_t most = 256;  // what comes later is called "..."

  std::uint32_t number_of(const comm_label& label) {
    const std::lock_guard lock(mutex_);
    const std::uint32_t used = used_.load(std::memory_order_relaxed);
    for (std::uint32_t i = 0; i < used; ++i)
      if (labels_[i] == label) return i;
    if (used == most) return most;
    labels_[used] = label;
    used_.store(used + 1, std::memory_order_release);
    return used;
  }
  std::uint32_t size() const { return used_.load(std::memory_order_acquire); }
  comm_label operator[](std::uint32_t number) const {
    return number < used_.load(std::memory_order_acquire) ? labels_[number] : comm_label("...");
  }

 private:
  std::mutex mutex_;
  std::atomic<std::uint32_t> used_{0};
  std::array<comm_label, most> labels_{};
};

/// The calls of one rank on one lane. enter and leave by the lane's own thread, everything else by anybody.
class flight_ring {
 public:
  static constexpr std::size_t entries = 4096;
  static constexpr std::size_t entry_bytes = 64;
  static constexpr std::uint64_t unrecorded = ~std::uint64_t{0};  // there was no memory for the ring

  static std::int64_t nanoseconds(std::chrono::steady_clock::time_point t) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(t.time_since_epoch()).count();
  }

  /// A call begins. Returns its number, for leave.
  std::uint64_t enter(const flight_group& group, const signature& what, std::chrono::steady_clock::time_point start) {
    entry_words* all = words_.get();
    if (all == nullptr && (all = words_.make()) == nullptr) return unrecorded;
    const std::uint64_t number = calls_.load(std::memory_order_relaxed);
    const place p(all, number);
    // A reader that sees one of the new words sees the odd stamp too: each is released after it.
    p.put(stamp, 2 * number + 1);
    p.put(started, std::uint64_t(nanoseconds(start)));
    p.put(ended, 0);
    p.put(seq, what.seq);
    p.put(count, what.count);
    p.put(call, packed(group, what));
    p.put(id, group.id);
    p.put(ranks, std::uint64_t(group.size) << 32 | group.rank);
    p.put(stamp, 2 * number + 2);
    calls_.store(number + 1, std::memory_order_release);
    return number;
  }
  /// It ends.
  void leave(std::uint64_t number, flight_state outcome, std::chrono::steady_clock::time_point end) {
    if (number == unrecorded || number + entries < calls_.load(std::memory_order_relaxed)) return;  // or overwritten by calls within it
    place(words_.get(), number).put(ended, std::uint64_t(nanoseconds(end)) << 2 | std::uint64_t(outcome));
  }

  std::uint64_t calls() const { return calls_.load(std::memory_order_acquire); }
  /// Entry `number`, unless it has not been written yet, has been overwritten, or is just being so.
  std::optional<flight_entry> read(std::uint64_t number) const {
    if (number >= calls()) return {};
    const place p(words_.get(), number);
    if (p.get(stamp) != 2 * number + 2) return {};
    flight_entry e;
    e.number = number;
    e.start = std::int64_t(p.get(started));
    const std::uint64_t end = p.get(ended), what = p.get(call), members = p.get(ranks);
    e.what.seq = p.get(seq), e.what.count = p.get(count);
    e.group.id = p.get(id);
    if (p.get(stamp) != 2 * number + 2) return {};
    e.state = flight_state(end & 3), e.end = std::int64_t(end >> 2);
    e.group.size = std::uint32_t(members >> 32), e.group.rank = std::uint32_t(members);
    unpack(what, e);
    return e;
  }
  /// f(entry) for all that are there, oldest first. Entries that are overwritten meanwhile are left out.
  template <class F>
  void for_each(F&& f) const {
    const std::uint64_t last = calls();
    for (std::uint64_t n = last > entries ? last - entries : 0; n < last; ++n)
      if (const auto e = read(n)) f(*e);
  }

 private:
  enum word : std::size_t { stamp, started, ended, seq, count, call, id, ranks, words_of_an_entry };
  static_assert(words_of_an_entry * sizeof(std::uint64_t) == entry_bytes);
  static constexpr const char* reductions[] = {"", "sum", "max", "apart"};

  struct alignas(entry_bytes) entry_words {
    std::uint64_t at[words_of_an_entry];
  };
  /// Made by the first call: a lane that makes none costs nothing, and the pages of a new ring cost when they are first written.
  class memory {
   public:
    memory() = default;
    memory(const memory&) = delete;
    memory& operator=(const memory&) = delete;
    ~memory() { std::free(block_); }
    entry_words* get() const { return all_.load(std::memory_order_acquire); }
    entry_words* make() {
      std::size_t room = (entries + 1) * sizeof(entry_words);  // one more, to align them
      void* at = block_ = std::calloc(1, room);
      if (at != nullptr)
        all_.store(static_cast<entry_words*>(std::align(entry_bytes, entries * sizeof(entry_words), at, room)), std::memory_order_release);
      return get();
    }

   private:
    void* block_ = nullptr;
    std::atomic<entry_words*> all_{nullptr};
  };
  class place {
   public:
    place(entry_words* all, std::uint64_t number) : words_(all[number % entries].at) {}
    void put(word w, std::uint64_t value) const { std::atomic_ref(words_[w]).store(value, std::memory_order_release); }
    std::uint64_t get(word w) const { return std::atomic_ref(words_[w]).load(std::memory_order_acquire); }

   private:
    std::uint64_t* words_;
  };

  static std::uint64_t packed(const flight_group& group, const signature& what) {
    const std::uint64_t reduction = *what.reduction == 's' ? 1 : *what.reduction == 'm' ? 2 : *what.reduction != '\0' ? 3 : 0;
    return std::uint64_t(what.op) | std::uint64_t(what.type) << 8 | reduction << 16 | std::uint64_t(what.device) << 18 |
           std::uint64_t(group.label & 0xfff) << 20 | std::uint64_t(std::uint32_t(what.root)) << 32;
  }
  static void unpack(std::uint64_t word, flight_entry& e) {
    e.what.op = operation(word & 0xff), e.what.type = dtype(word >> 8 & 0xff);
    e.what.reduction = reductions[word >> 16 & 3];
    e.what.device = (word >> 18 & 1) != 0;
    e.what.root = int(std::uint32_t(word >> 32));
    e.group.label = std::uint32_t(word >> 20 & 0xfff);
  }

  memory words_;
  std::atomic<std::uint64_t> calls_{0};
};

/// The rings of the ranks that live in one world of this process: all of them with threads, one with processes.
class flight_recorder {
 public:
  /// Ranks first, first + 1, ... of a world of `world` ranks, `here` of them.
  flight_recorder(int world, int first, int here, int lanes)
      : world_(world), first_(first), lanes_(lanes), rings_(std::size_t(here) * std::size_t(lanes)) {
    const std::lock_guard lock(alive().mutex);
    number_ = alive().made++;
    alive().all.push_back(this);
  }
  ~flight_recorder() {
    const std::lock_guard lock(alive().mutex);
    std::erase(alive().all, this);
  }
  flight_recorder(const flight_recorder&) = delete;
  flight_recorder& operator=(const flight_recorder&) = delete;

  /// f(recorder) for all that live in this process; none ends meanwhile.
  template <class F>
  static void for_each(F&& f) {
    const std::lock_guard lock(alive().mutex);
    for (flight_recorder* r : alive().all) f(*r);
  }

  int world() const { return world_; }
  int first() const { return first_; }
  int here() const { return int(rings_.size()) / lanes_; }
  int lanes() const { return lanes_; }
  int number() const { return number_; }  // of the recorders of this process
  flight_ring& ring(int rank, int lane) { return rings_[place(rank, lane)]; }
  const flight_ring& ring(int rank, int lane) const { return rings_[place(rank, lane)]; }
  flight_labels& labels() { return labels_; }
  const flight_labels& labels() const { return labels_; }

 private:
  struct list {
    std::mutex mutex;
    std::vector<flight_recorder*> all;
    int made = 0;
  };
  static list& alive() {
    static list recorders;
    return recorders;
  }
  std::size_t place(int rank, int lane) const { return std::size_t(rank - first_) * std::size_t(lanes_) + std::size_t(lane); }

  int world_, first_, lanes_, number_ = 0;
  std::vector<flight_ring> rings_;  // [here, lanes]
  flight_labels labels_;
};

}  // namespace moefold
