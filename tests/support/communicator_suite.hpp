#pragma once
// What every communicator must do, once: check_communicator(c) is called by all ranks of c and compares each operation with its definition,
// for counts 0, 1, small (inside the post), uneven and large, for every element type and reduction. A new communicator adds one line.
// The data lies where a Place says: in host memory, or in device memory (support/device_place.hpp: check_communicator<float>(c, place)).
#include <moefold/comm/communicator.hpp>

#include <doctest/doctest.h>

#include <array>
#include <numeric>
#include <vector>

namespace moefold {

// Small integers, different on each rank and place: exact in every element type, sums of 8 ranks too (bf16 holds integers to 256).
template <class T>
T sample(int rank, std::size_t i, int salt = 0) {
  return T(accumulate_t<T>((std::size_t(rank) * 5 + i * 3 + std::size_t(salt)) % 17));
}
template <class T>
std::vector<T> samples(int rank, std::size_t count, int salt = 0) {
  std::vector<T> v(count);
  for (std::size_t i = 0; i < count; ++i) v[i] = sample<T>(rank, i, salt);
  return v;
}
template <class T, class Op>
T reduced(int ranks, std::size_t i, Op op, int salt = 0) {
  auto total = accumulate_t<T>(sample<T>(0, i, salt));
  for (int r = 1; r < ranks; ++r) total = op(total, accumulate_t<T>(sample<T>(r, i, salt)));
  return T(total);
}
/// One CHECK per call, not per element: doctest's assertions take a lock.
template <class Range, class F>
bool all_equal(const Range& range, F&& expected) {
  bool same = true;
  for (std::size_t i = 0; i < std::size(range); ++i) {
    using T = std::remove_cvref_t<decltype(range[i])>;
    same = same && std::memcmp(&range[i], std::array<T, 1>{T(expected(i))}.data(), sizeof(T)) == 0;
  }
  return same;
}

/// Where data lies, and what a check does with it. Inputs are spoiled as soon as a call has been waited for: no peer may read them any more.
struct in_host_memory {
  host_exec e;

  template <class T>
  std::vector<T> put(std::vector<T> v) const {
    return v;
  }
  template <class T>
  std::vector<T> room(std::size_t count, T) const {
    return std::vector<T>(count);
  }
  template <class Range>
  const Range& get(const Range& range) const {
    return range;
  }
  template <class Range>
  void spoil(Range&& range) const {
    if (std::size(range) > 0) std::memset(static_cast<void*>(std::data(range)), 0xff, std::span(range).size_bytes());
  }
};

template <class T, class Op, class C, class Place>
void check_reductions(C& c, const Place& at, std::size_t count, Op op) {
  const auto e = at.e;
  const int n = c.size(), me = c.rank();
  const auto sums = [&](std::size_t i) { return reduced<T>(n, i, op); };
  auto mine = at.put(samples<T>(me, count));
  auto out = at.room(count, T());
  c.all_reduce(e, mine, out, op).wait(e);
  at.spoil(mine);
  CHECK(all_equal(at.get(out), sums));
  auto in_place = at.put(samples<T>(me, count));
  c.all_reduce(e, in_place, in_place, op).wait(e);
  CHECK(all_equal(at.get(in_place), sums));

  for (int root : {0, n - 1}) {
    mine = at.put(samples<T>(me, count));
    auto at_root = at.room(me == root ? count : 0, T());
    c.reduce(e, mine, at_root, op, root).wait(e);
    at.spoil(mine);
    if (me == root) CHECK(all_equal(at.get(at_root), sums));
    in_place = at.put(samples<T>(me, count));
    c.reduce(e, in_place, in_place, op, root).wait(e);
    CHECK(all_equal(at.get(in_place), [&](std::size_t i) { return me == root ? sums(i) : sample<T>(me, i); }));
  }

  const auto part = [&](std::size_t i) { return reduced<T>(n, std::size_t(me) * count + i, op); };
  auto parts = at.put(samples<T>(me, count * std::size_t(n)));
  out = at.room(count, T());
  c.reduce_scatter(e, parts, out, op).wait(e);
  at.spoil(parts);
  CHECK(all_equal(at.get(out), part));
  auto scattered = at.put(samples<T>(me, count * std::size_t(n)));
  const std::span<T> own = span_of(scattered).subspan(std::size_t(me) * count, count);
  c.reduce_scatter(e, scattered, own, op).wait(e);
  CHECK(all_equal(at.get(own), part));

  std::vector<std::size_t> counts(std::size_t(n), 0);  // rank r keeps (r % 3) * count elements
  for (int r = 0; r < n; ++r) counts[std::size_t(r)] = std::size_t(r % 3) * count;
  const std::size_t total = std::accumulate(counts.begin(), counts.end(), std::size_t{0});
  const std::size_t first = std::accumulate(counts.begin(), counts.begin() + me, std::size_t{0});
  auto uneven = at.put(samples<T>(me, total));
  auto kept = at.room(counts[std::size_t(me)], T());
  c.reduce_scatter_v(e, uneven, counts, kept, op).wait(e);
  at.spoil(uneven);
  CHECK(all_equal(at.get(kept), [&](std::size_t i) { return reduced<T>(n, first + i, op); }));
}

template <class T, class C, class Place>
void check_exchanges(C& c, const Place& at, std::size_t count) {
  const auto e = at.e;
  const int n = c.size(), me = c.rank();
  const auto ranks = std::size_t(n);
  for (int root : {0, n - 1}) {
    auto data = at.put(samples<T>(me, count));
    c.broadcast(e, data, root).wait(e);
    CHECK(all_equal(at.get(data), [&](std::size_t i) { return sample<T>(root, i); }));
    at.spoil(data);
  }

  auto mine = at.put(samples<T>(me, count));
  auto all = at.room(count * ranks, T());
  c.all_gather(e, mine, all).wait(e);
  at.spoil(mine);
  const auto gathered = [&](std::size_t i) { return sample<T>(int(i / count), i % count); };
  CHECK(all_equal(at.get(all), gathered));
  std::vector<T> around(count * ranks);
  for (std::size_t i = 0; i < count; ++i) around[std::size_t(me) * count + i] = sample<T>(me, i);
  auto in_place = at.put(std::move(around));
  c.all_gather(e, span_of(in_place).subspan(std::size_t(me) * count, count), in_place).wait(e);
  CHECK(all_equal(at.get(in_place), gathered));

  std::vector<std::size_t> counts(ranks);  // rank r gives (r % 3) * count
  std::vector<T> expected;
  for (int r = 0; r < n; ++r) {
    counts[std::size_t(r)] = std::size_t(r % 3) * count;
    const auto part = samples<T>(r, counts[std::size_t(r)]);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  mine = at.put(samples<T>(me, counts[std::size_t(me)]));
  auto joined = at.room(expected.size(), T());
  c.all_gather_v(e, mine, counts, joined).wait(e);
  at.spoil(mine);
  CHECK(all_equal(at.get(joined), [&](std::size_t i) { return expected[i]; }));

  mine = at.put(samples<T>(me, count * ranks));
  auto swapped = at.room(count * ranks, T());
  c.all_to_all(e, mine, swapped).wait(e);
  at.spoil(mine);
  CHECK(all_equal(at.get(swapped), [&](std::size_t i) { return sample<T>(int(i / count), std::size_t(me) * count + i % count); }));

  const auto sends = [&](int from, int to) { return std::size_t((from + 2 * to) % 3) * count; };  // zeros among them
  std::vector<std::size_t> send_counts(ranks), recv_counts(ranks);
  std::vector<T> out_v, in_v;
  for (int r = 0; r < n; ++r) {
    send_counts[std::size_t(r)] = sends(me, r);
    recv_counts[std::size_t(r)] = sends(r, me);
    const auto to = samples<T>(me, sends(me, r), r), from = samples<T>(r, sends(r, me), me);
    in_v.insert(in_v.end(), to.begin(), to.end());
    out_v.insert(out_v.end(), from.begin(), from.end());
  }
  mine = at.put(std::move(in_v));
  auto received = at.room(out_v.size(), T());
  c.all_to_all_v(e, mine, send_counts, received, recv_counts).wait(e);
  at.spoil(mine);
  CHECK(all_equal(at.get(received), [&](std::size_t i) { return out_v[i]; }));

  const int right = (me + 1) % n, left = (me + n - 1) % n;
  auto first = at.put(samples<T>(me, count, 1)), next = at.put(samples<T>(me, count, 2));
  auto letter = at.room(count, T()), second = at.room(count, T());  // two on their way before the first is taken
  c.send(e, first, right).wait(e);
  c.send(e, next, right).wait(e);
  at.spoil(first), at.spoil(next);
  c.recv(e, letter, left).wait(e);
  c.recv(e, second, left).wait(e);
  CHECK(all_equal(at.get(letter), [&](std::size_t i) { return sample<T>(left, i, 1); }));
  CHECK(all_equal(at.get(second), [&](std::size_t i) { return sample<T>(left, i, 2); }));
}

template <class C, class Place>
void check_split(C& c, const Place& at) {
  const auto e = at.e;
  const int n = c.size(), me = c.rank();
  CHECK((0 <= me && me < n));
  C odd = c.split(me % 2, -me, "odd");  // reversed order
  const int members = me % 2 == 0 ? (n + 1) / 2 : n / 2;
  CHECK(odd.size() == members);
  CHECK(odd.rank() == members - 1 - me / 2);
  CHECK(odd.label() == comm_label("odd"));
  auto mine = at.put(std::vector<std::int32_t>{me});
  auto order = at.room(std::size_t(odd.size()), std::int32_t());
  odd.all_gather(e, mine, order).wait(e);
  CHECK(all_equal(at.get(order), [&](std::size_t i) { return me % 2 + 2 * (members - 1 - int(i)); }));
  C alone = odd.split(odd.rank(), 0);
  CHECK(alone.size() == 1);
  CHECK(alone.label() == comm_label("odd"));
  check_exchanges<float>(alone, at, 3);
  auto one = at.put(std::vector<std::int64_t>{1}), all = at.room(1, std::int64_t());  // the parent goes on working
  c.all_reduce(e, one, all, sum{}).wait(e);
  CHECK(at.get(all)[0] == n);
  odd.barrier(e).wait(e);
  c.barrier(e).wait(e);
}

template <class C>
void check_window(C& c, host_exec e) {
  for (std::size_t count : {std::size_t{0}, std::size_t{3}, std::size_t{5000}}) {
    auto mine = samples<float>(c.rank(), count + std::size_t(c.rank()));
    auto window = c.expose(e, mine);
    for (int r = 0; r < c.size(); ++r) {
      CHECK(window.peer(r).size() == count + std::size_t(r));
      CHECK(all_equal(window.peer(r), [&](std::size_t i) { return sample<float>(r, i); }));
    }
    window.close();
    for (float& x : mine) x = -1;  // no peer reads it any more
  }
}

/// The same for data in another place: every rank gives its own.
template <class... Types, class C, class Place>
void check_communicator(C& c, const Place& at) {
  if constexpr (sizeof...(Types) == 0) {
    check_communicator<double, float, bf16, std::int64_t, std::int32_t>(c, at);
  } else {
    for (std::size_t count : {0u, 1u, 7u, 128u, 1000u, 20011u}) {
      (check_reductions<Types>(c, at, count, sum{}), ...);
      (check_reductions<Types>(c, at, count, max{}), ...);
      (check_exchanges<Types>(c, at, count), ...);
    }
    check_split(c, at);
  }
}

/// Collective: every rank of `c` calls it. Decorators name two types, to compile faster: check_communicator<float, bf16>(c).
template <class... Types, class C>
void check_communicator(C& c) {
  static_assert(communicator<C>);
  if constexpr (sizeof...(Types) == 0) {
    check_communicator<double, float, bf16, std::int64_t, std::int32_t>(c);
  } else {
    host_context context;
    const in_host_memory at{host_exec(context)};
    check_communicator<Types...>(c, at);
    if constexpr (peer_readable<C>) check_window(c, at.e);
  }
}

}  // namespace moefold
