#pragma once
// Tests over NCCL: test::on_nccl("the name of the test case", 4, [](nccl_comm& world, cuda_exec e) { ... }). In the emulator ranks are threads, each with a
// device. On GPUs they are processes: the program starts itself, with this one test case, once per rank (MOEFOLD_RANK and so on say which), with a
// GPU each, or all on one GPU with a host id each, which takes them over loopback sockets.
#include <moefold/comm/nccl.cuh>

#include <doctest/doctest.h>

#include <exception>
#include <thread>
#include <vector>

#include <spawn.h>
#include <sys/wait.h>

namespace moefold::test {

#if defined(MOEFOLD_EMULATED)
[[maybe_unused]] inline const int enough_devices = setenv("MOEFOLD_EMULATOR_DEVICES", "8", 0);

/// f(world, e) on ranks; throws what the first rank to fail threw.
template <class F>
void on_nccl(const char*, int ranks, F&& f,
             const nccl_options& options = {std::chrono::seconds(20), std::chrono::seconds(20), std::chrono::milliseconds(5)}) {
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  std::vector<std::exception_ptr> thrown(std::size_t(ranks), nullptr);
  std::vector<std::thread> threads;
  for (int r = 0; r < ranks; ++r)
    threads.emplace_back([&, r] {
      try {
        cuda_context context(r);
        const cuda_exec e(context);
        nccl_comm world(id, r, ranks, options);
        f(world, e);
        world.barrier(e).wait(e);
        e.wait();
      } catch (...) {
        thrown[std::size_t(r)] = std::current_exception();
      }
    });
  for (std::thread& t : threads) t.join();
  for (const std::exception_ptr& e : thrown)
    if (e) std::rethrow_exception(e);
}
inline bool nccl_is_possible() { return !emulator::eager(); }  // eager streams are no streams: a send would wait for its recv
#else
template <class F>
void on_nccl(const char* test_case, int ranks, F&& f,
             const nccl_options& options = {std::chrono::seconds(60), std::chrono::seconds(60), std::chrono::milliseconds(50)}) {
  int devices = 0;
  cuda_check(cudaGetDeviceCount(&devices), "cudaGetDeviceCount");
  if (const char* mine = std::getenv("MOEFOLD_WORLD_SIZE")) {  // a rank
    if (std::atoi(mine) != ranks) return;
    const launch_info me = detect([](const char* name) { return std::getenv(name); });
    cuda_context context(device_of(me.local_rank, devices));
    const cuda_exec e(context);
    nccl_comm world = join_nccl(me, options, {std::chrono::seconds(60)});
    f(world, e);
    world.barrier(e).wait(e);
    e.wait();
    const char ran = 1;
    REQUIRE(::write(std::atoi(std::getenv("MOEFOLD_TEST_PIPE")), &ran, 1) == 1);
    return;
  }
  std::string filter = sentence("--test-case=", test_case);
  std::replace(filter.begin(), filter.end(), ',', '?');  // a comma would begin another name
  int ran[2];
  REQUIRE(::pipe(ran) == 0);
  static int port = 20000 + int(::getpid() % 20000);
  ++port;
  std::vector<pid_t> children;
  for (int r = 0; r < ranks; ++r) {
    std::vector<std::string> set = {sentence("MOEFOLD_RANK=", r), sentence("MOEFOLD_WORLD_SIZE=", ranks),
                                    sentence("MOEFOLD_LOCAL_RANK=", r), sentence("MOEFOLD_RENDEZVOUS=127.0.0.1:", port),
                                    sentence("MOEFOLD_TEST_PIPE=", ran[1])};
    if (devices < ranks) {  // NCCL wants a GPU per rank of a host
      for (const char* also : {"CUDA_VISIBLE_DEVICES=0", "NCCL_NET=Socket", "NCCL_SOCKET_IFNAME=lo", "NCCL_MNNVL_ENABLE=0",
                               "NCCL_NVLS_ENABLE=0", "NCCL_MAX_CTAS=2", "NCCL_BUFFSIZE=1048576"})
        set.push_back(also);
      set.push_back(NCCL_VERSION_CODE >= 23003 ? std::string("NCCL_MULTI_RANK_GPU_ENABLE=1") : sentence("NCCL_HOSTID=moefold-r", r));
    }
    std::vector<char*> env;
    for (std::string& s : set) env.push_back(s.data());  // before the inherited ones: the first of a name counts
    for (char** e = environ; *e != nullptr; ++e) env.push_back(*e);
    env.push_back(nullptr);
    char program[] = "/proc/self/exe";
    char* const arguments[] = {program, const_cast<char*>(filter.c_str()), nullptr};
    pid_t child = -1;
    REQUIRE(::posix_spawn(&child, program, nullptr, nullptr, arguments, env.data()) == 0);
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = -1;
    CHECK(::waitpid(child, &status, 0) == child);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  }
  ::close(ran[1]);
  int came = 0;
  for (char one; ::read(ran[0], &one, 1) == 1;) ++came;
  ::close(ran[0]);
  CHECK(came == ranks);  // else the name found no test case
}
inline bool nccl_is_possible() { return true; }
#endif

}  // namespace moefold::test
