#include <moefold/comm/bootstrap.hpp>

#include <doctest/doctest.h>

#include <map>

using namespace moefold;

namespace {

using variables = std::map<std::string, std::string>;

launch_info seen(const variables& env, const launch_flags& flags = {}) {
  return detect(
      [&](const char* name) -> const char* {
        const auto at = env.find(name);
        return at == env.end() ? nullptr : at->second.c_str();
      },
      flags);
}
std::string refused(const variables& env, const launch_flags& flags = {}) {
  try {
    return "accepted: " + describe(seen(env, flags));
  } catch (const config_error& e) {
    return e.what();
  }
}
variables operator+(variables a, const variables& b) {
  for (const auto& [name, value] : b) a[name] = value;
  return a;
}

const variables torchrun = {{"RANK", "5"},       {"WORLD_SIZE", "16"},      {"LOCAL_RANK", "1"},      {"LOCAL_WORLD_SIZE", "4"},
                            {"GROUP_RANK", "1"}, {"GROUP_WORLD_SIZE", "4"}, {"MASTER_ADDR", "node0"}, {"MASTER_PORT", "29500"}};
const variables open_mpi = {
    {"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "4"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "2"}, {"OMPI_COMM_WORLD_LOCAL_SIZE", "4"}};
const variables pmi = {{"PMI_RANK", "1"}, {"PMI_SIZE", "2"}, {"MPI_LOCALRANKID", "1"}, {"MPI_LOCALNRANKS", "2"}};
const variables batch = {{"SLURM_JOB_ID", "123456"}, {"SLURM_NTASKS", "8"}, {"SLURM_PROCID", "0"}, {"SLURM_JOB_NODELIST", "gpu[07-09,12]"}};
const variables srun = batch + variables{{"SLURM_PROCID", "3"},
                                         {"SLURM_STEP_NUM_TASKS", "8"},
                                         {"SLURM_STEP_NUM_NODES", "2"},
                                         {"SLURM_LOCALID", "1"},
                                         {"SLURM_STEP_NODELIST", "gpu[08-09]"}};
const variables ours = {{"MOEFOLD_RANK", "6"}, {"MOEFOLD_WORLD_SIZE", "7"}, {"MOEFOLD_LOCAL_RANK", "2"}, {"MOEFOLD_RENDEZVOUS", "h:99"}};

}  // namespace

TEST_SUITE("comm/bootstrap") {
  TEST_CASE("without a launcher ranks are threads") {
    CHECK(seen({}) == launch_info{});
    CHECK(describe(seen({})) == "no launcher: ranks are threads of this process");
    CHECK(seen({{"RANK", "3"}}) == launch_info{});  // half of torchrun is none
    CHECK(seen({{"WORLD_SIZE", "3"}, {"RANK", ""}}) == launch_info{});
  }
  TEST_CASE("each launcher is recognised by its variables alone") {
    CHECK(seen(torchrun) == launch_info{launcher::torchrun, 5, 16, 1, 4, {"node0", 29501}});
    CHECK(seen(srun) == launch_info{launcher::slurm, 3, 8, 1, 0, {"gpu08", 10000 + 123456 % 50000}});
    CHECK(seen(ours) == launch_info{launcher::variables, 6, 7, 2, 0, {"h", 99}});
    const launch_info mpi = seen(open_mpi);
    CHECK(mpi.by == launcher::open_mpi);
    CHECK((mpi.rank == 2 && mpi.size == 4 && mpi.local_rank == 2 && mpi.local_size == 4));
    CHECK(mpi.meeting.host == "127.0.0.1");
    const launch_info hydra = seen(pmi);
    CHECK(hydra.by == launcher::pmi);
    CHECK((hydra.rank == 1 && hydra.size == 2 && hydra.local_rank == 1 && hydra.local_size == 2));
    CHECK(describe(seen(torchrun)) == "rank 5 of 16 by torchrun, local rank 1 of 4, meeting at node0:29501");
  }
  TEST_CASE("MPI finds the others where mpirun, or srun with PMI, has started them") {
    CHECK(seen(open_mpi).mpi);
    CHECK(seen(pmi).mpi);
    CHECK(seen(srun + variables{{"PMIX_RANK", "3"}}).mpi);
    for (const variables& other : {variables{}, torchrun, srun, ours}) CHECK_FALSE(seen(other).mpi);
    CHECK_FALSE(seen(open_mpi + ours).mpi);  // another rank than MPI's
  }
  TEST_CASE("a batch script's SLURM variables start no ranks") { CHECK(seen(batch) == launch_info{}); }
  TEST_CASE("flags go before MOEFOLD_*, which go before launchers") {
    const launch_flags flags{1, 3, {}, "elsewhere:77"};
    CHECK(seen(torchrun + ours) == seen(ours));
    CHECK(seen(torchrun + ours, flags) == launch_info{launcher::flags, 1, 3, 2, 0, {"elsewhere", 77}});
    CHECK(seen(torchrun, flags) == launch_info{launcher::flags, 1, 3, 0, 0, {"elsewhere", 77}});
    launch_flags local = flags;
    local.local_rank = 9;
    CHECK(seen(ours, local).local_rank == 9);
    CHECK(seen(torchrun, {5, 16, {}, ""}).local_rank == 1);  // the same rank as the launcher's: its local rank is this one's
  }
  TEST_CASE("the order of launchers is torchrun, Open MPI, PMI, srun") {
    const variables same_torch = {{"RANK", "1"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "5"}};
    const variables same_mpi = {{"OMPI_COMM_WORLD_RANK", "1"}, {"OMPI_COMM_WORLD_SIZE", "2"}, {"MASTER_ADDR", "a"}, {"MASTER_PORT", "5"}};
    const variables same_slurm = {{"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}};
    CHECK(seen(same_torch + same_mpi + pmi + same_slurm).by == launcher::torchrun);
    CHECK(seen(same_mpi + pmi + same_slurm).by == launcher::open_mpi);
    CHECK(seen(pmi + same_slurm).by == launcher::pmi);
  }
  TEST_CASE("launchers that count differently are an error that prints both") {
    CHECK(
        refused({{"RANK", "0"}, {"WORLD_SIZE", "8"}, {"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "4"}}) ==
        "moefold: RANK=0, WORLD_SIZE=8 of torchrun contradicts OMPI_COMM_WORLD_RANK=0, OMPI_COMM_WORLD_SIZE=4 of Open MPI; start with one "
        "launcher, or say --rank and --world");
    CHECK(refused(open_mpi + variables{{"WORLD_SIZE", "8"}}) ==
          "moefold: WORLD_SIZE=8 contradicts OMPI_COMM_WORLD_SIZE=4 of Open MPI; unset WORLD_SIZE, or start that many");
    CHECK(seen(open_mpi + variables{{"WORLD_SIZE", "4"}}) == seen(open_mpi));
    CHECK(seen(variables{{"WORLD_SIZE", "4"}}) == launch_info{});
    CHECK(refused(open_mpi + pmi).find("PMI_RANK=1, PMI_SIZE=2 of PMI") != std::string::npos);
    CHECK(refused(open_mpi + srun).find("SLURM_PROCID=3, SLURM_STEP_NUM_TASKS=8 of srun") != std::string::npos);
    CHECK(seen(open_mpi + srun, {0, 1, {}, ""}).size == 1);  // said so: what they count does not matter
  }
  TEST_CASE("one agent per machine under srun or mpirun is no contradiction") {
    const variables agents = {{"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_STEP_NUM_NODES", "4"}};
    CHECK(seen(torchrun + agents) == seen(torchrun));
    CHECK(seen(torchrun + open_mpi) == seen(torchrun));  // GROUP_WORLD_SIZE is Open MPI's 4
  }
  TEST_CASE("half a rank, and a rank outside its world, are errors") {
    CHECK(refused({{"MOEFOLD_RANK", "0"}}) == "moefold: MOEFOLD_RANK is set and MOEFOLD_WORLD_SIZE is not; set both, or neither");
    CHECK(refused({{"MOEFOLD_WORLD_SIZE", "2"}}) == "moefold: MOEFOLD_WORLD_SIZE is set and MOEFOLD_RANK is not; set both, or neither");
    CHECK(refused({}, {3, {}, {}, ""}) == "moefold: --rank is given and --world is not; give both, or neither");
    CHECK(refused({}, {4, 4, {}, "h:1"}) == "moefold: --rank is 4 and --world is 4; ranks go from 0 to below the world size");
    CHECK(refused({}, {-1, 4, {}, "h:1"}).find("ranks go from 0") != std::string::npos);
    CHECK(refused({{"RANK", "2"}, {"WORLD_SIZE", "2"}}) ==
          "moefold: RANK is 2 and WORLD_SIZE is 2; ranks go from 0 to below the world size");
    CHECK(refused({{"RANK", "x"}, {"WORLD_SIZE", "2"}}) == "moefold: RANK is \"x\"; give a whole number from 0 to 16777216");
    CHECK(refused({{"RANK", "0"}, {"WORLD_SIZE", "0"}}) == "moefold: WORLD_SIZE is \"0\"; give a whole number from 1 to 16777216");
    CHECK(refused(open_mpi + variables{{"OMPI_COMM_WORLD_LOCAL_SIZE", "1"}}).find("below the local size") != std::string::npos);
  }
  TEST_CASE("where processes meet: what is said goes before what is concluded") {
    CHECK(seen(torchrun + variables{{"MOEFOLD_PORT", "31"}}).meeting == address{"node0", 31});
    CHECK(seen(torchrun + variables{{"MOEFOLD_RENDEZVOUS", "[fe80::1]:7"}}).meeting == address{"fe80::1", 7});
    CHECK(seen(torchrun + variables{{"NCCL_COMM_ID", "10.0.0.1:8"}}).meeting == address{"10.0.0.1", 8});
    CHECK(seen(srun + variables{{"MOEFOLD_PORT", "31"}}).meeting == address{"gpu08", 31});
    CHECK(seen(srun + variables{{"MASTER_ADDR", "m"}, {"MASTER_PORT", "31"}}).meeting == address{"m", 32});
    CHECK(seen(open_mpi + batch).meeting == address{"gpu07", 10000 + 123456 % 50000});
    CHECK(seen(open_mpi + variables{{"PMIX_NAMESPACE", "a"}}).meeting != seen(open_mpi + variables{{"PMIX_NAMESPACE", "b"}}).meeting);
    const variables two_machines = open_mpi + variables{{"OMPI_COMM_WORLD_LOCAL_SIZE", "3"}};
    CHECK(seen(two_machines).meeting.empty());  // MPI needs none
    CHECK(refused({{"MOEFOLD_RANK", "0"}, {"MOEFOLD_WORLD_SIZE", "2"}}).find("set MOEFOLD_RENDEZVOUS=host:port") != std::string::npos);
    CHECK(refused(torchrun + variables{{"MASTER_PORT", ""}}) ==
          "moefold: MASTER_ADDR is node0 but there is no MASTER_PORT; set it, or MOEFOLD_PORT");
    CHECK(refused(srun + variables{{"SLURM_JOB_ID", "7_3"}}).find("SLURM_JOB_ID is \"7_3\"") != std::string::npos);
    CHECK(seen({{"RANK", "0"}, {"WORLD_SIZE", "1"}}).meeting.empty());  // alone there is nobody to meet
  }
  TEST_CASE("an address has a host and a port") {
    CHECK(parse_address("x", "localhost:1") == address{"localhost", 1});
    CHECK(parse_address("x", "[::1]:65535").text() == "[::1]:65535");
    for (const char* text : {"localhost", "localhost:", ":5", "::1:5", "[::1]", "[::1]5", "[]:5", "h:0", "h:65536", "h:5x", "h:-1", ""}) {
      CAPTURE(text);
      CHECK_THROWS_AS(parse_address("NCCL_COMM_ID", text), config_error);
    }
    CHECK(refused(torchrun + variables{{"NCCL_COMM_ID", "localhost"}}) ==
          "moefold: NCCL_COMM_ID is \"localhost\"; give host:port, such as node0:29500, or [ipv6]:port");
  }
  TEST_CASE("the first host of a node list") {
    const std::pair<const char*, const char*> cases[] = {{"a", "a"},
                                                         {"a,b", "a"},
                                                         {"gpu[07-09,12],cpu1", "gpu07"},
                                                         {"gpu[3,1]", "gpu3"},
                                                         {"r[1-2]n[03-04]", "r1n03"},
                                                         {"n[5]-ib,x", "n5-ib"},
                                                         {"a-b-c[10-12]", "a-b-c10"}};
    for (const auto& [list, first] : cases) CHECK(first_host(list) == first);
    CHECK_THROWS_AS(first_host(""), config_error);
    CHECK_THROWS_AS(first_host("gpu[07"), config_error);
  }
  TEST_CASE("a local rank takes its device, or the only one it may see") {
    CHECK(device_of(3, 8) == 3);
    CHECK(device_of(9, 8) == 1);
    CHECK(device_of(3, 1, "5") == 0);
    CHECK(device_of(3, 4, "5,6,7,8") == 3);
    CHECK_THROWS_WITH_AS(device_of(2, 0),
                         "moefold: no CUDA device is visible to local rank 2; see nvidia-smi and CUDA_VISIBLE_DEVICES, or "
                         "train on the host",
                         config_error);
    CHECK_THROWS_AS(device_of(-1, 2), config_error);
  }
}
