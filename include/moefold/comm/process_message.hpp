#pragma once
// What the processes of one job tell each other beside their data: who failed, who waits for whom, who has ended. Few, short, and only when something has
// gone wrong or ends; comm/process_world.hpp sends and hears them.
//
//   message   kind | epoch | what the kind says         at most 4096 bytes; longer texts are cut
//   proposal  a rank says why the world has failed      verdict   the rank that decides says whose word stands
//   waiting   what a rank's two lanes wait for          probe     say that again, after another look       joined    a rank has come to a rebuild          finished   a rank's function has returned
#include <moefold/comm/failure.hpp>
#include <moefold/comm/transport.hpp>
#include <moefold/comm/wait_graph.hpp>

#include <array>
#include <cstring>
#include <exception>
#include <vector>

namespace moefold {

enum class process_message : std::uint32_t { proposal, verdict, waiting, probe, joined, finished };

/// Why a world has failed, as it travels: the class that every rank throws, and the cause.
struct process_failure {
  enum class kind : std::uint32_t { peer_failed, timeout, signature_mismatch };
  kind raised = kind::peer_failed;
  root_cause cause;

  template <std::derived_from<comm_error> Error>
  static constexpr kind kind_of = std::is_same_v<Error, timeout>     ? kind::timeout
                                : std::is_same_v<Error, peer_failed> ? kind::peer_failed
                                                                     : kind::signature_mismatch;
  [[noreturn]] void raise(const std::string& text) const {
    if (raised == kind::timeout) throw timeout(text, cause);
    if (raised == kind::signature_mismatch) throw signature_mismatch(text, cause);
    throw peer_failed(text, cause);
  }
  std::exception_ptr thrown() const {
    try {
      raise(sentence("moefold: ", cause.message));
    } catch (...) {
      return std::current_exception();
    }
  }
};

namespace detail {

class message_writer {
 public:
  static constexpr std::size_t most = 4096;

  template <class T>
  message_writer& put(const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::memcpy(room(sizeof value), &value, sizeof value);
    return *this;
  }
  message_writer& put_text(std::string_view text) {
    text = text.substr(0, most - 256);
    put(std::uint32_t(text.size()));
    if (!text.empty()) std::memcpy(room(text.size()), text.data(), text.size());
    return *this;
  }
  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::byte* room(std::size_t more) {
    bytes_.resize(bytes_.size() + more);
    return &bytes_[bytes_.size() - more];
  }
  std::vector<std::byte> bytes_;
};

class message_reader {
 public:
  explicit message_reader(std::span<const std::byte> bytes) : left_(bytes) {}
  template <class T>
  T get() {
    T value{};
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  std::string get_text() {
    const auto size = get<std::uint32_t>();
    const std::byte* const at = take(size);
    std::string text(size, '\0');
    if (size > 0) std::memcpy(text.data(), at, size);
    return text;
  }

 private:
  const std::byte* take(std::size_t bytes) {
    require<transport_error>(bytes <= left_.size(),
                             "moefold: a message between processes is shorter than it says; start all with one version");
    const std::byte* const at = left_.data();
    left_ = left_.subspan(bytes);
    return at;
  }
  std::span<const std::byte> left_;
};

// A signature's reduction is a literal: it travels as its place here.
inline constexpr std::array<const char*, 4> reductions{"", "sum", "max", "apart"};
inline std::uint8_t number_of(const char* reduction) {
  std::uint8_t i = 0;
  while (i + 1u < reductions.size() && std::string_view(reductions[i]) != reduction) ++i;
  return i;
}

inline void put(message_writer& w, const signature& s) {
  w.put(s.op).put(s.type).put(number_of(s.reduction)).put(s.device).put(s.root).put(s.count).put(s.seq);
}
inline signature get_signature(message_reader& r) {
  signature s;
  s.op = r.get<operation>(), s.type = r.get<dtype>();
  s.reduction = reductions[r.get<std::uint8_t>() % reductions.size()];
  s.device = r.get<bool>(), s.root = r.get<int>();
  s.count = r.get<std::uint64_t>(), s.seq = r.get<std::uint64_t>();
  return s;
}

inline void put(message_writer& w, const process_failure& f) {
  w.put(f.raised).put(f.cause.rank).put(f.cause.label).put(f.cause.op).put(f.cause.seq).put(f.cause.elapsed.count());
  w.put_text(f.cause.message);
}
inline process_failure get_failure(message_reader& r) {
  process_failure f;
  f.raised = r.get<process_failure::kind>();
  f.cause.rank = r.get<int>(), f.cause.label = r.get<comm_label>(), f.cause.op = r.get<operation>();
  f.cause.seq = r.get<std::uint64_t>(), f.cause.elapsed = std::chrono::nanoseconds(r.get<std::int64_t>());
  f.cause.message = r.get_text();
  return f;
}

inline void put(message_writer& w, const waiting& lane) {
  w.put(lane.rank).put(lane.lane).put(lane.label);
  put(w, lane.what);
  const std::size_t told = std::min<std::size_t>(lane.missing.size(), 400);  // one that never comes is enough
  w.put(lane.call).put(std::uint32_t(told));
  for (std::size_t i = 0; i < told; ++i) w.put(lane.missing[i]);
}
inline waiting get_waiting(message_reader& r) {
  waiting lane;
  lane.rank = r.get<int>(), lane.lane = r.get<int>(), lane.label = r.get<comm_label>();
  lane.what = get_signature(r);
  lane.call = r.get<std::uint64_t>();
  for (auto left = r.get<std::uint32_t>(); left > 0; --left) lane.missing.push_back(r.get<int>());
  return lane;
}

}  // namespace detail
}  // namespace moefold
