#pragma once
// A port of this machine that nobody listens at, right now.
#include <moefold/comm/rendezvous.hpp>

inline int free_port() {
  const moefold::detail::file_descriptor fd(::socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in in{};
  in.sin_family = AF_INET, in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof in;
  moefold::require(::bind(fd.get(), reinterpret_cast<sockaddr*>(&in), length) == 0 &&
                       ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&in), &length) == 0,
                   "moefold: no free port");
  return ntohs(in.sin_port);
}
