#pragma once
// How processes that share nothing but an address begin: rank 0 listens there, everybody comes, and all leave with rank 0's bytes, such as the 128
// bytes of an NCCL id, or with everybody's. TCP, POSIX sockets, IPv4, IPv6 or a host name; used once, before there is a communicator.
//
//   rank 0   listen ........ rank 2, rank 1 come ........ last one comes: sends "all here" and the bytes to each, closes
//   rank r   connect, again and again until rank 0 listens; "rank r of n, b bytes", its own bytes; waits for the answer
// When somebody has not come before the deadline, those who came are told who is missing: every rank ends with the same sentence. There is no
// secret: whoever can reach the port can disturb the start, as with NCCL's own. What does not speak this protocol is ignored.
#include <moefold/comm/bootstrap.hpp>
#include <moefold/comm/failure.hpp>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <thread>
#include <vector>

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace moefold {

struct rendezvous_options {
  std::chrono::nanoseconds deadline = std::chrono::seconds(120);  // until everybody must have come
};

namespace detail {

class file_descriptor {
 public:
  explicit file_descriptor(int fd = -1) : fd_(fd) {}
  file_descriptor(file_descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  file_descriptor& operator=(file_descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~file_descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_;
};

// All numbers as they lie in memory: the ranks of one run are machines of one kind.
inline constexpr std::uint64_t rendezvous_magic = 0x31646c6f66656f6du;  // "moefold1"
struct rendezvous_hello {                                               // followed by what the rank brings
  std::uint64_t magic = rendezvous_magic;
  std::uint32_t rank = 0, size = 0, bytes = 0, brings = 0, version = 2, unused = 0;
};
struct rendezvous_answer {
  std::uint64_t magic = rendezvous_magic;
  enum : std::uint32_t { here, missing, refused } what = here;
  std::uint32_t length = 0;  // of the bytes, or of the sentence, that follow
  std::int32_t culprit = -1;
};

inline void tell(int fd, int level, int name) {
  const int yes = 1;
  (void)::setsockopt(fd, level, name, &yes, sizeof yes);
}

/// Whether an address is of this machine alone, by its name.
inline bool names_loopback(std::string_view host) { return host == "localhost" || host == "::1" || host.starts_with("127."); }

/// A socket that listens, on every interface, since a host name may stand for another of its addresses; on loopback where that was asked for by name.
/// Port 0: any that is free. Without one the result is empty and errno says why.
inline file_descriptor listen_at(std::string_view host, int port) {
  const bool loopback = names_loopback(host);
  int failed = 0;
  for (const int family : {AF_INET6, AF_INET}) {
    if (loopback && family == (host == "::1" ? AF_INET : AF_INET6)) continue;
    file_descriptor fd(::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) continue;
    tell(fd.get(), SOL_SOCKET, SO_REUSEADDR);
    sockaddr_storage s{};
    socklen_t length = 0;
    if (family == AF_INET6) {
      const int both = 0;  // IPv4 too
      (void)::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &both, sizeof both);
      sockaddr_in6 in{};
      in.sin6_family = AF_INET6, in.sin6_port = htons(std::uint16_t(port)), in.sin6_addr = loopback ? in6addr_loopback : in6addr_any;
      std::memcpy(&s, &in, length = sizeof in);
    } else {
      sockaddr_in in{};
      in.sin_family = AF_INET, in.sin_port = htons(std::uint16_t(port));
      in.sin_addr.s_addr = htonl(loopback ? INADDR_LOOPBACK : INADDR_ANY);
      std::memcpy(&s, &in, length = sizeof in);
    }
    if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&s), length) == 0 && ::listen(fd.get(), 1024) == 0) return fd;
    failed = errno;
    if (failed == EADDRINUSE) break;
  }
  errno = failed;
  return file_descriptor();
}

/// Where a process is, as a socket sees it; its port is of no meaning.
struct host_address {
  sockaddr_storage at{};
  socklen_t length = 0;

  bool loopback() const {
    if (at.ss_family == AF_INET) {
      sockaddr_in in{};
      std::memcpy(&in, &at, sizeof in);
      return (ntohl(in.sin_addr.s_addr) >> 24) == 127;
    }
    sockaddr_in6 in{};
    std::memcpy(&in, &at, sizeof in);
    const auto& a = in.sin6_addr.s6_addr;
    return IN6_IS_ADDR_LOOPBACK(&in.sin6_addr) || (IN6_IS_ADDR_V4MAPPED(&in.sin6_addr) && a[12] == 127);
  }
  host_address with_port(int port) const {
    host_address other = *this;
    const std::uint16_t p = htons(std::uint16_t(port));  // both kinds have it in the same place
    static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
    std::memcpy(reinterpret_cast<std::byte*>(&other.at) + offsetof(sockaddr_in, sin_port), &p, sizeof p);
    return other;
  }
};

/// Connects a non-blocking socket, waiting at most so long; errno says why not.
inline bool connected(int fd, const host_address& to, int milliseconds) {
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&to.at), to.length) == 0) return true;
  if (errno != EINPROGRESS) return false;
  pollfd p{fd, POLLOUT, 0};
  if (::poll(&p, 1, milliseconds) <= 0) return errno = ETIMEDOUT, false;
  int failed = 0;
  socklen_t size = sizeof failed;
  (void)::getsockopt(fd, SOL_SOCKET, SO_ERROR, &failed, &size);
  return (errno = failed) == 0;
}

class rendezvous {
 public:
  using clock = std::chrono::steady_clock;

  /// bytes: rank 0's become everybody's. brings: what this rank adds; with any, `came` has everybody's at the end.
  rendezvous(int rank, int size, const address& at, std::span<std::byte> bytes, std::span<const std::byte> brings,
             const rendezvous_options& options)
      : rank_(rank), size_(size), at_(at), bytes_(bytes), brings_(brings.begin(), brings.end()), begin_(clock::now()),
        end_(begin_ + options.deadline) {
    require<config_error>(size >= 1 && rank >= 0 && rank < size, "moefold: a rendezvous of rank ", rank, " in a world of ", size,
                          "; ranks go from 0 to below the world size");
    require<config_error>(size == 1 || !at.empty(), "moefold: rank ", rank, " of ", size,
                          " has no address to meet at; set MOEFOLD_RENDEZVOUS=host:port");
  }

  void run() {
    brought_.resize(std::size_t(size_) * brings_.size());
    hosts_.resize(std::size_t(size_));
    std::copy(brings_.begin(), brings_.end(), brought_.begin() + std::ptrdiff_t(brings_.size() * std::size_t(rank_)));
    if (size_ == 1) return;
    rank_ == 0 ? receive_all() : visit();
  }
  /// [size, bytes each brings]: what the ranks have brought.
  std::vector<std::byte>& brought() { return brought_; }
  /// [size]: where this rank reaches them. What rank 0 sees as its own machine is, for others, where they have reached rank 0.
  std::vector<host_address>& hosts() { return hosts_; }

 private:
  using list = std::vector<host_address>;
  struct guest {
    file_descriptor socket;
    host_address from;
    rendezvous_hello hello{};
    std::size_t read = 0;  // bytes of it, and of what it brings
    std::vector<std::byte> brings{};
    clock::time_point since = clock::now();
  };

  double seconds() const { return std::chrono::duration<double>(clock::now() - begin_).count(); }
  int milliseconds_left(int most) const {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end_ - clock::now()).count();
    return int(std::clamp<std::int64_t>(left, 0, most));
  }
  bool over() const { return clock::now() >= end_; }
  std::string here() const { return sentence("rendezvous at ", at_.text(), ", rank ", rank_, " of ", size_); }

  /// Reads or writes all of it, or says that it could not. Rank 0 keeps the time: who has reached it waits a little longer to hear what it says.
  bool whole(int fd, void* data, std::size_t bytes, bool write) const {
    auto* at = static_cast<std::byte*>(data);
    while (bytes > 0) {
      pollfd p{fd, short(write ? POLLOUT : POLLIN), 0};
      if (::poll(&p, 1, 200) < 0 && errno != EINTR) return false;
      const ssize_t n = write ? ::send(fd, at, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) : ::recv(fd, at, bytes, MSG_DONTWAIT);
      if (n == 0) return false;
      if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) return false;
      if (n > 0) at += n, bytes -= std::size_t(n);
      if (bytes > 0 && clock::now() >= end_ + std::chrono::seconds(10)) return false;
    }
    return true;
  }

  list resolve() const {
    addrinfo hints{}, *found = nullptr;
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    const std::string port = std::to_string(at_.port);
    if (::getaddrinfo(at_.host.c_str(), port.c_str(), &hints, &found) != 0) return {};
    list all;
    for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
      host_address s{{}, a->ai_addrlen};
      std::memcpy(&s.at, a->ai_addr, a->ai_addrlen);
      all.push_back(s);
    }
    ::freeaddrinfo(found);
    return all;
  }

  file_descriptor listen_there() const {
    file_descriptor fd = listen_at(at_.host, at_.port);
    if (fd) return fd;
    require<config_error>(errno != EADDRINUSE, "moefold: ", here(), ": port ", at_.port,
                          " is taken by another program; set MOEFOLD_PORT, or MOEFOLD_RENDEZVOUS=host:port, to a free one");
    require<config_error>(false, "moefold: ", here(), ": cannot listen: ", std::strerror(errno), "; set MOEFOLD_RENDEZVOUS=host:port");
    return fd;
  }

  void receive_all() {
    const file_descriptor door = listen_there();
    std::vector<file_descriptor> came(static_cast<std::size_t>(size_));
    std::vector<guest> guests;  // who has not said its name yet
    int left = size_ - 1, strangers = 0;
    while (left > 0) {
      std::vector<pollfd> watched{{door.get(), POLLIN, 0}};
      for (const guest& g : guests) watched.push_back({g.socket.get(), POLLIN, 0});
      (void)::poll(watched.data(), nfds_t(watched.size()), milliseconds_left(200));
      if (over()) break;
      for (std::size_t i = guests.size(); i-- > 0;) {
        guest& g = guests[i];
        bool gone = clock::now() - g.since > std::chrono::seconds(10);
        if (watched[i + 1].revents != 0) {
          const bool greets = g.read < sizeof g.hello;
          std::byte* const at = greets ? reinterpret_cast<std::byte*>(&g.hello) + g.read : g.brings.data() + (g.read - sizeof g.hello);
          const std::size_t most = (greets ? sizeof g.hello : sizeof g.hello + g.brings.size()) - g.read;
          const ssize_t n = ::recv(g.socket.get(), at, most, MSG_DONTWAIT);
          if (n > 0) g.read += std::size_t(n);
          if (greets && g.read == sizeof g.hello && g.hello.magic == rendezvous_magic && g.hello.brings == brings_.size())
            g.brings.resize(brings_.size());
          gone = gone || n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
        }
        const bool said = g.read == sizeof g.hello + g.brings.size();
        if (said && g.hello.magic == rendezvous_magic) {
          admit(g, came);
          --left;
        } else if (said || gone) {
          ++strangers;
        } else {
          continue;
        }
        guests.erase(guests.begin() + std::ptrdiff_t(i));
      }
      if (watched[0].revents != 0)
        if (host_address from{{}, sizeof from.at};
            file_descriptor s{::accept4(door.get(), reinterpret_cast<sockaddr*>(&from.at), &from.length, SOCK_CLOEXEC)})
          guests.push_back({std::move(s), from});
    }
    if (left > 0) {
      std::string missing;
      int first = -1;
      for (int r = 1; r < size_; ++r)
        if (!came[std::size_t(r)]) {
          missing += sentence(missing.empty() ? "" : ", ", r);
          if (first < 0) first = r;
        }
      std::string text = sentence("rendezvous at ", at_.text(), ": after ", seconds(), " s ", left, " of ", size_,
                                  " ranks have not come (missing: ", missing, ")");
      if (strangers > 0) text += sentence(", and ", strangers, " connections were none of ours");
      text += "; see whether they run, and reach this address";
      answer_all(came, rendezvous_answer::missing, first, text);
      fail<timeout>(first, text);
    }
    std::vector<std::byte> all(bytes_.begin(), bytes_.end());
    if (!brings_.empty()) {
      all.insert(all.end(), brought_.begin(), brought_.end());
      const auto hosts = std::as_bytes(std::span(hosts_));
      all.insert(all.end(), hosts.begin(), hosts.end());
    }
    for (file_descriptor& s : came)
      if (s) answer(s.get(), rendezvous_answer::here, -1, all.data(), all.size());
  }

  void admit(guest& g, std::vector<file_descriptor>& came) {
    const rendezvous_hello& h = g.hello;
    std::string wrong;
    if (h.version != rendezvous_hello{}.version)
      wrong = sentence("rank ", h.rank, " speaks version ", h.version, " of this protocol, rank 0 version ", rendezvous_hello{}.version);
    else if (h.size != std::uint32_t(size_))
      wrong = sentence("rank ", h.rank, " says there are ", h.size, " ranks, rank 0 says ", size_);
    else if (h.rank == 0 || h.rank >= h.size)
      wrong = sentence("another process says it is rank ", h.rank, " of ", h.size);
    else if (came[h.rank])
      wrong = sentence("two processes say they are rank ", h.rank, " of ", h.size);
    else if (h.bytes != bytes_.size())
      wrong = sentence("rank ", h.rank, " expects ", h.bytes, " bytes, rank 0 gives ", bytes_.size());
    else if (h.brings != brings_.size())
      wrong = sentence("rank ", h.rank, " brings ", h.brings, " bytes, rank 0 ", brings_.size());
    if (wrong.empty()) {
      came[h.rank] = std::move(g.socket);
      hosts_[h.rank] = g.from;
      std::copy(g.brings.begin(), g.brings.end(), brought_.begin() + std::ptrdiff_t(brings_.size() * h.rank));
      return;
    }
    const std::string text = sentence("rendezvous at ", at_.text(), ": ", wrong, "; start all ranks of one run with the same settings");
    answer(g.socket.get(), rendezvous_answer::refused, int(h.rank), text.data(), text.size());
    answer_all(came, rendezvous_answer::refused, int(h.rank), text);
    fail<signature_mismatch>(int(h.rank), text);
  }

  void answer_all(std::vector<file_descriptor>& came, std::uint32_t what, int culprit, const std::string& text) const {
    for (file_descriptor& s : came)
      if (s) answer(s.get(), what, culprit, text.data(), text.size());
  }
  void answer(int fd, std::uint32_t what, int culprit, const void* data, std::size_t bytes) const {
    rendezvous_answer a;
    a.what = decltype(a.what)(what), a.length = std::uint32_t(bytes), a.culprit = culprit;
    std::vector<std::byte> all(sizeof a);
    std::memcpy(all.data(), &a, sizeof a);
    const auto* const from = static_cast<const std::byte*>(data);
    all.insert(all.end(), from, from + bytes);
    (void)whole(fd, all.data(), all.size(), true);
  }

  void visit() {
    std::string last = "its host name has no address";
    for (auto pause = std::chrono::milliseconds(10);; pause = std::min(2 * pause, std::chrono::milliseconds(500))) {
      for (const host_address& where : resolve()) {
        const file_descriptor s(::socket(where.at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
        if (!s || !connected(s.get(), where, milliseconds_left(5000))) {
          last = std::strerror(errno);
          continue;
        }
        tell(s.get(), IPPROTO_TCP, TCP_NODELAY);
        rendezvous_hello hello;
        hello.rank = std::uint32_t(rank_), hello.size = std::uint32_t(size_), hello.bytes = std::uint32_t(bytes_.size());
        hello.brings = std::uint32_t(brings_.size());
        rendezvous_answer a;
        if (!whole(s.get(), &hello, sizeof hello, true) || !whole(s.get(), brings_.data(), brings_.size(), true) ||
            !whole(s.get(), &a, sizeof a, false)) {
          last = "whoever listens there hung up";
          continue;
        }
        if (a.magic != rendezvous_magic || a.length > most_answer) {
          last = "another program listens there";
          continue;
        }
        if (take(s.get(), a, where)) return;
        last = "whoever listens there hung up";
      }
      if (over()) break;
      std::this_thread::sleep_for(std::min(pause, std::chrono::milliseconds(milliseconds_left(500))));
    }
    fail<timeout>(
        0, sentence(here(), ": rank 0 could not be reached for ", seconds(), " s (", last, "); see whether rank 0 runs, and this address"));
  }
  bool take(int fd, const rendezvous_answer& a, const host_address& reached) {
    if (a.what == rendezvous_answer::here) {
      const auto hosts = std::as_writable_bytes(std::span(hosts_));
      if (a.length != bytes_.size() + (brings_.empty() ? 0 : brought_.size() + hosts.size())) return false;
      if (!whole(fd, bytes_.data(), bytes_.size(), false)) return false;
      if (brings_.empty()) return true;
      if (!whole(fd, brought_.data(), brought_.size(), false) || !whole(fd, hosts.data(), hosts.size(), false)) return false;
      for (int r = 0; r < size_; ++r) {
        host_address& h = hosts_[std::size_t(r)];
        if (r == 0 || h.loopback()) h = reached;
      }
      return true;
    }
    std::string text(a.length, ' ');
    if (!whole(fd, text.data(), text.size(), false)) return false;
    if (a.what == rendezvous_answer::missing) fail<timeout>(a.culprit, text);
    fail<signature_mismatch>(a.culprit, text);
    return false;
  }

  template <class Error>
  [[noreturn]] void fail(int culprit, const std::string& text) const {
    throw Error(sentence("moefold: ", text), {culprit, "world", operation::split, 0, clock::now() - begin_, text});
  }

  static constexpr std::uint32_t most_answer = 1u << 30;

  int rank_, size_;
  address at_;
  std::span<std::byte> bytes_;
  std::vector<std::byte> brings_, brought_;
  std::vector<host_address> hosts_;
  clock::time_point begin_, end_;
};

}  // namespace detail

/// Rank 0's `bytes` become everybody's. Collective over all `size` processes, once: rank 0 listens at `at`, the others connect. With one rank: nothing.
/// Throws timeout on every rank that came when one did not (names them), signature_mismatch when two claim one rank or count differently,
/// config_error when the port is taken.
inline void share_from_first(int rank, int size, const address& at, std::span<std::byte> bytes, const rendezvous_options& options = {}) {
  detail::rendezvous(rank, size, at, bytes, {}, options).run();
}

/// Everybody's bytes, as many from each, and where each can be reached.
struct rendezvous_table {
  std::vector<std::byte> bytes;             // [size, bytes of one]
  std::vector<detail::host_address> hosts;  // [size]; of no meaning for this rank itself
};
/// The same, but all bring bytes and all leave with those of all. At least 1 byte.
inline rendezvous_table gather_from_all(int rank, int size, const address& at, std::span<const std::byte> mine,
                                        const rendezvous_options& options = {}) {
  detail::rendezvous meeting(rank, size, at, {}, mine, options);
  meeting.run();
  return {std::move(meeting.brought()), std::move(meeting.hosts())};
}

}  // namespace moefold
