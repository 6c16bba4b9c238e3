#pragma once
// Transports of ranks in one process: a socket pair between every two.
#include <moefold/comm/socket.hpp>

#include <memory>
#include <vector>

inline std::vector<std::unique_ptr<moefold::transport>> socket_pairs(int ranks) {
  std::vector<std::vector<moefold::detail::file_descriptor>> ends(static_cast<std::size_t>(ranks));
  for (auto& e : ends) e.resize(std::size_t(ranks));
  for (int a = 0; a < ranks; ++a)
    for (int b = a + 1; b < ranks; ++b) {
      int two[2];
      moefold::require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, two) == 0, "moefold: no socket pair: ", std::strerror(errno));
      ends[std::size_t(a)][std::size_t(b)] = moefold::detail::file_descriptor(two[0]);
      ends[std::size_t(b)][std::size_t(a)] = moefold::detail::file_descriptor(two[1]);
    }
  std::vector<std::unique_ptr<moefold::transport>> all;
  for (int r = 0; r < ranks; ++r) all.push_back(std::make_unique<moefold::socket_transport>(r, std::move(ends[std::size_t(r)])));
  return all;
}
