#pragma once
// A communicator that fails on purpose, by a plan: it throws, hangs, is slow, or lies to its peers about data, count or type at exactly the
// calls the plan names. The plan is plain data, one line per fault, so a failure can be written down and played again.
//
//   rank=3 axis=ep op=all_to_all_v seq=17 phase=inside do=throw
//   ^ what is left out matches everything    ^ before (default) | inside | after
//   do=   throw | hang:500ms | slow:2ms      before, inside (peers have arrived, data has not moved) or after the call
//         bitflip:payload                    one bit of what is sent (before) or received (after)
//         count:+1 | count:-1 | dtype        before: the call is made with other counts or another type, on memory of its own
//   seq counts the collective calls of a communicator from 0 (a window's close aside); sends and recvs have numbers of their own.
#include <moefold/comm/signature.hpp>

#include <charconv>
#include <chrono>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace moefold {

/// What an injected `throw` throws; knows when, so that the time until the peers notice can be measured.
class injected_fault : public error {
 public:
  using error::error;
  std::chrono::steady_clock::time_point thrown_at = std::chrono::steady_clock::now();
};

struct fault {
  enum class phase_t : std::uint8_t { before, inside, after };
  enum class action_t : std::uint8_t { raise, wait, bitflip, count, dtype };

  std::optional<int> rank;  // world rank
  comm_label axis;          // label of the communicator; empty: any
  std::optional<operation> op;
  std::optional<std::uint64_t> seq;
  phase_t phase = phase_t::before;
  action_t action = action_t::raise;
  std::chrono::milliseconds time{0};  // of wait
  int change = 0;                     // of count, elements

  bool matches(int r, const comm_label& label, operation o, std::uint64_t s) const {
    return (!rank || *rank == r) && (axis.empty() || axis == label) && (!op || *op == o) && (!seq || *seq == s);
  }
};

namespace detail {

template <class T>
T number(std::string_view text, std::string_view line) {
  if (!text.empty() && text.front() == '+') text.remove_prefix(1);
  T value{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  require<config_error>(failure == std::errc{} && end == text.data() + text.size(), "moefold: fault plan: \"", text,
                        "\" is no number that fits, in \"", line, "\"");
  return value;
}

inline void parse_action(fault& f, std::string_view text, std::string_view line) {
  const std::size_t colon = text.find(':');
  const std::string_view name = text.substr(0, colon);
  std::string_view argument = colon == text.npos ? std::string_view{} : text.substr(colon + 1);
  if (name == "throw" && argument.empty()) {
    f.action = fault::action_t::raise;
  } else if ((name == "hang" || name == "slow") && !argument.empty()) {
    if (argument.ends_with("ms")) argument.remove_suffix(2);
    f.action = fault::action_t::wait;
    f.time = std::chrono::milliseconds(number<std::uint32_t>(argument, line));
  } else if (name == "bitflip" && argument == "payload") {
    f.action = fault::action_t::bitflip;
  } else if (name == "count" && !argument.empty()) {
    f.action = fault::action_t::count;
    f.change = number<int>(argument, line);
  } else if (name == "dtype" && argument.empty()) {
    f.action = fault::action_t::dtype;
  } else {
    throw config_error(sentence("moefold: fault plan: do=", text,
                                " is not one of throw, hang:<ms>, slow:<ms>, bitflip:payload, count:+1, "
                                "dtype, in \"",
                                line, "\""));
  }
}

inline operation parse_operation(std::string_view text, std::string_view line) {
  for (std::size_t op = 0; op < operations; ++op)
    if (text == name_of(operation(op))) return operation(op);
  throw config_error(sentence("moefold: fault plan: op=", text, " is no operation, in \"", line, "\"; use names such as all_to_all_v"));
}

inline fault parse_fault(std::string_view line) {
  fault f;
  bool acts = false;
  for (std::string_view rest = line; !rest.empty();) {
    const std::size_t space = rest.find_first_of(" \t\r");
    const std::string_view word = rest.substr(0, space);
    rest = space == rest.npos ? std::string_view{} : rest.substr(space + 1);
    if (word.empty()) continue;
    const std::size_t equals = word.find('=');
    const std::string_view key = word.substr(0, equals);
    const std::string_view value = equals == word.npos ? std::string_view{} : word.substr(equals + 1);
    if (key == "rank")
      f.rank = number<int>(value, line);
    else if (key == "axis")
      f.axis = comm_label(value);
    else if (key == "op")
      f.op = parse_operation(value, line);
    else if (key == "seq")
      f.seq = number<std::uint64_t>(value, line);
    else if (key == "phase" && value == "before")
      f.phase = fault::phase_t::before;
    else if (key == "phase" && value == "inside")
      f.phase = fault::phase_t::inside;
    else if (key == "phase" && value == "after")
      f.phase = fault::phase_t::after;
    else if (key == "do")
      parse_action(f, value, line), acts = true;
    else
      throw config_error(sentence("moefold: fault plan: \"", word,
                                  "\" is none of rank=, axis=, op=, seq=, phase=before|inside|after, do=, "
                                  "in \"",
                                  line, "\""));
  }
  using enum fault::action_t;
  require<config_error>(acts, "moefold: fault plan: no do= in \"", line, "\"; say what is to happen, such as do=throw");
  require<config_error>(f.action == raise || f.action == wait || f.phase == fault::phase_t::before ||
                            (f.action == bitflip && f.phase == fault::phase_t::after),
                        "moefold: fault plan: a rank lies before a call (bitflip also after), not as in \"", line, "\"");
  return f;
}

}  // namespace detail

/// One fault per line; empty lines and what follows # are skipped. Throws config_error that quotes the line.
inline std::vector<fault> parse_faults(std::string_view text) {
  std::vector<fault> plan;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    std::string_view line = text.substr(0, end);
    text = end == text.npos ? std::string_view{} : text.substr(end + 1);
    line = line.substr(0, line.find('#'));
    if (line.find_first_not_of(" \t\r") != line.npos) plan.push_back(detail::parse_fault(line));
  }
  return plan;
}

/// From and to memory of an exec, for a lie to be made of the truth. For a device: comm/chaos.cuh.
inline void read_bytes(host_exec, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}
inline void write_bytes(host_exec, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

namespace detail {

template <class T, class Exec>
std::vector<T> numbers_at(Exec e, std::span<const T> there) {
  std::vector<T> here(there.size());
  read_bytes(e, here.data(), there.data(), there.size_bytes());
  return here;
}
/// Memory of the exec, lent by its scratch for one call.
template <class Exec>
class borrowed {
 public:
  explicit borrowed(Exec e) : e_(e), mark_(e.scratch().mark()) {}
  ~borrowed() { e_.scratch().release(mark_); }
  borrowed(const borrowed&) = delete;
  borrowed& operator=(const borrowed&) = delete;

  template <class T>
  std::span<T> copy_of(const std::vector<T>& here) const {
    const std::span<T> there(reinterpret_cast<T*>(e_.scratch().take(here.size() * sizeof(T))), here.size());
    write_bytes(e_, there.data(), here.data(), there.size_bytes());
    return there;
  }

 private:
  Exec e_;
  typename memory_stack<typename Exec::memory>::mark_t mark_;
};

}  // namespace detail

/// The communicator C with the faults of a plan. The plan outlives it; communicators split from it follow the same plan.
template <class C>
class chaos {
 public:
  using ticket = typename C::ticket;

  chaos(C inner, std::span<const fault> plan) : chaos(std::move(inner), plan, -1) {
    for (const fault& f : plan)
      require<config_error>(hookable<C> || f.phase != fault::phase_t::inside,
                            "moefold: fault plan: this communicator has no inside; use phase=before or phase=after");
  }

  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  decltype(auto) label() const { return inner_.label(); }
  C& inner() { return inner_; }

  chaos split(int colour, int key, comm_label label = {}) {
    C made = around(operation::split, [&] { return inner_.split(colour, key, label); });
    return {std::move(made), plan_, world_rank_};
  }
  chaos rebuild() requires rebuildable<C> { return {inner_.rebuild(), plan_, world_rank_}; }
  void starting(bool on) requires requires(C& c) { c.starting(on); }
  { inner_.starting(on); }
  decltype(auto) stragglers() const requires requires(const C& c) { c.stragglers(); }
  { return inner_.stragglers(); }
  /// Before and after a call are in the caller's thread, around its issue; inside is where the peers have met. A lie is waited for.
  chaos apart(comm_label label = {}) requires overlapping<C> {
    C made = around(operation::split, [&] { return inner_.apart(label); });
    return {std::move(made), plan_, world_rank_};
  }
  template <class Exec>
  ticket barrier(Exec e) {
    return around(operation::barrier, [&] { return inner_.barrier(e); });
  }
  template <class Exec, writable_elements Data>
  ticket broadcast(Exec e, Data&& range, int root) {
    const auto data = span_of(range);
    using T = element_of<Data>;
    return with_data<T>(e, operation::broadcast, data, data, {1, 1}, [&](auto, auto out, auto) { return inner_.broadcast(e, out, root); });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce(Exec e, const In& in, Out&& out, Op op, int root) {
    return with_data<element_of<Out>>(e, operation::reduce, span_of(in), span_of(out), {1, 1},
                                      [&](auto i, auto o, auto) { return inner_.reduce(e, i, o, op, root); });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket all_reduce(Exec e, const In& in, Out&& out, Op op) {
    return with_data<element_of<Out>>(e, operation::all_reduce, span_of(in), span_of(out), {1, 1},
                                      [&](auto i, auto o, auto) { return inner_.all_reduce(e, i, o, op); });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_gather(Exec e, const In& in, Out&& out) {
    return with_data<element_of<Out>>(e, operation::all_gather, span_of(in), span_of(out), {1, size()},
                                      [&](auto i, auto o, auto) { return inner_.all_gather(e, i, o); });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_gather_v(Exec e, const In& in, std::span<const std::size_t> counts, Out&& out) {
    return with_data<element_of<Out>>(e, operation::all_gather_v, span_of(in), span_of(out), {1, 1}, [&](auto i, auto o, int change) {
      return inner_.all_gather_v(e, i, changed(counts, rank(), change), o);
    });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(Exec e, const In& in, Out&& out, Op op) {
    return with_data<element_of<Out>>(e, operation::reduce_scatter, span_of(in), span_of(out), {size(), 1},
                                      [&](auto i, auto o, auto) { return inner_.reduce_scatter(e, i, o, op); });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(Exec e, const In& in, std::span<const std::size_t> counts, Out&& out, Op op) {
    return with_data<element_of<Out>>(e, operation::reduce_scatter_v, span_of(in), span_of(out), {1, 1}, [&](auto i, auto o, int change) {
      return inner_.reduce_scatter_v(e, i, changed(counts, rank(), change), o, op);
    });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_to_all(Exec e, const In& in, Out&& out) {
    return with_data<element_of<Out>>(e, operation::all_to_all, span_of(in), span_of(out), {size(), size()},
                                      [&](auto i, auto o, auto) { return inner_.all_to_all(e, i, o); });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_to_all_v(Exec e, const In& in, std::span<const std::size_t> send_counts, Out&& out, std::span<const std::size_t> recv_counts) {
    return with_data<element_of<Out>>(e, operation::all_to_all_v, span_of(in), span_of(out), {1, 0}, [&](auto i, auto o, int change) {
      return inner_.all_to_all_v(e, i, changed(send_counts, (rank() + 1) % size(), change), o, recv_counts);
    });
  }
  /// Lies about types, counts and bits do not reach memory that peers fetch themselves; throwing and waiting do.
  template <element T, class Exec, showable Shown, class Fetch>
  ticket fetch_v(Exec e, const Shown& shown, std::span<const std::size_t> send_counts, std::span<const std::size_t> recv_counts,
                 Fetch&& fetch) requires fetching<C, Exec> {
    return around(operation::all_to_all_v,
                  [&] { return inner_.template fetch_v<T>(e, shown, send_counts, recv_counts, std::forward<Fetch>(fetch)); });
  }
  template <class Exec, elements In>
  ticket send(Exec e, const In& in, int peer) {
    using T = element_of<const In>;
    return with_data<T>(e, operation::send, span_of(in), std::span<T>{}, {1, 0},
                        [&](auto i, auto, auto) { return inner_.send(e, i, peer); });
  }
  template <class Exec, writable_elements Out>
  ticket recv(Exec e, Out&& out, int peer) {
    using T = element_of<Out>;
    return with_data<T>(e, operation::recv, std::span<const T>{}, span_of(out), {0, 1},
                        [&](auto, auto o, auto) { return inner_.recv(e, o, peer); });
  }
  template <class Exec, elements In>
  auto expose(Exec e, const In& in) requires requires(C& c) {
    c.expose(e, in);
  }
  {
    return around(operation::expose, [&] { return inner_.expose(e, in); });
  }

 private:
  using phase_t = fault::phase_t;
  using action_t = fault::action_t;
  struct growth {  // elements that in and out grow by when a count grows by one
    int in, out;
  };

  chaos(C inner, std::span<const fault> plan, int world_rank)
      : inner_(std::move(inner)), plan_(plan), world_rank_(world_rank >= 0 ? world_rank : inner_.rank()) {}

  const fault* next(operation op) {
    const std::uint64_t seq = op == operation::send ? sent_++ : op == operation::recv ? received_++ : seq_++;
    for (const fault& f : plan_)
      if (f.matches(world_rank_, label(), op, seq)) return &f;
    return nullptr;
  }
  static void act(const fault& f) {
    if (f.action == action_t::wait) std::this_thread::sleep_for(f.time);
    if (f.action == action_t::raise) throw injected_fault("moefold: injected fault");
  }
  static void act_now(void* f) { act(*static_cast<const fault*>(f)); }

  /// Throws or waits before, inside or after the call.
  template <class Call>
  auto around(operation op, Call&& call) {
    return around(next(op), call);
  }
  template <class Call>
  auto around(const fault* f, Call&& call) {
    if (f && f->phase == phase_t::before) act(*f);
    if constexpr (hookable<C>) {
      struct hooked {
        C& inner;
        bool on;
        ~hooked() {
          if (on) inner.set_hook(nullptr, nullptr);
        }
      } scope{inner_, f && f->phase == phase_t::inside};
      if (scope.on) inner_.set_hook(&act_now, const_cast<fault*>(f));
      return finish(f, call());
    } else {
      return finish(f, call());
    }
  }
  template <class Result>
  static Result finish(const fault* f, Result&& result) {
    if (f && f->phase == phase_t::after) act(*f);
    return std::forward<Result>(result);
  }

  /// The same for a call with data, and the lies about it.
  template <class T, class Exec, class Call>
  ticket with_data(Exec e, operation op, std::span<const T> in, std::span<T> out, growth by, Call&& call) {
    const fault* f = next(op);
    if (f == nullptr || f->action == action_t::raise || f->action == action_t::wait) return around(f, [&] { return call(in, out, 0); });
    if (f->action == action_t::dtype)
      return lie<std::conditional_t<std::is_same_v<T, float>, std::int32_t, float>>(e, in, out, by, 0, call);
    if (f->action == action_t::count) return lie<T>(e, in, out, by, f->change, call);
    if (f->phase == phase_t::after) {
      ticket done = call(in, out, 0);
      done.wait(e);
      flip(e, out);
      return done;
    }
    const detail::borrowed<Exec> memory(e);
    const std::span<T> sent = memory.copy_of(detail::numbers_at(e, in));
    flip(e, sent);
    if (op == operation::broadcast) flip(e, out);  // it sends from where it receives
    ticket done = call(op == operation::broadcast ? in : std::span<const T>(sent), out, 0);
    done.wait(e);
    return done;
  }
  template <class U, class Exec, class T, class Call>
  static ticket lie(Exec e, std::span<const T> in, std::span<T> out, growth by, int change, Call&& call) {
    const auto grown = [&](std::size_t size, int each) {
      const auto wanted = std::int64_t(size) + std::int64_t(each) * change;
      require<config_error>(wanted >= 0, "moefold: fault plan: count:", change, " of a call with ", size, " elements; make it smaller");
      return std::size_t(wanted);
    };
    const detail::borrowed<Exec> memory(e);
    const std::span<const U> sent = memory.copy_of(std::vector<U>(grown(in.size(), by.in)));
    const std::span<U> received = memory.copy_of(std::vector<U>(grown(out.size(), by.out)));
    ticket done = call(sent, received, change);
    done.wait(e);  // before its memory goes
    return done;
  }
  template <class Exec, class T>
  static void flip(Exec e, std::span<T> data) {
    if (data.empty()) return;
    const auto place = std::as_writable_bytes(data.subspan(data.size() / 2)).first(1);
    std::byte changed{};
    read_bytes(e, &changed, place.data(), 1);
    changed ^= std::byte(1);
    write_bytes(e, place.data(), &changed, 1);
  }
  std::span<const std::size_t> changed(std::span<const std::size_t> counts, int which, int change) {
    if (change == 0) return counts;
    counts_.assign(counts.begin(), counts.end());
    counts_[std::size_t(which)] = std::size_t(std::int64_t(counts_[std::size_t(which)]) + change);
    return counts_;
  }

  C inner_;
  std::span<const fault> plan_;
  int world_rank_;
  std::uint64_t seq_ = 0, sent_ = 0, received_ = 0;
  std::vector<std::size_t> counts_;
};

}  // namespace moefold
