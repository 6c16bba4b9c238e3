#pragma once
// What a communicator is: ranks that exchange typed spans, by one concept that holds for one rank, threads, MPI and NCCL.
// Every implementation states `static_assert(communicator<me>)`; everything above comm/ is a template over it.
//
//   operation           in                    out                     rule
//   all_reduce          [count]               [count]                 out = sum (or max) over ranks, added in rank order; out may be in
//   reduce              [count]               [count] on root         the same, on root only (out is ignored elsewhere); out may be in
//   broadcast           data [count]                                  data of root on every rank
//   all_gather          [count]               [size * count]          out = inputs in rank order; in may be out's own part
//   all_gather_v        [counts[rank]]        [sum counts]            the same; counts per rank, equal on all ranks
//   reduce_scatter      [size * count]        [count]                 out = sum of part `rank`; out may be in's own part
//   reduce_scatter_v    [sum counts]          [counts[rank]]          the same; counts per rank, equal on all ranks
//   all_to_all          [size * count]        [size * count]          part p of out = part `rank` of p's in; never in place
//   all_to_all_v        [sum send_counts]     [sum recv_counts]       the same; my send_counts[p] must be p's recv_counts[rank]
//   send, recv          [count]               [count]                 in order per (sender, receiver); send never waits for its recv
// Counts are elements, 0 is always legal. All calls but send and recv are collective: every rank of the communicator makes them, in one
// order. Sums are made in accumulate_t<T>, rank 0 first, and rounded once: bf16 is added in fp32. No other overlap of in and out is legal.
#include <moefold/core/exec.hpp>
#include <moefold/core/scalar.hpp>
#include <moefold/core/traffic_rule.hpp>

#include <concepts>
#include <cstddef>
#include <cstring>
#include <iterator>
#include <span>
#include <string_view>
#include <type_traits>

namespace moefold {

struct sum {
  static constexpr const char* name = "sum";
  template <class T>
  constexpr T operator()(T a, T b) const {
    return T(a + b);
  }
};
struct max {
  static constexpr const char* name = "max";
  template <class T>
  constexpr T operator()(T a, T b) const {
    return a < b ? b : a;
  }
};
template <class Op>
concept reduction = std::same_as<Op, sum> || std::same_as<Op, max>;

/// The axes a communicator lies on: "world", "tp", "cp x dp". At most 31 characters, kept in place; longer names are cut.
class comm_label {
 public:
  constexpr comm_label() = default;
  constexpr comm_label(std::string_view name) {
    for (std::size_t i = 0; i < name.size() && i + 1 < sizeof text_; ++i) text_[i] = name[i];
  }
  constexpr comm_label(const char* name) : comm_label(std::string_view(name)) {}

  constexpr std::string_view view() const { return text_; }
  constexpr operator std::string_view() const { return text_; }
  constexpr bool empty() const { return text_[0] == '\0'; }
  constexpr bool operator==(const comm_label&) const = default;

 private:
  char text_[32] = {};
};

/// What a communicator returns that has finished everything inside the call: nothing to wait for.
struct completed {
  template <class Exec>
  void wait(Exec) const {}
};

/// Anything contiguous with data and size: span, view, vector, array.
template <class Range>
concept elements = requires(Range& r) {
  std::data(r);
  std::size(r);
  requires element<std::remove_pointer_t<decltype(std::data(r))>>;
};
template <class Range>
concept writable_elements = elements<Range> && !std::is_const_v<std::remove_pointer_t<decltype(std::data(std::declval<Range&>()))>>;

template <elements Range>
constexpr auto span_of(Range& range) {
  return std::span{std::data(range), std::size_t(std::size(range))};
}
template <class Range>
using element_of = std::remove_cv_t<std::remove_pointer_t<decltype(std::data(std::declval<Range&>()))>>;

namespace detail {
template <class In, class Out>
struct same_elements {
  static_assert(std::is_same_v<element_of<const In>, element_of<Out>>, "moefold: in and out of one operation have the same element type");
  using type = element_of<Out>;
};
}  // namespace detail
/// The element type of an operation.
template <class In, class Out>
using same_element = typename detail::same_elements<In, Out>::type;

template <class C, class Exec, class T>
concept communicator_of = std::move_constructible<C> && requires(C& c, const C& k, Exec e, std::span<const T> in, std::span<T> out,
                                                                 std::span<const std::size_t> counts, int i, typename C::ticket t) {
  { k.rank() } -> std::same_as<int>;  // 0 <= rank < size
  { k.size() } -> std::same_as<int>;
  { k.label() } -> std::convertible_to<comm_label>;
  { c.split(i, i) } -> std::same_as<C>;  // (colour, key), collective
  { c.split(i, i, comm_label("tp")) } -> std::same_as<C>;
  { c.barrier(e) } -> std::same_as<typename C::ticket>;
  { c.broadcast(e, out, i) } -> std::same_as<typename C::ticket>;  // i: root
  { c.reduce(e, in, out, sum{}, i) } -> std::same_as<typename C::ticket>;
  { c.all_reduce(e, in, out, sum{}) } -> std::same_as<typename C::ticket>;
  { c.all_reduce(e, in, out, max{}) } -> std::same_as<typename C::ticket>;
  { c.all_gather(e, in, out) } -> std::same_as<typename C::ticket>;
  { c.all_gather_v(e, in, counts, out) } -> std::same_as<typename C::ticket>;
  { c.reduce_scatter(e, in, out, sum{}) } -> std::same_as<typename C::ticket>;
  { c.reduce_scatter_v(e, in, counts, out, sum{}) } -> std::same_as<typename C::ticket>;
  { c.all_to_all(e, in, out) } -> std::same_as<typename C::ticket>;
  { c.all_to_all_v(e, in, counts, out, counts) } -> std::same_as<typename C::ticket>;
  { c.send(e, in, i) } -> std::same_as<typename C::ticket>;  // i: peer
  { c.recv(e, out, i) } -> std::same_as<typename C::ticket>;
  t.wait(e);  // the data is there, for the host or for the stream; the destructor neither blocks nor throws
};

/// A communicator over the element types that travel, on the host unless another exec is named. Costs a compiler a quarter of a second per class: tests ask
/// for it; headers, and the refinements below, ask for one element type.
template <class C, class Exec = host_exec>
concept communicator = communicator_of<C, Exec, double> && communicator_of<C, Exec, float> && communicator_of<C, Exec, bf16> &&
    communicator_of<C, Exec, std::int64_t> && communicator_of<C, Exec, std::int32_t>;

/// A refinement where ranks share memory: between expose and close, w.peer(i) is rank i's own span, read in place.
///   auto w = c.expose(e, mine);  ... read w.peer(i) ...  w.close();      both collective; mine may change again after close
/// Leaving a window without close (an exception) counts as a failure of this rank: the destructor does not wait for the peers.
template <class C, class Exec = host_exec>
concept peer_readable = communicator_of<C, Exec, float> && requires(C& c, Exec e, std::span<const float> mine, int i) {
  { c.expose(e, mine).peer(i) } -> std::convertible_to<std::span<const float>>;
  c.expose(e, mine).close();
};

/// A refinement where ranks share memory: an all_to_all_v without packing. Instead of a contiguous buffer each rank shows where its rows lie (a small
/// trivially copyable struct of pointers), and the receivers fetch what is theirs, in whatever order and place suits them.
///   c.template fetch_v<T>(e, shown, send_counts, recv_counts, [&](auto&& peer) { peer(i) is what rank i has shown; i may be this rank });
/// Collective. Counts are elements of T as in all_to_all_v: compared on all ranks, and counted as its traffic, before fetch is called.
/// What a rank has shown stays as it is until every rank has fetched.
inline constexpr std::size_t most_shown = 256;  // bytes
template <class T>
concept showable = std::is_trivially_copyable_v<T> && sizeof(T) <= most_shown;

namespace detail {
struct fetch_nothing {  // what the concept tries; a lambda there is refused by nvcc
  template <class Peer>
  void operator()(Peer&&) const {}
};
}  // namespace detail
template <class C, class Exec = host_exec>
concept fetching = communicator_of<C, Exec, float> &&
    requires(C& c, Exec e, std::span<const float> shown, std::span<const std::size_t> counts) {
  { c.template fetch_v<float>(e, shown, counts, counts, detail::fetch_nothing{}) } -> std::same_as<typename C::ticket>;
};

/// A refinement where operations can go on beside the caller: a second communicator over the same ranks, of the same type, on a lane of its own.
///   C beside = c.apart("grads");  auto t = beside.all_reduce(e, in, out, sum{});  ... compute ...  t.wait(e);
/// apart is collective. Operations are done in the order this rank issues them, over all its apart communicators; a rank's calls on both lanes
/// may be in flight at once. Data and counts stay as they are until the ticket has been waited for, or the communicator is destroyed. A ticket
/// that is not waited for frees nothing and waits for nothing.
template <class C, class Exec = host_exec>
concept overlapping = communicator_of<C, Exec, float> && requires(C& c) {
  { c.apart(comm_label("grads")) } -> std::same_as<C>;
};

/// A refinement: after a failure the same ranks go on with a fresh world, and nothing of the old one but its data.
///   world = world.rebuild();    collective over the ranks of the whole world, called on its communicator; what was split from the old one stays revoked
/// Throws peer_failed or timeout, on every rank that comes, if a rank has ended or does not come within the first deadline.
template <class C>
concept rebuildable = std::move_constructible<C> && requires(C& c) {
  { c.rebuild() } -> std::same_as<C>;
};

/// A refinement for tests: `hook(context)` runs on this rank inside each call, after the peers have arrived and before data moves.
template <class C>
concept hookable = requires(C& c, void (*hook)(void*), void* context) {
  c.set_hook(hook, context);
};

}  // namespace moefold
