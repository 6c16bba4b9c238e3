#pragma once
// Ranks as processes that MPI has started, on one machine or many. Of MPI only what starts and ends it, and sending and receiving: collectives, sums and the
// words of failures are the library's own (comm/process.hpp), so a run gives the same bits under every launcher.
//
//   mpirun -np 8 program        run_mpi([](process_comm& world) { ... });
//   MPI is initialised by the first mpi_transport unless the program has done so, and finalised at exit by whoever initialised it. After a failure a process
//   may find peers that never come to MPI_Finalize: it waits 3 s for them, then ends the job with MPI_Abort.
#include <moefold/comm/process.hpp>

#ifndef OMPI_SKIP_MPICXX
#define OMPI_SKIP_MPICXX 1
#endif
#ifndef MPICH_SKIP_MPICXX
#define MPICH_SKIP_MPICXX 1
#endif
#include <mpi.h>

namespace moefold {

/// MPI in this process: initialised when first asked for, finalised when the process exits.
class mpi_session {
 public:
  static mpi_session& get() {
    static mpi_session session;
    return session;
  }
  /// Peers may be gone or stuck: from now on nobody waits for them for long.
  void give_up() { given_up_.store(true); }
  void transports(int change) { transports_.fetch_add(change); }
  mpi_session(const mpi_session&) = delete;
  mpi_session& operator=(const mpi_session&) = delete;

 private:
  mpi_session() {
    int done = 0;
    MPI_Finalized(&done);
    require<config_error>(!done, "moefold: MPI has been finalised in this process and cannot start again; run moefold before MPI_Finalize");
    MPI_Initialized(&done);
    int level = MPI_THREAD_SINGLE;
    if (!done) {
      require<config_error>(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level) == MPI_SUCCESS,
                            "moefold: MPI_Init_thread failed; start the program with mpirun of the MPI it was built with");
      mine_ = true;
      MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    } else {
      MPI_Query_thread(&level);
    }
    if (level >= MPI_THREAD_MULTIPLE) return;
    const char* const levels[] = {"MPI_THREAD_SINGLE", "MPI_THREAD_FUNNELED", "MPI_THREAD_SERIALIZED"};
    int place = 0;
    for (int l : {MPI_THREAD_FUNNELED, MPI_THREAD_SERIALIZED}) place += level >= l;
    if (std::exchange(mine_, false)) MPI_Finalize();
    throw config_error(sentence("moefold: MPI runs at ", levels[place],
                                ", and ranks over MPI need MPI_THREAD_MULTIPLE (each has a thread that listens for failures); call "
                                "MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &provided) before moefold, or leave MPI to moefold"));
  }
  ~mpi_session() {
    int done = 0;
    MPI_Finalized(&done);
    if (!mine_ || done) return;
    if (transports_.load() > 0) {  // exit was called inside a run: its peers are not to wait for this process
      std::fprintf(stderr, "moefold: a rank has called exit inside a run; MPI_Abort ends the others\n");
      MPI_Abort(MPI_COMM_WORLD, 1);
    }
    std::mutex mutex;
    std::condition_variable changed;
    bool finalised = false;
    std::thread patience;
    if (given_up_.load())
      patience = std::thread([&] {
        std::unique_lock lock(mutex);
        if (changed.wait_for(lock, std::chrono::seconds(3), [&] { return finalised; })) return;
        std::fprintf(stderr, "moefold: a rank that failed waits for others that do not end; MPI_Abort ends them\n");
        std::thread([] {  // MPI_Abort, should it hang too, is not waited for
          std::this_thread::sleep_for(std::chrono::seconds(2));
          std::_Exit(1);
        })
            .detach();
        MPI_Abort(MPI_COMM_WORLD, 1);
      });
    MPI_Finalize();
    {
      const std::lock_guard lock(mutex);
      finalised = true;
    }
    changed.notify_all();
    if (patience.joinable()) patience.join();
  }

  bool mine_ = false;
  std::atomic<bool> given_up_{false};
  std::atomic<int> transports_{0};
};

/// The processes of an MPI communicator. Collective over them: it makes a communicator of its own, so that neither its messages nor its errors meet the
/// program's: an error handler that ends the job stays as it is, and moefold's own errors are exceptions. (MPICH 4.0 tells MPI_COMM_WORLD's handler too when
/// MPI_Test finds an error; where that ends the job, it ends.)
class mpi_transport final : public transport {
 public:
  explicit mpi_transport() : mpi_transport(MPI_COMM_WORLD, mpi_session::get()) {}
  explicit mpi_transport(MPI_Comm processes) : mpi_transport(processes, mpi_session::get()) {}
  /// Leaves behind what cannot be ended: peers that have failed are not waited for.
  ~mpi_transport() override {
    session_->transports(-1);
    int finalised = 0;
    MPI_Finalized(&finalised);
    if (finalised) return;
    sweep();
    if (!given_up_ && left_.empty()) MPI_Comm_free(&comm_);
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  std::string name() const override {
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
    int length = 0;
    MPI_Get_library_version(text, &length);
    std::string version(text, std::size_t(length));
    if (version.starts_with("MPICH Version:")) version = "MPICH " + version.substr(version.find_first_not_of(" \t", 14));
    return "MPI (" + version.substr(0, version.find_first_of(",\n")) + ")";
  }
  std::uint32_t most_tag() const override { return most_tag_; }

  request send(int peer, std::uint32_t tag, std::span<const std::byte> data) override {
    MPI_Request r = MPI_REQUEST_NULL;
    check("MPI_Isend to", peer, MPI_Isend(data.data(), int(data.size()), MPI_BYTE, peer, int(tag), comm_, &r));
    return made(r, peer, true);
  }
  request receive(int peer, std::uint32_t tag, std::span<std::byte> room) override {
    MPI_Request r = MPI_REQUEST_NULL;
    check("MPI_Irecv from", peer, MPI_Irecv(room.data(), int(room.size()), MPI_BYTE, peer, int(tag), comm_, &r));
    return made(r, peer, false);
  }
  bool test(request& r, std::size_t* bytes = nullptr) override {
    if (!r.pending()) return true;
    MPI_Request m = request_of(r);
    MPI_Status status;
    int done = 0;
    const int result = MPI_Test(&m, &done, &status);
    if (result == MPI_SUCCESS && !done) return false;
    const request was = std::exchange(r, {});
    check(was.sending ? "MPI_Isend to" : "MPI_Irecv from", was.peer, result);
    if (bytes != nullptr && !was.sending) {
      int count = 0;
      MPI_Get_count(&status, MPI_BYTE, &count);
      *bytes = std::size_t(count);
    }
    return true;
  }
  void abandon(request& r, std::shared_ptr<void> memory) noexcept override {
    if (!r.pending()) return;
    const request was = std::exchange(r, {});
    MPI_Request m = request_of(was);
    if (!was.sending) MPI_Cancel(&m);  // MPI libraries do not cancel sends
    int done = 0;
    MPI_Status status;
    if (MPI_Test(&m, &done, &status) != MPI_SUCCESS || done) return;
    const std::lock_guard lock(mutex_);
    std::erase_if(left_, ended);
    left_.push_back({m, std::move(memory)});
  }

  void idle(std::chrono::nanoseconds at_most) override {
    if (at_most.count() <= 0)
      std::this_thread::yield();
    else
      std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(at_most, std::chrono::milliseconds(5)));
  }
  void abort(int code) noexcept override { MPI_Abort(comm_, code); }
  void give_up() override {
    given_up_ = true;
    session_->give_up();
  }

 private:
  struct left_behind {
    MPI_Request request;
    std::shared_ptr<void> memory;
  };

  static bool ended(left_behind& l) {
    int done = 0;
    MPI_Status status;
    return MPI_Test(&l.request, &done, &status) != MPI_SUCCESS || done;
  }

  mpi_transport(MPI_Comm processes, mpi_session& session) : session_(&session) {
    int finalised = 0;
    MPI_Finalized(&finalised);
    require<config_error>(!finalised, "moefold: MPI has been finalised in this process; run moefold before MPI_Finalize");
    check("MPI_Comm_dup", -1, MPI_Comm_dup(processes, &comm_));
    check("MPI_Comm_set_errhandler", -1, MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN));
    MPI_Comm_rank(comm_, &rank_);
    MPI_Comm_size(comm_, &size_);
    int* most = nullptr;
    int known = 0;
    MPI_Comm_get_attr(comm_, MPI_TAG_UB, &most, &known);
    if (known) most_tag_ = std::uint32_t(*most);
    session_->transports(+1);
  }
  static request made(MPI_Request r, int peer, bool sending) {
    static_assert(sizeof(MPI_Request) <= sizeof(std::uintptr_t));
    request made{0, peer, sending};
    std::memcpy(&made.id, &r, sizeof r);
    return made;
  }
  static MPI_Request request_of(const request& r) {
    MPI_Request m;
    std::memcpy(&m, &r.id, sizeof m);
    return m;
  }
  static void check(const char* what, int peer, int result) {
    if (result == MPI_SUCCESS) return;
    char text[MPI_MAX_ERROR_STRING] = {};
    int length = 0, kind = MPI_ERR_OTHER;
    MPI_Error_string(result, text, &length);
    MPI_Error_class(result, &kind);
    const bool own_fault = kind == MPI_ERR_TRUNCATE || kind == MPI_ERR_TAG || kind == MPI_ERR_COUNT || kind == MPI_ERR_RANK;
    std::string words(text, std::size_t(length));
    words.resize(std::min(words.size(), words.find('\n')));
    throw transport_error(sentence("moefold: ", what, peer < 0 ? "" : sentence(" rank ", peer), " failed: ", words), own_fault ? -1 : peer);
  }
  void sweep() {
    const std::lock_guard lock(mutex_);
    std::erase_if(left_, ended);
    if (left_.empty()) return;
    new std::vector<left_behind>(std::move(left_));  // MPI may touch it until the process ends: it is never freed
    give_up();
    left_.clear();
  }

  mpi_session* session_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::uint32_t most_tag_ = 32767;
  bool given_up_ = false;
  std::mutex mutex_;
  std::vector<left_behind> left_;
};

/// run_process over the processes that mpirun has started.
template <class F>
void run_mpi(F&& f, process_options options = {}) {
  run_process(std::make_shared<mpi_transport>(), std::forward<F>(f), options);
}

}  // namespace moefold
