#pragma once
// What every communicator must do, once: check_communicator(c) is called by all ranks of c and compares each operation with its definition,
// for counts 0, 1, small (inside the post), uneven and large, for every element type and reduction. A new communicator adds one line.
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

template <class T, class Op, class C>
void check_reductions(C& c, host_exec e, std::size_t count, Op op) {
  const int n = c.size(), me = c.rank();
  const auto mine = samples<T>(me, count);
  std::vector<T> out(count);
  c.all_reduce(e, mine, out, op).wait(e);
  CHECK(all_equal(out, [&](std::size_t i) { return reduced<T>(n, i, op); }));
  std::vector<T> in_place = mine;
  c.all_reduce(e, in_place, in_place, op).wait(e);
  CHECK(all_equal(in_place, [&](std::size_t i) { return reduced<T>(n, i, op); }));

  for (int root : {0, n - 1}) {
    std::vector<T> at_root(me == root ? count : 0);
    c.reduce(e, mine, at_root, op, root).wait(e);
    if (me == root) CHECK(all_equal(at_root, [&](std::size_t i) { return reduced<T>(n, i, op); }));
    in_place = mine;
    c.reduce(e, in_place, in_place, op, root).wait(e);
    CHECK(all_equal(in_place, [&](std::size_t i) { return me == root ? reduced<T>(n, i, op) : mine[i]; }));
  }

  const auto parts = samples<T>(me, count * std::size_t(n));
  c.reduce_scatter(e, parts, out, op).wait(e);
  CHECK(all_equal(out, [&](std::size_t i) { return reduced<T>(n, std::size_t(me) * count + i, op); }));
  auto scattered = parts;
  const std::span<T> own = std::span(scattered).subspan(std::size_t(me) * count, count);
  c.reduce_scatter(e, scattered, own, op).wait(e);
  CHECK(all_equal(own, [&](std::size_t i) { return reduced<T>(n, std::size_t(me) * count + i, op); }));

  std::vector<std::size_t> counts(std::size_t(n), 0);  // rank r keeps (r % 3) * count elements
  for (int r = 0; r < n; ++r) counts[std::size_t(r)] = std::size_t(r % 3) * count;
  const std::size_t total = std::accumulate(counts.begin(), counts.end(), std::size_t{0});
  const std::size_t first = std::accumulate(counts.begin(), counts.begin() + me, std::size_t{0});
  std::vector<T> kept(counts[std::size_t(me)]);
  c.reduce_scatter_v(e, samples<T>(me, total), counts, kept, op).wait(e);
  CHECK(all_equal(kept, [&](std::size_t i) { return reduced<T>(n, first + i, op); }));
}

template <class T, class C>
void check_exchanges(C& c, host_exec e, std::size_t count) {
  const int n = c.size(), me = c.rank();
  const auto ranks = std::size_t(n);
  for (int root : {0, n - 1}) {
    auto data = samples<T>(me, count);
    c.broadcast(e, data, root).wait(e);
    CHECK(all_equal(data, [&](std::size_t i) { return sample<T>(root, i); }));
  }

  std::vector<T> all(count * ranks);
  c.all_gather(e, samples<T>(me, count), all).wait(e);
  const auto gathered = [&](std::size_t i) { return sample<T>(int(i / count), i % count); };
  CHECK(all_equal(all, gathered));
  std::vector<T> in_place(count * ranks);
  const std::span<T> own = std::span(in_place).subspan(std::size_t(me) * count, count);
  for (std::size_t i = 0; i < count; ++i) own[i] = sample<T>(me, i);
  c.all_gather(e, own, in_place).wait(e);
  CHECK(all_equal(in_place, gathered));

  std::vector<std::size_t> counts(ranks);  // rank r gives (r % 3) * count
  std::vector<T> expected;
  for (int r = 0; r < n; ++r) {
    counts[std::size_t(r)] = std::size_t(r % 3) * count;
    const auto part = samples<T>(r, counts[std::size_t(r)]);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  std::vector<T> joined(expected.size());
  c.all_gather_v(e, samples<T>(me, counts[std::size_t(me)]), counts, joined).wait(e);
  CHECK(all_equal(joined, [&](std::size_t i) { return expected[i]; }));

  std::vector<T> swapped(count * ranks);
  c.all_to_all(e, samples<T>(me, count * ranks), swapped).wait(e);
  CHECK(all_equal(swapped, [&](std::size_t i) { return sample<T>(int(i / count), std::size_t(me) * count + i % count); }));

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
  std::vector<T> received(out_v.size());
  c.all_to_all_v(e, in_v, send_counts, received, recv_counts).wait(e);
  CHECK(all_equal(received, [&](std::size_t i) { return out_v[i]; }));

  const int right = (me + 1) % n, left = (me + n - 1) % n;
  std::vector<T> letter(count), second(count);  // two on their way before the first is taken
  c.send(e, samples<T>(me, count, 1), right).wait(e);
  c.send(e, samples<T>(me, count, 2), right).wait(e);
  c.recv(e, letter, left).wait(e);
  c.recv(e, second, left).wait(e);
  CHECK(all_equal(letter, [&](std::size_t i) { return sample<T>(left, i, 1); }));
  CHECK(all_equal(second, [&](std::size_t i) { return sample<T>(left, i, 2); }));
}

template <class C>
void check_split(C& c, host_exec e) {
  const int n = c.size(), me = c.rank();
  CHECK((0 <= me && me < n));
  C odd = c.split(me % 2, -me, "odd");  // reversed order
  const int members = me % 2 == 0 ? (n + 1) / 2 : n / 2;
  CHECK(odd.size() == members);
  CHECK(odd.rank() == members - 1 - me / 2);
  CHECK(odd.label() == comm_label("odd"));
  const std::vector<std::int32_t> mine{me};
  std::vector<std::int32_t> order(std::size_t(odd.size()));
  odd.all_gather(e, mine, order).wait(e);
  CHECK(all_equal(order, [&](std::size_t i) { return me % 2 + 2 * (members - 1 - int(i)); }));
  C alone = odd.split(odd.rank(), 0);
  CHECK(alone.size() == 1);
  CHECK(alone.label() == comm_label("odd"));
  check_exchanges<float>(alone, e, 3);
  std::int64_t one = 1, all = 0;  // the parent goes on working
  c.all_reduce(e, std::span<const std::int64_t>(&one, 1), std::span(&all, 1), sum{}).wait(e);
  CHECK(all == n);
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

/// Collective: every rank of `c` calls it. Decorators name two types, to compile faster: check_communicator<float, bf16>(c).
template <class... Types, class C>
void check_communicator(C& c) {
  static_assert(communicator<C>);
  if constexpr (sizeof...(Types) == 0) {
    check_communicator<double, float, bf16, std::int64_t, std::int32_t>(c);
  } else {
    host_context context;
    const host_exec e(context);
    for (std::size_t count : {0u, 1u, 7u, 128u, 1000u, 20011u}) {
      (check_reductions<Types>(c, e, count, sum{}), ...);
      (check_reductions<Types>(c, e, count, max{}), ...);
      (check_exchanges<Types>(c, e, count), ...);
    }
    check_split(c, e);
    if constexpr (peer_readable<C>) check_window(c, e);
  }
}

}  // namespace moefold
