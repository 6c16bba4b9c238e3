#pragma once
// Ranks as processes that compute on the host, as torchrun, mpirun or srun started them (comm/bootstrap.hpp): the twin of train/nccl_ranks.cuh. Include by
// name; with MOEFOLD_WITH_MPI (the target moefold::mpi) also over MPI.
//
//   started by                      travels by
//   mpirun, srun --mpi              MPI, where the program was built with it; else sockets
//   torchrun, srun, MOEFOLD_*       sockets: one TCP connection between every two ranks (comm/socket_mesh.hpp)
//   MOEFOLD_TRANSPORT=mpi|sockets   what it says
// Whatever goes wrong on a rank before training, a file that only its machine lacks, becomes an error of all ranks; and one process speaks for all.
#include <moefold/comm/bootstrap.hpp>
#include <moefold/comm/process.hpp>
#include <moefold/comm/socket.hpp>
#include <moefold/train/ranks.hpp>
#if defined(MOEFOLD_WITH_MPI)
#include <moefold/comm/mpi.hpp>
#endif

#include <cstdlib>

namespace moefold {

/// What the processes of a launch travel by. Collective over them, once. Throws config_error where MPI counts others than the launcher, and what the rendezvous
/// throws where a rank does not come.
inline std::shared_ptr<transport> carrier_of(const launch_info& me) {
  const char* const set = std::getenv("MOEFOLD_TRANSPORT");
  const std::string_view said = set ? set : "";
  require<config_error>(said.empty() || said == "mpi" || said == "sockets", "moefold: MOEFOLD_TRANSPORT is \"", said,
                        "\"; give mpi or sockets, or leave it out");
#if defined(MOEFOLD_WITH_MPI)
  if (said == "mpi" || (said.empty() && me.mpi)) {
    auto mpi = std::make_shared<mpi_transport>();
    require<config_error>(mpi->rank() == me.rank && mpi->size() == me.size, "moefold: ", name_of(me.by), " says this is rank ", me.rank,
                          " of ", me.size, ", and ", mpi->name(), " says rank ", mpi->rank(), " of ", mpi->size(),
                          "; start with the mpirun of the MPI this program was built with, or set MOEFOLD_TRANSPORT=sockets");
    return mpi;
  }
#else
  require<config_error>(said != "mpi",
                        "moefold: MOEFOLD_TRANSPORT is mpi, and this program was built without MPI; build it where MPI is "
                        "found, or set MOEFOLD_TRANSPORT=sockets");
#endif
  rendezvous_options meet;
  meet.deadline = scaled(meet.deadline, timeout_factor());
  return std::make_shared<socket_transport>(me.rank, connect_all(me.rank, me.size, me.meeting, meet));
}

class process_ranks {
 public:
  using comm_type = process_comm;
  using exec_type = host_exec;
  static constexpr bool one_process = false;

  process_ranks(const launch_info& me, std::string carrier, process_comm& world) : me_(me), carrier_(std::move(carrier)), world_(&world) {}

  /// As many as were launched; the run's fold says whether that fits.
  extent_t world(extent_t asked, extent_t /*smallest*/) const {
    require<config_error>(asked == 0 || asked == me_.size, "moefold: ", name_of(me_.by), " started ", me_.size,
                          " processes and --ranks asks for ", asked, "; leave out --ranks, or start that many");
    return me_.size;
  }
  std::string text(extent_t world) const {
    return sentence(world, world == 1 ? " rank as a process (" : " ranks as processes (", name_of(me_.by), "), over ", carrier_);
  }
  bool speaks() const { return me_.rank == 0; }
  int device_of(int /*rank*/) const { return 0; }
  /// Once all ranks are ready; where one is not, throws what it has met, on all of them.
  template <class F>
  void run(extent_t /*world*/, F f) const {
    agree(ready, "");
    running_ = true;
    f(*world_);
  }
  /// On one process; the others have nothing to do meanwhile.
  template <class F>
  void alone(F f) const {
    if (speaks()) run_process(std::make_shared<socket_transport>(0, std::vector<detail::file_descriptor>(1)), f);
  }

 private:
  template <class F>
  friend int run_launched(const launch_info& me, F&& f);
  enum state : std::int32_t { ready, wrong, failed };  // wrong: a config_error

  /// Collective, once: every rank's state. The first rank that is not ready says why, and all throw it.
  void agree(state mine, const std::string& text) const {
    agreed_ = true;
    host_context context;
    const host_exec e(context);
    std::vector<std::int32_t> states(static_cast<std::size_t>(me_.size));
    const std::int32_t own = mine;
    world_->all_gather(e, std::span(&own, 1), std::span(states)).wait(e);
    const auto first = std::find_if(states.begin(), states.end(), [](std::int32_t s) { return s != ready; });
    if (first == states.end()) return;
    const int rank = int(first - states.begin());
    std::int32_t length = std::int32_t(text.size());
    world_->broadcast(e, std::span(&length, 1), rank).wait(e);
    std::vector<std::int32_t> letters(static_cast<std::size_t>(length));
    if (rank == me_.rank) std::copy(text.begin(), text.end(), letters.begin());
    world_->broadcast(e, std::span(letters), rank).wait(e);
    std::string said(letters.begin(), letters.end());
    const bool all = std::count(states.begin(), states.end(), std::int32_t(ready)) == 0;
    if (!all) said = sentence("moefold: rank ", rank, ": ", said.starts_with("moefold: ") ? said.substr(9) : said);
    if (*first == wrong) throw config_error(said);
    throw error(said);
  }

  launch_info me_;
  std::string carrier_;
  process_comm* world_;
  mutable bool agreed_ = false, running_ = false;
};

/// The processes of a launch, each with its rank: calls f(process_ranks) and returns what it returns. Collective over them, once. Throws on every rank what the
/// first rank to fail met.
template <class F>
int run_launched(const launch_info& me, F&& f) {
  process_options options;
  options.first_deadline = std::chrono::seconds(300);  // one rank may be training alone, to compare with
  const std::shared_ptr<transport> carrier = carrier_of(me);
  int code = 1;
  std::exception_ptr not_ready;  // on all ranks alike: the world itself is sound
  run_process(
      carrier,
      [&](process_comm& world) {
        const process_ranks ranks(me, carrier->name(), world);
        try {
          try {
            code = f(ranks);
            if (!ranks.agreed_) ranks.agree(process_ranks::ready, "");  // there was nothing to run
          } catch (const comm_error&) {
            throw;
          } catch (const config_error& e) {
            if (ranks.agreed_) throw;
            ranks.agree(process_ranks::wrong, e.what());
          } catch (const std::exception& e) {
            if (ranks.agreed_) throw;
            ranks.agree(process_ranks::failed, e.what());
          }
        } catch (const comm_error&) {
          throw;
        } catch (...) {
          if (ranks.running_) throw;
          not_ready = std::current_exception();
        }
      },
      options);
  if (not_ready) std::rethrow_exception(not_ready);
  return code;
}

/// Whether this process is the one to print what has ended run_launched: rank 0, or rank 1 where rank 0 is what is missing.
inline bool speaks_of(const launch_info& me, const std::exception& failure) {
  const auto* const cause = dynamic_cast<const comm_error*>(&failure);
  const bool first_missing = cause != nullptr && cause->cause().rank == 0 &&
                             (dynamic_cast<const timeout*>(&failure) != nullptr || cause->cause().message.starts_with("rank 0 is lost"));
  return me.rank == (first_missing ? 1 : 0);
}

}  // namespace moefold
