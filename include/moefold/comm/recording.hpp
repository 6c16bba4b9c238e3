#pragma once
// Counts what a rank calls and sends, per communicator label and operation, by the rule of core/traffic_rule.hpp. recording<C> is a
// communicator like C; the log is a plain table of the rank that can be compared, subtracted and printed.
//
//   traffic_log log;                               world  all_to_all_v      4 calls   12 messages   98304 bytes
//   recording world(std::move(comm), log);         tp     all_reduce        8 calls   ...
// Groups of one rank are not counted: nothing travels. Counting allocates nothing.
#include <moefold/comm/signature.hpp>

#include <array>
#include <string>
#include <utility>

namespace moefold {

struct traffic_count {
  std::uint64_t calls = 0;
  std::uint64_t messages = 0;  // peers sent to
  std::uint64_t bytes = 0;     // sent by this rank

  constexpr bool operator==(const traffic_count&) const = default;
  constexpr traffic_count& operator+=(const traffic_count& other) {
    calls += other.calls, messages += other.messages, bytes += other.bytes;
    return *this;
  }
  constexpr traffic_count& operator-=(const traffic_count& other) {
    calls -= other.calls, messages -= other.messages, bytes -= other.bytes;
    return *this;
  }
};

/// One rank's table label x operation. Equality and difference go by label, whatever the order the labels came in.
class traffic_log {
 public:
  static constexpr std::size_t max_labels = 32;
  struct entry {
    comm_label label;
    operation op;
    traffic_count count;
  };

  /// The row of a label, made if it is new.
  std::size_t row(const comm_label& label) {
    const std::size_t place = find(label);
    if (place < used_) return place;
    require(used_ < max_labels, "moefold: a traffic log holds ", max_labels, " labels, ", label.view(),
            " is one more; give communicators of one kind one label");
    labels_[used_] = label;
    return used_++;
  }
  void add(std::size_t row, operation op, const traffic_count& count) { counts_[row][std::size_t(op)] += count; }

  traffic_count operator()(const comm_label& label, operation op) const {
    const std::size_t place = find(label);
    return place < used_ ? counts_[place][std::size_t(op)] : traffic_count{};
  }
  /// All operations of one label together.
  traffic_count total(const comm_label& label) const {
    traffic_count sum;
    for_each([&](const entry& e) {
      if (e.label == label) sum += e.count;
    });
    return sum;
  }
  traffic_count total() const {
    traffic_count sum;
    for_each([&](const entry& e) { sum += e.count; });
    return sum;
  }

  /// f(entry) for everything that was called, by label, then operation.
  template <class F>
  void for_each(F&& f) const {
    for (std::size_t l = 0; l < used_; ++l)
      for (std::size_t op = 0; op < operations; ++op)
        if (counts_[l][op] != traffic_count{}) f(entry{labels_[l], operation(op), counts_[l][op]});
  }

  bool operator==(const traffic_log& other) const { return contained_in(other) && other.contained_in(*this); }
  /// What came after `earlier`, a copy of this log.
  traffic_log operator-(const traffic_log& earlier) const {
    traffic_log difference = *this;
    earlier.for_each([&](const entry& e) { difference.counts_[difference.row(e.label)][std::size_t(e.op)] -= e.count; });
    return difference;
  }
  /// Forgets the counts and keeps the rows: communicators that count here go on doing so.
  void clear() { counts_ = {}; }

  std::string table() const {
    std::string text;
    for_each([&](const entry& e) {
      char line[160];
      std::snprintf(line, sizeof line, "%-20s %-17s %10llu calls %12llu messages %16llu bytes\n", std::string(e.label.view()).c_str(),
                    name_of(e.op), static_cast<unsigned long long>(e.count.calls), static_cast<unsigned long long>(e.count.messages),
                    static_cast<unsigned long long>(e.count.bytes));
      text += line;
    });
    return text;
  }

 private:
  std::size_t find(const comm_label& label) const {
    std::size_t l = 0;
    while (l < used_ && !(labels_[l] == label)) ++l;
    return l;
  }
  bool contained_in(const traffic_log& other) const {
    bool same = true;
    for_each([&](const entry& e) { same = same && other(e.label, e.op) == e.count; });
    return same;
  }

  std::array<comm_label, max_labels> labels_{};
  std::array<std::array<traffic_count, operations>, max_labels> counts_{};
  std::size_t used_ = 0;
};

/// The communicator C, counted. Counts a call when it is entered. The log belongs to the rank and outlives the communicator.
template <class C>
class recording {
 public:
  using ticket = typename C::ticket;

  recording(C inner, traffic_log& log) : inner_(std::move(inner)), log_(&log), row_(inner_.size() > 1 ? log.row(inner_.label()) : 0) {}

  int rank() const { return inner_.rank(); }
  int size() const { return inner_.size(); }
  decltype(auto) label() const { return inner_.label(); }
  const traffic_log& log() const { return *log_; }
  C& inner() { return inner_; }
  double cpu_seconds() const requires requires(const C& c) { c.cpu_seconds(); }
  { return inner_.cpu_seconds(); }
  void set_hook(void (*hook)(void*), void* context) requires hookable<C> { inner_.set_hook(hook, context); }

  recording split(int colour, int key, comm_label label = {}) {
    count(operation::split, 0, 0, 0);
    return {inner_.split(colour, key, label), *log_};
  }
  recording rebuild() requires rebuildable<C> { return {inner_.rebuild(), *log_}; }
  void starting(bool on) requires requires(C& c) { c.starting(on); }
  { inner_.starting(on); }
  decltype(auto) stragglers() const requires requires(const C& c) { c.stragglers(); }
  { return inner_.stragglers(); }
  /// What it does is counted when it is issued, by the caller's thread.
  recording apart(comm_label label = {}) requires overlapping<C> {
    count(operation::split, 0, 0, 0);
    return {inner_.apart(label), *log_};
  }
  template <class Exec>
  ticket barrier(Exec e) {
    count(operation::barrier, 0, 0, 0);
    return inner_.barrier(e);
  }
  template <class Exec, writable_elements Data>
  ticket broadcast(Exec e, Data&& data, int root) {
    count<Data>(operation::broadcast, std::size(data));
    return inner_.broadcast(e, data, root);
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce(Exec e, const In& in, Out&& out, Op op, int root) {
    count<Out>(operation::reduce, std::size(in));
    return inner_.reduce(e, in, out, op, root);
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket all_reduce(Exec e, const In& in, Out&& out, Op op) {
    count<Out>(operation::all_reduce, std::size(in));
    return inner_.all_reduce(e, in, out, op);
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_gather(Exec e, const In& in, Out&& out) {
    count<Out>(operation::all_gather, std::size(in));
    return inner_.all_gather(e, in, out);
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_gather_v(Exec e, const In& in, std::span<const std::size_t> counts, Out&& out) {
    count<Out>(operation::all_gather_v, counts);
    return inner_.all_gather_v(e, in, counts, out);
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter(Exec e, const In& in, Out&& out, Op op) {
    count<Out>(operation::reduce_scatter, std::size(out));
    return inner_.reduce_scatter(e, in, out, op);
  }
  template <class Exec, elements In, writable_elements Out, reduction Op>
  ticket reduce_scatter_v(Exec e, const In& in, std::span<const std::size_t> counts, Out&& out, Op op) {
    count<Out>(operation::reduce_scatter_v, counts);
    return inner_.reduce_scatter_v(e, in, counts, out, op);
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_to_all(Exec e, const In& in, Out&& out) {
    count<Out>(operation::all_to_all, std::size(in) / std::size_t(size()));
    return inner_.all_to_all(e, in, out);
  }
  template <class Exec, elements In, writable_elements Out>
  ticket all_to_all_v(Exec e, const In& in, std::span<const std::size_t> send_counts, Out&& out, std::span<const std::size_t> recv_counts) {
    count<Out>(operation::all_to_all_v, send_counts);
    return inner_.all_to_all_v(e, in, send_counts, out, recv_counts);
  }
  template <element T, class Exec, showable Shown, class Fetch>
  ticket fetch_v(Exec e, const Shown& shown, std::span<const std::size_t> send_counts, std::span<const std::size_t> recv_counts,
                 Fetch&& fetch) requires fetching<C, Exec> {
    count<std::span<T>>(operation::all_to_all_v, send_counts);
    return inner_.template fetch_v<T>(e, shown, send_counts, recv_counts, std::forward<Fetch>(fetch));
  }
  template <class Exec, elements In>
  ticket send(Exec e, const In& in, int peer) {
    count<const In>(operation::send, std::size(in));
    return inner_.send(e, in, peer);
  }
  template <class Exec, writable_elements Out>
  ticket recv(Exec e, Out&& out, int peer) {
    count(operation::recv, 0, 0, 0);
    return inner_.recv(e, out, peer);
  }
  template <class Exec, elements In>
  auto expose(Exec e, const In& in) requires requires(C& c) {
    c.expose(e, in);
  }
  {
    count(operation::expose, 0, 0, 0);
    return inner_.expose(e, in);
  }

 private:
  std::uint64_t ranks() const { return std::uint64_t(size()); }
  void count(operation op, std::uint64_t messages, std::uint64_t elements, std::size_t size_of_one) {
    if (size() > 1) log_->add(row_, op, {1, messages, bytes_sent(op, ranks(), elements, size_of_one)});
  }
  template <class Range>
  void count(operation op, std::size_t elements) {
    count(op, messages_sent(op, ranks(), elements), elements, sizeof(element_of<Range>));
  }
  template <class Range>
  void count(operation op, std::span<const std::size_t> counts) {
    if (counts.size() != ranks()) return;  // the call itself will say so
    const auto me = std::size_t(rank());
    count(op, messages_sent(op, me, counts), elements_leaving(op, me, counts), sizeof(element_of<Range>));
  }

  C inner_;
  traffic_log* log_;
  std::size_t row_;
};

}  // namespace moefold
