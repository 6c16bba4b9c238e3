#pragma once
// What is to go wrong, and at which calls, as plain data: one line per fault, so a failure can be written down and played again (comm/chaos.hpp plays it).
// The same lines for every kind of communicator.
//
//   rank=3 axis=ep op=all_to_all_v seq=17 phase=inside do=throw
//   ^ what is left out matches everything    ^ before (default) | inside | after
//   axis="cp x dp"                           quotes where there are spaces
//   do=   throw | hang:500ms | slow:2ms      before, inside (peers have arrived, data has not moved) or after the call
//         exit                               before or after: the rank's function ends without a word, as if it had returned
//         kill | segv                        the process ends by SIGKILL or SIGSEGV; where ranks are threads, all of them with it
//         oom | oom:5                        the next allocation of this rank's thread fails, or the fifth from here (core/memory.hpp)
//         bitflip:payload | nan              one bit, or one number, of what is sent (before) or received (after); nan: of floating types
//         count:+1 | count:-1 | dtype        before: the call is made with other counts or another type, on memory of its own
//   chance=0.01 seed=7                       at one in a hundred of the calls that match, always the same ones for the same seed
//   seq counts the collective calls of a communicator from 0 (a window's close aside); sends and recvs have numbers of their own.
#include <moefold/comm/signature.hpp>
#include <moefold/core/rng.hpp>

#include <charconv>
#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace moefold {

struct fault {
  enum class phase_t : std::uint8_t { before, inside, after };
  enum class action_t : std::uint8_t { raise, wait, exit, kill, segv, oom, bitflip, nan, count, dtype };

  std::optional<int> rank;  // world rank
  comm_label axis;          // label of the communicator; empty: any
  std::optional<operation> op;
  std::optional<std::uint64_t> seq;
  double chance = 1;       // that a call which matches is hit
  std::uint64_t seed = 0;  // decides which ones
  phase_t phase = phase_t::before;
  action_t action = action_t::raise;
  std::chrono::milliseconds time{0};  // of wait
  int change = 0;                     // of count, elements
  std::uint64_t nth = 1;              // of oom: which allocation from here

  bool matches(int r, const comm_label& label, operation o, std::uint64_t s) const {
    return (!rank || *rank == r) && (axis.empty() || axis == label) && (!op || *op == o) && (!seq || *seq == s) &&
           (chance >= 1 || drawn(r, label, o, s) < chance);
  }
  bool operator==(const fault&) const = default;

 private:
  double drawn(int r, const comm_label& label, operation o, std::uint64_t s) const {
    std::uint64_t name = 14695981039346656037u;  // FNV-1a
    for (const char c : label.view()) name = (name ^ std::uint64_t(static_cast<unsigned char>(c))) * 1099511628211u;
    return double(rng(seed, name)(std::uint64_t(r) << 8 | std::uint64_t(o), s) >> 11) * 0x1p-53;
  }
};
