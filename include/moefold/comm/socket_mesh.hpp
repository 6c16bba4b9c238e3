#pragma once
// A TCP connection between every two processes of a job that share nothing but an address: what comm/socket.hpp travels by. Opened once, after the
// rendezvous (comm/rendezvous.hpp); then every listener is closed again.
//
//   every rank     listens on a free port; brings {token, port} to the rendezvous; leaves with everybody's and with where everybody is
//   rank r         connects to ranks 0 .. r-1, shows rank 0's token and its rank; lets r+1 .. n-1 in; waits until 0 .. r-1 have let it in
// The token is 16 random bytes that rank 0 has drawn for this job: who does not show it is not let in, and disturbs nobody.
#include <moefold/comm/rendezvous.hpp>

#include <array>

#include <sys/random.h>

namespace moefold {

namespace detail {

inline constexpr std::uint64_t mesh_magic = 0x6873656d6d65666du;
using job_token = std::array<std::byte, 16>;
struct mesh_card {  // what a rank brings
  job_token token{};
  std::uint32_t port = 0;
};
struct mesh_greeting {
  std::uint64_t magic = mesh_magic;
  job_token token{};
  std::uint32_t from = 0, to = 0;
};

class socket_mesh {
 public:
  using clock = std::chrono::steady_clock;

  socket_mesh(int rank, int size, const address& at, const rendezvous_options& options)
      : rank_(rank), size_(size), begin_(clock::now()), end_(begin_ + options.deadline), peers_(static_cast<std::size_t>(size)) {
    if (size == 1) return;
    file_descriptor door = listen_at(names_loopback(at.host) ? at.host : "", 0);
    require(bool(door), "moefold: rank ", rank, " cannot listen for the other ranks: ", std::strerror(errno));
    mesh_card mine;
    mine.port = port_of(door.get());
    require(::getentropy(mine.token.data(), mine.token.size()) == 0, "moefold: the system has no random bytes: ", std::strerror(errno));
    const rendezvous_table table = gather_from_all(rank, size, at, std::as_bytes(std::span(&mine, 1)), options);
    const auto card_of = [&](int r) {
      mesh_card card;
      std::memcpy(&card, table.bytes.data() + std::size_t(r) * sizeof card, sizeof card);
      return card;
    };
    token_ = card_of(0).token;
    for (int p = 0; p < rank; ++p) visit(p, table.hosts[std::size_t(p)].with_port(int(card_of(p).port)));
    receive(door.get());
    for (int p = 0; p < rank; ++p) {
      mesh_greeting answer;
      require_peer(whole(peers_[std::size_t(p)].get(), answer, false) && known(answer) && answer.from == std::uint32_t(p), p,
                   "did not answer");
    }
  }
  std::vector<file_descriptor>& peers() { return peers_; }

 private:
  static std::uint32_t port_of(int fd) {
    sockaddr_storage s{};
    socklen_t length = sizeof s;
    (void)::getsockname(fd, reinterpret_cast<sockaddr*>(&s), &length);
    sockaddr_in in{};  // both kinds have the port in the same place
    std::memcpy(&in, &s, sizeof in);
    return ntohs(in.sin_port);
  }
  bool known(const mesh_greeting& g) const {
    return g.magic == mesh_magic && g.token == token_ && g.to == std::uint32_t(rank_) && g.from < std::uint32_t(size_);
  }
  mesh_greeting greeting(int to) const { return {mesh_magic, token_, std::uint32_t(rank_), std::uint32_t(to)}; }
  int milliseconds_left(int most) const {
    return int(std::clamp<std::int64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(end_ - clock::now()).count(), 0, most));
  }
  /// Non-blocking sockets; false when the peer is gone or the time is over.
  bool whole(int fd, mesh_greeting& g, bool write) const {
    auto* at = reinterpret_cast<std::byte*>(&g);
    for (std::size_t left = sizeof g; left > 0;) {
      pollfd p{fd, short(write ? POLLOUT : POLLIN), 0};
      if (::poll(&p, 1, milliseconds_left(1000)) < 0 && errno != EINTR) return false;
      const ssize_t n = write ? ::send(fd, at, left, MSG_NOSIGNAL | MSG_DONTWAIT) : ::recv(fd, at, left, MSG_DONTWAIT);
      if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return false;
      if (n > 0) at += n, left -= std::size_t(n);
      if (left > 0 && clock::now() >= end_) return false;
    }
    return true;
  }

  void visit(int p, const host_address& where) {
    for (auto pause = std::chrono::milliseconds(10);; pause = std::min(2 * pause, std::chrono::milliseconds(500))) {
      file_descriptor s(::socket(where.at.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
      if (s && connected(s.get(), where, milliseconds_left(5000))) {
        mesh_greeting mine = greeting(p);
        require_peer(whole(s.get(), mine, true), p, "hung up");
        peers_[std::size_t(p)] = std::move(s);
        return;
      }
      require_peer(clock::now() < end_, p, std::strerror(errno));
      std::this_thread::sleep_for(std::min(pause, std::chrono::milliseconds(milliseconds_left(500))));
    }
  }

  void receive(int door) {
    struct guest {
      file_descriptor socket;
      mesh_greeting said{};
      std::size_t read = 0;
      clock::time_point since = clock::now();
    };
    std::vector<guest> guests;  // who has not shown a token yet
    for (int left = size_ - 1 - rank_; left > 0;) {
      std::vector<pollfd> watched{{door, POLLIN, 0}};
      for (const guest& g : guests) watched.push_back({g.socket.get(), POLLIN, 0});
      (void)::poll(watched.data(), nfds_t(watched.size()), milliseconds_left(200));
      for (std::size_t i = guests.size(); i-- > 0;) {
        guest& g = guests[i];
        bool gone = clock::now() - g.since > std::chrono::seconds(10);
        if (watched[i + 1].revents != 0) {
          const ssize_t n = ::recv(g.socket.get(), reinterpret_cast<std::byte*>(&g.said) + g.read, sizeof g.said - g.read, MSG_DONTWAIT);
          if (n > 0) g.read += std::size_t(n);
          gone = gone || n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
        }
        if (g.read == sizeof g.said) {
          gone = true;
          const std::size_t from = g.said.from;
          if (known(g.said) && g.said.from > std::uint32_t(rank_) && !peers_[from]) {
            mesh_greeting mine = greeting(int(from));
            if (whole(g.socket.get(), mine, true)) peers_[from] = std::move(g.socket), --left;
          }
        }
        if (gone) guests.erase(guests.begin() + std::ptrdiff_t(i));
      }
      if (watched[0].revents != 0 && guests.size() < most_guests)
        if (file_descriptor s(::accept4(door, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)); s) guests.push_back({std::move(s)});
      if (left > 0 && clock::now() >= end_)
        for (int p = rank_ + 1; p < size_; ++p) require_peer(bool(peers_[std::size_t(p)]), p, "has not come");
    }
  }
  void require_peer(bool good, int p, const char* why) const {
    if (good) return;
    const double seconds = std::chrono::duration<double>(clock::now() - begin_).count();
    const std::string text = sentence("rank ", rank_, " has no connection to rank ", p, " after ", seconds, " s (", why,
                                      "); see whether rank ", p, " still runs, and whether its machine lets the others in");
    throw timeout(sentence("moefold: ", text), {p, "world", operation::split, 0, clock::now() - begin_, text});
  }
  static constexpr std::size_t most_guests = 4096;

  int rank_, size_;
  clock::time_point begin_, end_;
  job_token token_{};
  std::vector<file_descriptor> peers_;  // [size], its own empty
};

}  // namespace detail

/// One connected socket for each other rank, [size], its own empty. Collective over all `size` processes, once. Throws as gather_from_all does, and timeout
/// where a rank that came to the rendezvous cannot be reached, or does not come, before the deadline.
inline std::vector<detail::file_descriptor> connect_all(int rank, int size, const address& at, const rendezvous_options& options = {}) {
  return std::move(detail::socket_mesh(rank, size, at, options).peers());
}

}  // namespace moefold
