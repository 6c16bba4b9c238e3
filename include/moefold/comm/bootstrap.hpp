#pragma once
// Who this process is among those a launcher started, and where they meet: rank and world size from flags, MOEFOLD_*, torchrun, mpirun, srun, or, where
// nobody launched anything, threads. Pure functions of an environment that is handed in: nothing here opens a file, a socket or a device.
//
//   launch_info me = detect([](const char* name) { return std::getenv(name); });
//
//   asked in this order          rank, world size                                  meeting place (host:port)
//   flags                        --rank --world                                    --rendezvous, else as below
//   MOEFOLD_*                    MOEFOLD_RANK MOEFOLD_WORLD_SIZE                   MOEFOLD_RENDEZVOUS, else as below
//   torchrun                     RANK WORLD_SIZE                                   MASTER_ADDR : MASTER_PORT + 1
//   Open MPI                     OMPI_COMM_WORLD_RANK _SIZE                        MASTER_*, the SLURM job's, one machine: 127.0.0.1
//   MPICH, Intel MPI             PMI_RANK PMI_SIZE                                 the same
//   srun                         SLURM_PROCID SLURM_STEP_NUM_TASKS                 first host of the step : 10000 + job % 50000
//   nobody                       threads of this process                           none
#include <moefold/core/error.hpp>

#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

namespace moefold {

enum class launcher : std::uint8_t { threads, flags, variables, torchrun, open_mpi, pmi, slurm };

constexpr const char* name_of(launcher by) {
  constexpr const char* names[] = {"threads", "flags", "MOEFOLD_*", "torchrun", "Open MPI", "PMI", "srun"};
  return names[std::size_t(by)];
}

/// host:port, [ipv6]:port. An empty host is no address.
struct address {
  std::string host;
  int port = 0;

  bool empty() const { return host.empty(); }
  std::string text() const {
    return empty() ? "none" : host.find(':') == host.npos ? sentence(host, ":", port) : sentence("[", host, "]:", port);
  }
  bool operator==(const address&) const = default;
};

struct launch_info {
  launcher by = launcher::threads;
  int rank = 0, size = 1;              // of processes
  int local_rank = 0, local_size = 0;  // on this machine; local_size 0: not told
  address meeting;                     // where rank 0 listens (comm/rendezvous.hpp); empty with one process, or where only MPI knows
  bool mpi = false;                    // started so that MPI_Init finds the others: by mpirun, or srun --mpi
  bool operator==(const launch_info&) const = default;
};

/// What the command line says; it goes before everything else.
struct launch_flags {
  std::optional<int> rank, world, local_rank;
  std::string rendezvous;
};

namespace detail {

inline int integer(std::string_view name, std::string_view text, int least, int most) {
  int value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  require<config_error>(failure == std::errc{} && end == text.data() + text.size() && value >= least && value <= most, "moefold: ", name,
                        " is \"", text, "\"; give a whole number from ", least, " to ", most);
  return value;
}

inline constexpr int most_ranks = 1 << 24, most_port = 65535;

template <class Getenv>
class environment {
 public:
  explicit environment(Getenv& get) : get_(get) {}
  /// Set and not empty.
  std::optional<std::string_view> text(const char* name) const {
    const char* const value = get_(name);
    if (value == nullptr || *value == '\0') return {};
    return value;
  }
  std::optional<int> number(const char* name, int least = 0, int most = most_ranks) const {
    const auto value = text(name);
    if (!value) return {};
    return integer(name, *value, least, most);
  }
  bool has(const char* name) const { return text(name).has_value(); }

 private:
  Getenv& get_;
};

/// One launcher: the names of its variables.
struct launcher_names {
  launcher by;
  const char *rank, *size, *local_rank, *local_size;
};
inline constexpr std::array<launcher_names, 4> launchers = {{
    {launcher::torchrun, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"},
    {launcher::open_mpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"},
    {launcher::pmi, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"},
    {launcher::slurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""},  // SLURM_NTASKS is set in a batch script too
}};

inline void check_rank(std::string_view rank_name, int rank, std::string_view size_name, int size) {
  require<config_error>(rank < size, "moefold: ", rank_name, " is ", rank, " and ", size_name, " is ", size,
                        "; ranks go from 0 to below the world size");
}

}  // namespace detail

/// "node3:29500", "[fe80::1]:29500", "10.0.0.1:29500". A port is asked for: NCCL would take an address without one, and listen nowhere.
inline address parse_address(std::string_view name, std::string_view text) {
  std::size_t colon = text.rfind(':');
  const bool bracketed = text.starts_with('[');
  const bool bare_ipv6 = !bracketed && colon != text.npos && text.find(':') != colon;
  const std::size_t close = bracketed ? text.find(']') : text.npos;
  if (bracketed && (close == text.npos || colon != close + 1)) colon = text.npos;
  require<config_error>(colon != text.npos && colon > 0 && colon + 1 < text.size() && !bare_ipv6, "moefold: ", name, " is \"", text,
                        "\"; give host:port, such as node0:29500, or [ipv6]:port");
  const std::string_view host = bracketed ? text.substr(1, close - 1) : text.substr(0, colon);
  require<config_error>(!host.empty(), "moefold: ", name, " is \"", text, "\", without a host; give host:port, such as node0:29500");
  return {std::string(host), detail::integer(sentence("the port of ", name), text.substr(colon + 1), 1, detail::most_port)};
}

/// The first host of a SLURM node list: "gpu[07-09,12],cpu1" is gpu07.
inline std::string first_host(std::string_view list) {
  std::string host;
  bool inside = false, taken = false;  // of brackets; their first number is complete
  for (const char c : list) {
    if (c == '[') {
      inside = true, taken = false;
    } else if (c == ']') {
      inside = false;
    } else if (inside) {
      taken = taken || c == ',' || c == '-';
      if (!taken) host += c;
    } else if (c == ',') {
      break;
    } else {
      host += c;
    }
  }
  require<config_error>(!inside && !host.empty(), "moefold: the SLURM node list \"", list,
                        "\" names no host; set MOEFOLD_RENDEZVOUS=host:port");
  return host;
}

/// The port of a SLURM job: the same on all its machines, another for every job at a time.
constexpr int job_port(std::uint64_t job) { return int(10000 + job % 50000); }

/// Which device a process takes. visible: CUDA_VISIBLE_DEVICES; where it shows one device (srun --gpus-per-task=1), that one.
inline int device_of(int local_rank, int device_count, std::string_view visible = {}) {
  require<config_error>(device_count > 0, "moefold: no CUDA device is visible to local rank ", local_rank,
                        "; see nvidia-smi and CUDA_VISIBLE_DEVICES, or train on the host");
  require<config_error>(local_rank >= 0, "moefold: local rank ", local_rank, "; local ranks go from 0");
  const bool one = !visible.empty() && visible.find(',') == visible.npos;
  return one ? 0 : local_rank % device_count;
}

namespace detail {

/// Where the processes meet when nobody has said so.
template <class Getenv>
address meeting_place(const environment<Getenv>& env, const launch_info& me) {
  const std::optional<int> own_port = env.number("MOEFOLD_PORT", 1, most_port);
  if (const auto host = env.text("MASTER_ADDR")) {
    const auto port = env.number("MASTER_PORT", 1, most_port - 1);
    require<config_error>(own_port || port, "moefold: MASTER_ADDR is ", *host, " but there is no MASTER_PORT; set it, or MOEFOLD_PORT");
    return {std::string(*host), own_port ? *own_port : *port + 1};  // torchrun itself listens at MASTER_PORT
  }
  std::optional<std::string_view> hosts;
  for (const char* name : {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"})
    if (!hosts) hosts = env.text(name);
  if (hosts) {
    if (own_port) return {first_host(*hosts), *own_port};
    if (const auto job = env.text("SLURM_JOB_ID")) {
      std::uint64_t id = 0;
      const auto [end, failure] = std::from_chars(job->data(), job->data() + job->size(), id);
      require<config_error>(failure == std::errc{} && end == job->data() + job->size(), "moefold: SLURM_JOB_ID is \"", *job,
                            "\", no number; set MOEFOLD_PORT");
      return {first_host(*hosts), job_port(id)};
    }
  }
  if (me.local_size == me.size) {  // all on this machine
    if (own_port) return {"127.0.0.1", *own_port};
    std::uint64_t hash = 14695981039346656037u;  // FNV-1a of what names the job, so that two jobs on one machine do not meet
    for (const char* name : {"PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMI_JOBID", "HYDRA_JOBID"})
      if (const auto job = env.text(name))
        for (const char c : *job) hash = (hash ^ std::uint8_t(c)) * 1099511628211u;
    return {"127.0.0.1", job_port(hash)};
  }
  if (me.mpi) return {};  // MPI needs none, and who needs one says so
  require<config_error>(
      false, "moefold: ", me.size, " processes by ", name_of(me.by),
      ", and nothing says where they meet; set MOEFOLD_RENDEZVOUS=host:port, with a host name of rank 0 and a free port there");
  return {};
}

}  // namespace detail

/// Reads the launch out of `get` (const char* -> const char*, null: not set) and the flags. Throws config_error on what contradicts itself: a rank
/// without a world size, a rank outside it, two launchers that count differently (unless the outer one started one agent per machine, as srun
/// does for torchrun), an address without a port.
template <class Getenv>
launch_info detect(Getenv&& get, const launch_flags& flags = {}) {
  const detail::environment<std::remove_reference_t<Getenv>> env(get);

  // The launchers, in order; each that is there must agree with the one that was taken, unless flags or MOEFOLD_* decide.
  const bool said = flags.rank || env.has("MOEFOLD_RANK");
  std::optional<launch_info> launched;
  const detail::launcher_names* taken = nullptr;
  for (const detail::launcher_names& l : detail::launchers) {
    const auto rank = env.number(l.rank), size = env.number(l.size, 1);
    if (!rank || !size) continue;
    detail::check_rank(l.rank, *rank, l.size, *size);
    if (!launched) {
      launched = launch_info{l.by, *rank, *size, 0, 0, {}, false};
      launched->mpi = l.by == launcher::open_mpi || l.by == launcher::pmi ||
                      (l.by == launcher::slurm && (env.has("PMIX_RANK") || env.has("PMI_RANK") || env.has("PMI_FD")));
      const auto local = env.number(l.local_rank);
      const auto local_size = *l.local_size ? env.number(l.local_size, 1) : std::nullopt;
      launched->local_size = local_size.value_or(0);
      launched->local_rank = local.value_or(0);
      if (*size == 1) launched->local_size = 1;
      require<config_error>(launched->local_size == 0 || launched->local_rank < launched->local_size, "moefold: ", l.local_rank, " is ",
                            launched->local_rank, " and ", l.local_size, " is ", launched->local_size,
                            "; local ranks go from 0 to below the local size");
      taken = &l;
    } else {
      const auto agents = launched->by == launcher::torchrun ? env.number("GROUP_WORLD_SIZE", 1) : std::nullopt;
      const auto nodes = l.by == launcher::slurm ? env.number("SLURM_STEP_NUM_NODES", 1) : std::nullopt;
      const bool outer = (agents && *agents == *size) || (nodes && *nodes == *size);
      require<config_error>(said || outer || (*rank == launched->rank && *size == launched->size), "moefold: ", taken->rank, "=",
                            launched->rank, ", ", taken->size, "=", launched->size, " of ", name_of(taken->by), " contradicts ", l.rank,
                            "=", *rank, ", ", l.size, "=", *size, " of ", name_of(l.by),
                            "; start with one launcher, or say --rank and --world");
    }
  }

  // torchrun's count alone makes no rank, but is no other launcher's count either.
  if (const auto count = env.number("WORLD_SIZE", 1); count && launched && !said && !env.has("RANK"))
    require<config_error>(*count == launched->size, "moefold: WORLD_SIZE=", *count, " contradicts ", taken->size, "=", launched->size,
                          " of ", name_of(taken->by), "; unset WORLD_SIZE, or start that many");

  const auto own_rank = env.number("MOEFOLD_RANK"), own_size = env.number("MOEFOLD_WORLD_SIZE", 1);
  require<config_error>(
      own_rank.has_value() == own_size.has_value(),
      "moefold: ", own_rank ? "MOEFOLD_RANK is set and MOEFOLD_WORLD_SIZE is not" : "MOEFOLD_WORLD_SIZE is set and MOEFOLD_RANK is not",
      "; set both, or neither");
  require<config_error>(flags.rank.has_value() == flags.world.has_value(),
                        "moefold: ", flags.rank ? "--rank is given and --world is not" : "--world is given and --rank is not",
                        "; give both, or neither");
  launch_info me = launched.value_or(launch_info{});
  const auto overrule = [&](launcher by, const char* rank_name, int rank, const char* size_name, int size) {
    require<config_error>(size >= 1 && rank >= 0, "moefold: ", rank_name, " is ", rank, " and ", size_name, " is ", size,
                          "; ranks go from 0, and a world has at least 1");
    detail::check_rank(rank_name, rank, size_name, size);
    const bool same = launched && launched->rank == rank && launched->size == size;
    me = {by, rank, size, same ? launched->local_rank : 0, same ? launched->local_size : size == 1 ? 1 : 0, {}, same && launched->mpi};
  };
  if (own_rank) overrule(launcher::variables, "MOEFOLD_RANK", *own_rank, "MOEFOLD_WORLD_SIZE", *own_size);
  if (flags.rank) overrule(launcher::flags, "--rank", *flags.rank, "--world", *flags.world);
  if (const auto local = env.number("MOEFOLD_LOCAL_RANK")) me.local_rank = *local;
  if (flags.local_rank) {
    require<config_error>(*flags.local_rank >= 0, "moefold: --local-rank is ", *flags.local_rank, "; local ranks go from 0");
    me.local_rank = *flags.local_rank;
  }

  if (me.size == 1) return me;
  if (!flags.rendezvous.empty())
    me.meeting = parse_address("--rendezvous", flags.rendezvous);
  else if (const auto text = env.text("MOEFOLD_RENDEZVOUS"))
    me.meeting = parse_address("MOEFOLD_RENDEZVOUS", *text);
  else if (const auto id = env.text("NCCL_COMM_ID"))
    me.meeting = parse_address("NCCL_COMM_ID", *id);  // NCCL itself will listen there: comm/nccl.cuh then exchanges nothing
  else
    me.meeting = detail::meeting_place(env, me);
  return me;
}

/// "rank 3 of 8 by torchrun, local rank 3 of 4, meeting at node0:29501"
inline std::string describe(const launch_info& me) {
  std::string text = sentence("rank ", me.rank, " of ", me.size, " by ", name_of(me.by));
  if (me.by == launcher::threads) return "no launcher: ranks are threads of this process";
  text += sentence(", local rank ", me.local_rank);
  if (me.local_size > 0) text += sentence(" of ", me.local_size);
  if (!me.meeting.empty()) text += sentence(", meeting at ", me.meeting.text());
  return text;
}

}  // namespace moefold
