#pragma once
// A communicator that fails on purpose, by a plan (comm/fault_plan.hpp): it throws, hangs, is slow, ends, or lies to its peers about data, count or type at
// exactly the calls the plan names. It also writes down the calls it is given, so that a plan can name each of them (comm/call_sites.hpp).
//
//   const auto plan = parse_faults("rank=3 axis=ep op=all_to_all_v seq=17 phase=inside do=throw");
//   chaos<thread_comm> world(std::move(comm), plan);          chaos<thread_comm> clean(std::move(comm), {}, &sites);
#include <moefold/comm/call_sites.hpp>
#include <moefold/comm/failure.hpp>
#include <moefold/core/memory.hpp>

#include <csignal>
#include <limits>
#include <thread>
#include <utility>

namespace moefold {

/// What an injected `throw` throws; knows when, so that the time until the peers notice can be measured.
class injected_fault : public error {
 public:
  using error::error;
  std::chrono::steady_clock::time_point thrown_at = std::chrono::steady_clock::now();
};

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

/// The communicator C with the faults of a plan. The plan outlives it; communicators split from it follow the same plan, and write into the same record of
/// this rank's calls, if one is given. With ranks as threads `exit` ends a rank as if its function had returned (run_threads), `kill` and `segv` the process.
template <class C>
class chaos {
 public:
  using ticket = typename C::ticket;

  chaos(C inner, std::span<const fault> plan, site_record* sites = nullptr) : chaos(std::move(inner), plan, sites, -1) {
    for (const fault& f : plan)
      require<config_error>(hookable<C> || f.phase != fault::phase_t::inside,
                            "moefold: fault plan: this communicator has no inside; use phase=before or phase=after");
  }

  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  decltype(auto) label() const { return inner_.label(); }
  C& inner() { return inner_; }

  chaos split(int colour, int key, comm_label label = {}) {
    C made = around({operation::split}, [&] { return inner_.split(colour, key, label); });
    return {std::move(made), plan_, sites_, world_rank_};
  }
  chaos rebuild() requires rebuildable<C> { return {inner_.rebuild(), plan_, sites_, world_rank_}; }
  void starting(bool on) requires requires(C& c) { c.starting(on); }
  { inner_.starting(on); }
  decltype(auto) stragglers() const requires requires(const C& c) { c.stragglers(); }
  { return inner_.stragglers(); }
  /// Before and after a call are in the caller's thread, around its issue; inside is where the peers have met. A lie is waited for.
  chaos apart(comm_label label = {}) requires overlapping<C> {
    C made = around({operation::split, dtype::uint8, "apart"}, [&] { return inner_.apart(label); });
    return {std::move(made), plan_, sites_, world_rank_};
  }
  template <class Exec>
  ticket barrier(Exec e) {
    return around({operation::barrier}, [&] { return inner_.barrier(e); });
  }
  template <class Exec, writable_elements Data>
  ticket broadcast(Exec e, Data&& range, int root) {
    const auto data = span_of(range);
    using T = element_of<Data>;
    return with_data<T>(e, {operation::broadcast, dtype_of<T>, "", root, data.size()}, data, data, {1, 1},
                        [&](auto, auto out, auto) { return inner_.broadcast(e, out, root); });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce(Exec e, const In& in, Out&& out, Op op, int root) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::reduce, dtype_of<T>, Op::name, root, std::size(in)}, span_of(in), span_of(out), {1, 1},
                        [&](auto i, auto o, auto) { return inner_.reduce(e, i, o, op, root); });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket all_reduce(Exec e, const In& in, Out&& out, Op op) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::all_reduce, dtype_of<T>, Op::name, -1, std::size(in)}, span_of(in), span_of(out), {1, 1},
                        [&](auto i, auto o, auto) { return inner_.all_reduce(e, i, o, op); });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_gather(Exec e, const In& in, Out&& out) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::all_gather, dtype_of<T>, "", -1, std::size(in)}, span_of(in), span_of(out), {1, size()},
                        [&](auto i, auto o, auto) { return inner_.all_gather(e, i, o); });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_gather_v(Exec e, const In& in, std::span<const std::size_t> counts, Out&& out) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::all_gather_v, dtype_of<T>}, span_of(in), span_of(out), {1, 1},
                        [&](auto i, auto o, int change) { return inner_.all_gather_v(e, i, changed(counts, rank(), change), o); });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(Exec e, const In& in, Out&& out, Op op) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::reduce_scatter, dtype_of<T>, Op::name, -1, std::size(out)}, span_of(in), span_of(out), {size(), 1},
                        [&](auto i, auto o, auto) { return inner_.reduce_scatter(e, i, o, op); });
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(Exec e, const In& in, std::span<const std::size_t> counts, Out&& out, Op op) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::reduce_scatter_v, dtype_of<T>, Op::name, -1, 0}, span_of(in), span_of(out), {1, 1},
                        [&](auto i, auto o, int change) { return inner_.reduce_scatter_v(e, i, changed(counts, rank(), change), o, op); });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_to_all(Exec e, const In& in, Out&& out) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::all_to_all, dtype_of<T>, "", -1, std::size(in) / std::size_t(size())}, span_of(in), span_of(out),
                        {size(), size()}, [&](auto i, auto o, auto) { return inner_.all_to_all(e, i, o); });
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_to_all_v(Exec e, const In& in, std::span<const std::size_t> send_counts, Out&& out, std::span<const std::size_t> recv_counts) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::all_to_all_v, dtype_of<T>}, span_of(in), span_of(out), {1, 0}, [&](auto i, auto o, int change) {
      return inner_.all_to_all_v(e, i, changed(send_counts, (rank() + 1) % size(), change), o, recv_counts);
    });
  }
  /// Lies about types, counts and bits do not reach memory that peers fetch themselves; throwing and waiting do.
  template <element T, class Exec, showable Shown, class Fetch>
  ticket fetch_v(Exec e, const Shown& shown, std::span<const std::size_t> send_counts, std::span<const std::size_t> recv_counts,
                 Fetch&& fetch) requires fetching<C, Exec> {
    std::size_t sent = 0;
    for (const std::size_t count : send_counts) sent += count;
    return around({operation::all_to_all_v, dtype_of<T>}, sent * sizeof(T),
                  [&] { return inner_.template fetch_v<T>(e, shown, send_counts, recv_counts, std::forward<Fetch>(fetch)); });
  }
  template <class Exec, elements In>
  ticket send(Exec e, const In& in, int peer) {
    using T = element_of<const In>;
    return with_data<T>(e, {operation::send, dtype_of<T>, "", peer, std::size(in)}, span_of(in), std::span<T>{}, {1, 0},
                        [&](auto i, auto, auto) { return inner_.send(e, i, peer); });
  }
  template <class Exec, writable_elements Out>
  ticket recv(Exec e, Out&& out, int peer) {
    using T = element_of<Out>;
    return with_data<T>(e, {operation::recv, dtype_of<T>, "", peer, std::size(out)}, std::span<const T>{}, span_of(out), {0, 1},
                        [&](auto, auto o, auto) { return inner_.recv(e, o, peer); });
  }
  template <class Exec, elements In>
  auto expose(Exec e, const In& in) requires requires(C& c) {
    c.expose(e, in);
  }
  {
    using T = element_of<const In>;
    return around({operation::expose, dtype_of<T>}, std::size(in) * sizeof(T), [&] { return inner_.expose(e, in); });
  }

 private:
  using phase_t = fault::phase_t;
  using action_t = fault::action_t;
  struct growth {  // elements that in and out grow by when a count grows by one
    int in, out;
  };

  chaos(C inner, std::span<const fault> plan, site_record* sites, int world_rank)
      : inner_(std::move(inner)), plan_(plan), sites_(sites), world_rank_(world_rank >= 0 ? world_rank : inner_.rank()) {}

  const fault* next(signature what, std::size_t bytes) {
    what.seq = what.op == operation::send ? sent_++ : what.op == operation::recv ? received_++ : seq_++;
    if (sites_) sites_->push_back({world_rank_, label(), what, bytes});
    for (const fault& f : plan_)
      if (f.matches(world_rank_, label(), what.op, what.seq)) return &f;
    return nullptr;
  }
  /// Of the data of a call; everything else is done around it.
  static bool lies(const fault& f) { return f.action >= action_t::bitflip; }
  static void act(const fault& f) {
    switch (f.action) {
      case action_t::raise: throw injected_fault("moefold: injected fault");
      case action_t::wait: std::this_thread::sleep_for(f.time); break;
      case action_t::exit: throw rank_exit{};
      case action_t::kill: (void)std::raise(SIGKILL); break;
      case action_t::segv:
        std::signal(SIGSEGV, SIG_DFL);
        (void)std::raise(SIGSEGV);
        break;
      case action_t::oom: failing_allocation::arm(f.nth); break;
      default: break;
    }
  }
  static void act_now(void* f) { act(*static_cast<const fault*>(f)); }

  /// Acts before, inside or after the call.
  template <class Call>
  auto around(const signature& what, Call&& call) {
    return around(what, 0, call);
  }
  template <class Call>
  auto around(const signature& what, std::size_t bytes, Call&& call) {
    return around(next(what, bytes), call);
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
  ticket with_data(Exec e, const signature& what, std::span<const T> in, std::span<T> out, growth by, Call&& call) {
    const fault* f = next(what, in.size_bytes());
    if (f == nullptr || !lies(*f)) return around(f, [&] { return call(in, out, 0); });
    if (f->action == action_t::dtype)
      return lie<std::conditional_t<std::is_same_v<T, float>, std::int32_t, float>>(e, in, out, by, 0, call);
    if (f->action == action_t::count) return lie<T>(e, in, out, by, f->change, call);
    if (f->phase == phase_t::after) {
      ticket done = call(in, out, 0);
      done.wait(e);
      spoil(*f, e, out);
      return done;
    }
    const detail::borrowed<Exec> memory(e);
    const std::span<T> sent = memory.copy_of(detail::numbers_at(e, in));
    spoil(*f, e, sent);
    const bool here = what.op == operation::broadcast;  // it sends from where it receives
    if (here) spoil(*f, e, out);
    ticket done = call(here ? in : std::span<const T>(sent), out, 0);
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
  /// One bit, or one number, in the middle.
  template <class Exec, class T>
  static void spoil(const fault& f, Exec e, std::span<T> data) {
    if (data.empty()) return;
    const auto middle = data.subspan(data.size() / 2).first(1);
    if (f.action == action_t::nan) {
      if constexpr (std::is_same_v<T, double> || std::is_same_v<T, float> || std::is_same_v<T, bf16>) {
        const T none(std::numeric_limits<float>::quiet_NaN());
        write_bytes(e, middle.data(), &none, sizeof none);
      }
      return;
    }
    const auto place = std::as_writable_bytes(middle).first(1);
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
  site_record* sites_;
  int world_rank_;
  std::uint64_t seq_ = 0, sent_ = 0, received_ = 0;
  std::vector<std::size_t> counts_;
};

}  // namespace moefold
