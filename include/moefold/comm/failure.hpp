#pragma once
// How a communicator fails: the first failure becomes the root cause, and every other rank's pending call ends with an error that names it.
// The class says what happened, the record says where; all ranks report the same record.
//
//   error
//   +- comm_error             carries the root_cause
//      +- peer_failed         another rank threw, or ended while others still needed it
//      +- timeout             a rank did not arrive before the deadline; lists who arrived and who is missing
//      +- signature_mismatch  ranks disagree on operation, type, counts, root or reduction; lists both signatures and the ranks of each
//      |                      or wait for each other on different communicators (comm/wait_graph.hpp); says who waits where for whom
//      +- comm_revoked        any call on a communicator whose failure this rank has been told of before
#include <moefold/comm/communicator.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <string>
#include <utility>

namespace moefold {

struct root_cause {
  int rank = -1;                        // world rank of the culprit
  comm_label label;                     // the communicator it failed on, by its axes; empty when outside any call
  operation op = operation::barrier;    // of that communicator's call, or the last one entered
  std::uint64_t seq = 0;                // number of that call on the communicator, from 0
  std::chrono::nanoseconds elapsed{0};  // inside that call until the failure was noticed
  std::string message;

  std::string_view axis() const { return label.view(); }
};

class comm_error : public error {
 public:
  comm_error(const std::string& what, root_cause cause) : error(what), cause_(std::move(cause)) {}
  const root_cause& cause() const { return cause_; }

 private:
  root_cause cause_;
};

class peer_failed : public comm_error {
 public:
  using comm_error::comm_error;
};
class timeout : public comm_error {
 public:
  using comm_error::comm_error;
};
class signature_mismatch : public comm_error {
 public:
  using comm_error::comm_error;
};
class comm_revoked : public comm_error {
 public:
  using comm_error::comm_error;
};

/// Thrown where a rank's function is to end at once as if it had returned (fault injection): no failure of the rank, and no std::exception, so that nobody
/// handles it on the way. run_threads catches it; in a process of its own it ends the process.
struct rank_exit {};

/// MOEFOLD_TIMEOUT_FACTOR: every deadline is multiplied by it.
inline double timeout_factor() {
  const char* text = std::getenv("MOEFOLD_TIMEOUT_FACTOR");
  if (text == nullptr || *text == '\0') return 1;
  char* end = nullptr;
  const double factor = std::strtod(text, &end);
  require<config_error>(*end == '\0' && std::isfinite(factor) && factor > 0, "moefold: MOEFOLD_TIMEOUT_FACTOR is \"", text,
                        "\"; give a number above 0, such as 2");
  return factor;
}
inline std::chrono::nanoseconds scaled(std::chrono::nanoseconds time, double factor) {
  const double longest = 1e17;  // three years: beyond it the clock's arithmetic would overflow
  return std::chrono::nanoseconds(std::int64_t(std::min(double(time.count()) * factor, longest)));
}

}  // namespace moefold
