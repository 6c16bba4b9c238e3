#pragma once
// The transport over connected stream sockets: TCP between processes (comm/socket_mesh.hpp), socket pairs in tests. No thread of its own: whoever tests or
// idles moves everybody's bytes.
//
//   up to 8 KiB    [whole | bytes]                              kept by the receiver until it is asked for
//   more           [asks | tag, length]  ->  [takes]  ->  [data | bytes]   straight into the receiver's room, once there is one
// So a message that nobody asks for yet blocks none behind it, and holds no memory but a line of 8 KiB. A connection that is closed or reset means that the
// peer's process has ended: the kernel says so within milliseconds, however it ended.
#include <moefold/comm/socket_mesh.hpp>
#include <moefold/comm/transport.hpp>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <vector>

#include <fcntl.h>
#include <linux/sockios.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/uio.h>

namespace moefold {

class socket_transport final : public transport {
 public:
  /// Longest message that is sent without being asked for.
  static constexpr std::size_t eager_bytes = std::size_t(8) << 10;
  /// Of one peer's messages that nobody has asked for: beyond it nothing more is read from that peer until some are taken.
  static constexpr std::size_t most_waiting = std::size_t(64) << 20;

  /// Over sockets that are connected: sockets[p] leads to rank p, its own is empty.
  socket_transport(int rank, std::vector<detail::file_descriptor> sockets)
      : rank_(rank), peers_(sockets.size()), poll_(::epoll_create1(EPOLL_CLOEXEC)), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    require(rank >= 0 && rank < size() && poll_ && wake_, "moefold: rank ", rank, " of ", size(),
            " cannot open its sockets: ", std::strerror(errno));
    watch(wake_.get(), EPOLL_CTL_ADD, EPOLLIN, size());
    for (int p = 0; p < size(); ++p) {
      peer& there = peers_[std::size_t(p)];
      there.socket = std::move(sockets[std::size_t(p)]);
      require(p == rank || there.socket, "moefold: rank ", rank, " has no socket to rank ", p, " of ", size());
      if (p == rank) continue;
      const int fd = there.socket.get();
      ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK);
      const int yes = 1;
      there.tcp = ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) == 0;
      detail::tell(fd, SOL_SOCKET, SO_KEEPALIVE);
      for (const auto& [name, value] :
           {std::pair{TCP_KEEPIDLE, 10}, {TCP_KEEPINTVL, 5}, {TCP_KEEPCNT, 4}})  // an idle machine that is gone: 30 s; in calls, deadlines
        (void)::setsockopt(fd, IPPROTO_TCP, name, &value, sizeof value);
      there.buffer.resize(buffer_bytes);
      watch(fd, EPOLL_CTL_ADD, there.watched, p);
    }
  }
  socket_transport(const socket_transport&) = delete;
  socket_transport& operator=(const socket_transport&) = delete;
  /// What has been sent still leaves, for a second at most; then the connections close.
  ~socket_transport() override {
    std::unique_lock lock(mutex_);
    const auto end = clock::now() + std::chrono::seconds(1);
    for (peer& there : peers_)
      while (there.socket && !gone_out(there) && clock::now() < end) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }

  int rank() const override { return rank_; }
  int size() const override { return int(peers_.size()); }
  std::string name() const override { return "TCP sockets"; }

  request send(int to, std::uint32_t tag, std::span<const std::byte> data) override {
    std::unique_lock lock(mutex_);
    peer& there = peer_of(to, "send to");
    require(data.size() <= most_bytes, "moefold: a message of ", data.size(), " bytes; a transport carries at most ", most_bytes);
    if (there.lost()) throw transport_error(there.text, to);
    node& n = take(to, tag, const_cast<std::byte*>(data.data()), data.size());  // only read
    n.now = data.size() <= eager_bytes ? state::writing_whole : state::asking;
    n.head = {n.now == state::writing_whole ? frame::whole : frame::asks, tag, std::uint32_t(data.size()), n.index, 0};
    queue(there, n);
    return {n.index, to, true};
  }
  request receive(int from, std::uint32_t tag, std::span<std::byte> room) override {
    std::unique_lock lock(mutex_);
    peer& there = peer_of(from, "receive from");
    arrived* const came = there.waiting.take([&](const arrived& a) { return a.tag == tag; });
    if (came == nullptr && there.lost()) throw transport_error(there.text, from);
    node& n = take(from, tag, room.data(), room.size());
    if (came == nullptr) {
      n.now = state::posted;
      there.posted.add(n);
    } else {
      there.waiting_bytes -= came->cost();
      match(there, n, *came);
    }
    return {n.index, from, false};
  }
  bool test(request& r, std::size_t* bytes = nullptr) override {
    if (!r.pending()) return true;
    std::unique_lock lock(mutex_);
    if (finish(r, bytes)) return true;
    progress();
    if (finish(r, bytes)) return true;
    seen() = {this, generation_};
    return false;
  }
  void abandon(request& r, std::shared_ptr<void> memory) noexcept override {
    if (!r.pending()) return;
    std::unique_lock lock(mutex_);
    node& n = node_of(r);
    peer& there = peers_[std::size_t(n.peer)];
    r = {};
    if (n.now == state::posted) there.posted.take([&](const node& other) { return &other == &n; });
    if (n.now == state::posted || settled(n) || there.lost()) return recycle(n);
    n.memory = std::move(memory);
    n.abandoned = true;
  }

  /// One thread at a time waits for the kernel, the others for it.
  void idle(std::chrono::nanoseconds at_most) override {
    std::unique_lock lock(mutex_);
    const auto before = std::exchange(seen(), {this, generation_});
    if (before.whose == this && before.generation != generation_) return;
    if (leading_) {
      changed_.wait_for(lock, at_most, [&, now = generation_] { return generation_ != now || !leading_; });
      return;
    }
    leading_ = true;
    lock.unlock();
    const timespec t{at_most.count() / 1'000'000'000, at_most.count() % 1'000'000'000};
    pollfd p{poll_.get(), POLLIN, 0};
    (void)::ppoll(&p, 1, &t, nullptr);
    lock.lock();
    leading_ = false;
    std::uint64_t woken = 0;
    (void)!::read(wake_.get(), &woken, sizeof woken);
    progress();
    changed_.notify_all();
  }

  void abort(int /*code*/) noexcept override {
    std::unique_lock lock(mutex_);
    for (int p = 0; p < size(); ++p)
      if (peer& there = peers_[std::size_t(p)]; there.socket) {
        lose(there, "");
        there.text = sentence("moefold: rank ", rank_, " has ended the job: its connections are closed");
      }
    changed_.notify_all();
  }

 private:
  using clock = std::chrono::steady_clock;
  static constexpr std::size_t buffer_bytes = std::size_t(16) << 10;

  struct frame {  // what goes before bytes; numbers as they lie in memory, as in comm/rendezvous.hpp
    enum : std::uint32_t { whole = 0x6d66700u, asks, takes, data } kind = whole;
    std::uint32_t tag = 0, length = 0, from = 0, to = 0;  // from, to: the sender's node and the receiver's
  };
  enum class state : std::uint8_t { free, writing_whole, asking, asked, writing_data, posted, taking, reading, done, too_long };
  struct node {  // a send or a receive
    node* next = nullptr;
    std::uint32_t index = 0, tag = 0;
    int peer = -1;
    state now = state::free;
    bool abandoned = false;
    std::byte* at = nullptr;
    std::size_t length = 0;   // to be sent, or of the room; received once it is done
    std::size_t written = 0;  // of head and bytes
    frame head;
    std::shared_ptr<void> memory;
  };
  struct arrived {  // a message, or the wish to send one, that nobody has asked for yet
    arrived* next = nullptr;
    std::uint32_t tag = 0, from = 0, length = 0;
    bool whole = false;
    std::vector<std::byte> bytes;
    std::size_t cost() const { return sizeof(arrived) + bytes.size(); }
  };
  template <class T>
  struct list {  // first in, first out
    T *first = nullptr, *last = nullptr;
    void add(T& t) {
      t.next = nullptr;
      (first == nullptr ? first : last->next) = &t;
      last = &t;
    }
    /// The first that matches leaves the list; null: none does.
    template <class Match>
    T* take(Match&& matches) {
      for (T *t = first, *before = nullptr; t != nullptr; before = t, t = t->next)
        if (matches(*t)) {
          (before == nullptr ? first : before->next) = t->next;
          if (last == t) last = before;
          return t;
        }
      return nullptr;
    }
  };
  struct peer {
    detail::file_descriptor socket;  // empty: this rank itself, or lost
    bool tcp = false;
    std::string text;  // why it is lost
    std::uint32_t watched = EPOLLIN;
    list<node> out, posted;
    list<arrived> waiting;
    std::size_t waiting_bytes = 0;
    std::vector<std::byte> buffer;
    std::size_t begin = 0, end = 0;  // of what lies in it
    std::size_t left = 0;            // of a message that is coming
    std::byte* into = nullptr;       // null: nobody wants it
    node* reads = nullptr;
    arrived* keeps = nullptr;
    bool lost() const { return !text.empty(); }
  };
  struct sight {
    const void* whose = nullptr;
    std::uint64_t generation = 0;
  };
  static sight& seen() {  // how much this thread knew when it last found a request unfinished
    static thread_local sight s;
    return s;
  }

  peer& peer_of(int p, const char* what) {
    require(p >= 0 && p < size() && p != rank_, "moefold: rank ", rank_, " of ", size(), " cannot ", what, " rank ", p);
    return peers_[std::size_t(p)];
  }
  node& node_of(const request& r) { return nodes_[r.id]; }
  node& take(int p, std::uint32_t tag, std::byte* at, std::size_t length) {
    if (free_ == nullptr) {
      node& made = nodes_.emplace_back();
      made.index = std::uint32_t(nodes_.size() - 1);
      made.next = std::exchange(free_, &made);
    }
    node& n = *std::exchange(free_, free_->next);
    n.peer = p, n.tag = tag, n.at = at, n.length = length, n.written = 0, n.abandoned = false;
    return n;
  }
  void recycle(node& n) noexcept {
    n.memory.reset();
    n.now = state::free;
    n.next = std::exchange(free_, &n);
  }
  static bool settled(const node& n) { return n.now == state::done || n.now == state::too_long; }
  /// Whoever waits may look again.
  void settle(node& n, state how) {
    n.now = how;
    ++generation_;
    if (n.abandoned) recycle(n);
  }
  bool finish(request& r, std::size_t* bytes) {
    node& n = node_of(r);
    if (n.now == state::done) {
      if (bytes != nullptr) *bytes = n.length;
      recycle(n);
      r = {};
      return true;
    }
    if (n.now == state::too_long)
      throw transport_error(sentence("moefold: rank ", n.peer, " sent a message of ", n.head.length, " bytes to rank ", rank_,
                                     ", which has room for ", n.length),
                            n.peer);
    const peer& there = peers_[std::size_t(n.peer)];
    if (there.lost()) throw transport_error(there.text, n.peer);
    return false;
  }

  void watch(int fd, int what, std::uint32_t events, int p) {
    epoll_event e{};
    e.events = events, e.data.u32 = std::uint32_t(p);
    (void)::epoll_ctl(poll_.get(), what, fd, &e);
  }
  void watch(peer& there) {
    const std::uint32_t events =
        (there.waiting_bytes < most_waiting ? std::uint32_t(EPOLLIN) : 0u) | (there.out.first != nullptr ? std::uint32_t(EPOLLOUT) : 0u);
    if (!there.socket || events == there.watched) return;
    watch(there.socket.get(), EPOLL_CTL_MOD, there.watched = events, int(&there - peers_.data()));
  }

  void queue(peer& there, node& n) {
    n.written = 0;
    const bool first = there.out.first == nullptr;
    there.out.add(n);
    if (first) flush(there);
  }
  static std::size_t bytes_behind(const node& n) { return n.now == state::writing_whole || n.now == state::writing_data ? n.length : 0; }
  void flush(peer& there) {
    while (there.socket && there.out.first != nullptr) {
      iovec parts[16];
      std::size_t count = 0;
      for (node* n = there.out.first; n != nullptr && count + 2 <= std::size(parts); n = n->next) {
        const std::size_t behind = bytes_behind(*n);
        if (n->written < sizeof(frame)) parts[count++] = {reinterpret_cast<std::byte*>(&n->head) + n->written, sizeof(frame) - n->written};
        const std::size_t done = n->written < sizeof(frame) ? 0 : n->written - sizeof(frame);
        if (behind > done) parts[count++] = {n->at + done, behind - done};
      }
      msghdr message{};
      message.msg_iov = parts, message.msg_iovlen = count;
      const ssize_t sent = ::sendmsg(there.socket.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0 && errno == EINTR) continue;
      if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (sent < 0) {
        const int why = errno;
        read(there, std::size_t(-1));  // what had arrived is delivered
        if (there.socket) lose(there, std::strerror(why));
        return;
      }
      for (std::size_t left = std::size_t(sent); left > 0;) {
        node& n = *there.out.first;
        const std::size_t part = std::min(left, sizeof(frame) + bytes_behind(n) - n.written);
        n.written += part, left -= part;
        if (n.written < sizeof(frame) + bytes_behind(n)) break;
        there.out.take([](const node&) { return true; });
        written(n);
      }
    }
    watch(there);
  }
  /// Closing a connection with unread bytes takes back what the peer's machine has not got yet: so those are read, and these waited for.
  bool gone_out(peer& there) {
    flush(there);
    if (!there.socket || there.out.first != nullptr) return !there.socket;
    if (!there.tcp) return true;
    while (::recv(there.socket.get(), there.buffer.data(), there.buffer.size(), MSG_DONTWAIT) > 0) {
    }
    int unacknowledged = 0;
    return ::ioctl(there.socket.get(), SIOCOUTQ, &unacknowledged) != 0 || unacknowledged == 0;
  }
  void written(node& n) {
    switch (n.now) {
      case state::asking: n.now = state::asked; break;
      case state::taking: n.now = state::reading; break;
      default: settle(n, state::done);
    }
  }

  void progress() {
    epoll_event events[64];
    const std::uint64_t before = generation_;
    const int found = ::epoll_wait(poll_.get(), events, int(std::size(events)), 0);
    for (int i = 0; i < found; ++i) {
      if (events[i].data.u32 == std::uint32_t(size())) continue;  // a thread is being woken
      peer& there = peers_[events[i].data.u32];
      if (there.socket && (events[i].events & EPOLLOUT) != 0) flush(there);
      if (there.socket && (events[i].events & ~std::uint32_t(EPOLLOUT)) != 0) read(there);
    }
    if (generation_ != before && leading_) {
      const std::uint64_t one = 1;
      (void)!::write(wake_.get(), &one, sizeof one);
      changed_.notify_all();
    }
  }

  void read(peer& there, std::size_t budget = std::size_t(4) << 20) {  // then it is another peer's turn
    while (there.socket && budget > 0) {
      const std::size_t buffered = there.end - there.begin;
      if (there.left > 0 && buffered > 0) {
        const std::size_t part = std::min(there.left, buffered);
        if (there.into != nullptr) std::memcpy(there.into, there.buffer.data() + there.begin, part);
        there.begin += part;
        came(there, part);
        continue;
      }
      if (there.left == 0 && buffered >= sizeof(frame)) {
        frame f;
        std::memcpy(&f, there.buffer.data() + there.begin, sizeof f);
        there.begin += sizeof f;
        if (!begin(there, f)) return lose(there, "it does not speak this protocol");
        continue;
      }
      const bool straight = there.left > buffer_bytes / 4 && there.into != nullptr;
      if (!straight && there.begin > 0) {
        std::memmove(there.buffer.data(), there.buffer.data() + there.begin, buffered);
        there.begin = 0, there.end = buffered;
      }
      const ssize_t n = straight ? ::recv(there.socket.get(), there.into, there.left, MSG_DONTWAIT)
                                 : ::recv(there.socket.get(), there.buffer.data() + there.end, buffer_bytes - there.end, MSG_DONTWAIT);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
      if (n <= 0) return lose(there, n == 0 ? "connection closed" : std::strerror(errno));
      budget -= std::min(budget, std::size_t(n));
      if (straight)
        came(there, std::size_t(n));
      else
        there.end += std::size_t(n);
    }
    watch(there);
  }
  /// A frame has come: where do its bytes go?
  bool begin(peer& there, const frame& f) {
    const int p = int(&there - peers_.data());
    if (f.length > most_bytes || (f.kind == frame::whole && f.length > eager_bytes)) return false;
    const auto own = [&](std::uint32_t index, state expected) {
      return index < nodes_.size() && nodes_[index].peer == p && nodes_[index].now == expected;
    };
    switch (f.kind) {
      case frame::whole: {
        node* const n = there.posted.take([&](const node& r) { return r.tag == f.tag; });
        there.left = f.length;
        if (n == nullptr) {
          arrived& a = spare();
          a.tag = f.tag, a.length = f.length, a.whole = true;
          a.bytes.resize(f.length);
          there.keeps = &a;
          there.into = a.bytes.data();
        } else if (f.length > n->length) {
          n->head.length = f.length;
          settle(*n, state::too_long);
          there.into = nullptr;
        } else {
          n->now = state::reading;
          n->length = f.length;
          there.reads = n;
          there.into = n->at;
        }
        came(there, 0);
        return true;
      }
      case frame::asks: {
        arrived& a = spare();
        a.tag = f.tag, a.length = f.length, a.from = f.from, a.whole = false;
        if (node* const n = there.posted.take([&](const node& r) { return r.tag == f.tag; }))
          match(there, *n, a);
        else
          keep(there, a);
        return true;
      }
      case frame::takes:
        if (!own(f.from, state::asked)) return false;
        nodes_[f.from].now = state::writing_data;
        nodes_[f.from].head = {frame::data, 0, std::uint32_t(nodes_[f.from].length), f.from, f.to};
        queue(there, nodes_[f.from]);
        return true;
      case frame::data:
        if (!own(f.to, state::reading) || nodes_[f.to].length != f.length) return false;
        there.reads = &nodes_[f.to];
        there.into = nodes_[f.to].at;
        there.left = f.length;
        came(there, 0);
        return true;
    }
    return false;
  }
  /// So many more bytes of a message are there; with the last one it is finished.
  void came(peer& there, std::size_t bytes) {
    there.left -= bytes;
    if (there.into != nullptr) there.into += bytes;
    if (there.left > 0) return;
    there.into = nullptr;
    if (node* const n = std::exchange(there.reads, nullptr)) settle(*n, state::done);
    if (arrived* const a = std::exchange(there.keeps, nullptr)) {
      if (node* const n = there.posted.take([&](const node& r) { return r.tag == a->tag; }))
        match(there, *n, *a);  // it was started while the message came
      else
        keep(there, *a);
    }
  }
  void keep(peer& there, arrived& a) {
    there.waiting.add(a);
    there.waiting_bytes += a.cost();
  }
  /// A receive and what had come for it, which is in no list any more.
  void match(peer& there, node& n, arrived& a) {
    if (a.length > n.length) {
      n.head.length = a.length;
      settle(n, state::too_long);
    } else {
      n.length = a.length;
      if (a.whole) {
        if (a.length > 0) std::memcpy(n.at, a.bytes.data(), a.length);
        settle(n, state::done);
      } else if (there.socket) {
        n.now = state::taking;
        n.head = {frame::takes, 0, 0, a.from, n.index};
        queue(there, n);
      } else {
        n.now = state::reading;  // the rest will never come
      }
    }
    a.next = std::exchange(spare_, &a);
    watch(there);
  }
  arrived& spare() {
    if (spare_ == nullptr) spare_ = &arrived_.emplace_back();
    arrived& a = *std::exchange(spare_, spare_->next);
    a.bytes.clear();
    return a;
  }

  void lose(peer& there, const std::string& why) {
    const int p = int(&there - peers_.data());
    there.text = sentence("moefold: rank ", p, "'s process has ended: ", why);
    there.socket = detail::file_descriptor();
    there.out = {};
    there.reads = nullptr, there.keeps = nullptr, there.into = nullptr, there.left = 0;
    ++generation_;
    for (node& n : nodes_)
      if (n.peer == p && n.abandoned && n.now != state::free) recycle(n);
  }

  int rank_;
  std::vector<peer> peers_;  // [size]
  detail::file_descriptor poll_, wake_;
  std::mutex mutex_;  // of all that follows and of the peers
  std::condition_variable changed_;
  std::uint64_t generation_ = 0;  // of what there is to be seen
  bool leading_ = false;          // a thread waits for the kernel
  std::deque<node> nodes_;
  std::deque<arrived> arrived_;
  node* free_ = nullptr;
  arrived* spare_ = nullptr;
};

}  // namespace moefold
