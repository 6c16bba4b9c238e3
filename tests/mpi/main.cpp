#include "cases.hpp"

#include <moefold/comm/mpi.hpp>

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstring>

// One process of the tests under mpirun:
//   main [doctest's options]      the cases of tests/mpi/cases.cpp
//   main level|finalised|handler  F24: what MPI is found as
//   main die HOW                  F03: the last rank ends as HOW says, in the middle of its work
using namespace moefold;

void moefold::run_over_mpi(const process_function& f, const process_options& options) { run_mpi(f, options); }

namespace {

int told(bool right, const char* what, const std::string& words) {
  std::printf("F24: %s: %s: %s\n", what, right ? "as it should" : "WRONG", words.c_str());
  return right ? 0 : 1;
}
bool has(const std::string& text, std::string_view part) { return text.find(part) != text.npos; }

int level_too_low() {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &level);
  MPI_Query_thread(&level);
  std::string words = "no error";
  try {
    run_mpi([](process_comm&) {});
  } catch (const config_error& e) {
    words = e.what();
  }
  MPI_Finalize();
  if (level >= MPI_THREAD_MULTIPLE) return told(words == "no error", "a library that gives more than it was asked for", words);
  return told(has(words, "MPI_THREAD_FUNNELED") && has(words, "MPI_THREAD_MULTIPLE") && has(words, "MPI_Init_thread"), "thread level",
              words);
}

int finalised_before() {
  MPI_Init(nullptr, nullptr);
  MPI_Finalize();
  try {
    run_mpi([](process_comm&) {});
  } catch (const config_error& e) {
    return told(has(e.what(), "finalised"), "MPI was finalised", e.what());
  }
  return told(false, "MPI was finalised", "no error");
}

int handler_calls = 0;
void on_error(MPI_Comm*, int*, ...) { ++handler_calls; }

/// The program's error handler stays, and is not reached by moefold's errors.
int own_handler() {
  int level = 0;
  MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &level);
  MPI_Errhandler handler;
  MPI_Comm_create_errhandler(on_error, &handler);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, handler);
  std::string words = "no error";
  {
    mpi_transport carrier;
    const int peer = carrier.rank() ^ 1;
    std::byte out[100] = {}, in[10];
    if (peer < carrier.size()) {
      auto sent = carrier.send(peer, 7, out);
      auto received = carrier.receive(peer, 7, in);
      try {
        while (!carrier.test(received)) carrier.idle({});
      } catch (const transport_error& e) {
        words = e.what();
      }
      try {
        while (!carrier.test(sent)) carrier.idle({});
      } catch (const transport_error&) {
      }
    } else {
      words = "alone";
    }
  }
  MPI_Errhandler now;
  MPI_Comm_get_errhandler(MPI_COMM_WORLD, &now);
  const bool same = now == handler, mpich = has(mpi_transport().name(), "MPICH");  // whose MPI_Test tells MPI_COMM_WORLD too
  int failed = told(same && handler_calls <= int(mpich) && words != "no error", "the program's error handler", words);
  // With the default one, which ends the job, a failed run is still an exception.
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_ARE_FATAL);
  words = "no error";
  try {
    run_mpi([](process_comm& world) {
      host_context context;
      if (world.rank() == 0) throw std::runtime_error("on purpose");
      world.barrier(host_exec(context));
      world.barrier(host_exec(context));
    });
  } catch (const std::exception& e) {
    words = e.what();
  }
  failed += told(has(words, "on purpose"), "a failed run with MPI_ERRORS_ARE_FATAL", words);
  MPI_Finalize();
  return failed;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  if (mode == "level") return level_too_low();
  if (mode == "finalised") return finalised_before();
  if (mode == "handler") return own_handler();
  if (mode == "die") {
    try {
      run_mpi([&](process_comm& world) { work_until_death(world, world.size() - 1, argv[2]); },
              {.first_deadline = std::chrono::seconds(5), .deadline = std::chrono::seconds(2), .grace = std::chrono::milliseconds(500)});
    } catch (const std::exception& e) {
      std::fprintf(stderr, "%s\n", e.what());
      return 1;
    }
    return 0;
  }
  if (argc == 1) std::printf("%s\n", mpi_transport().name().c_str());
  return doctest::Context(argc, argv).run();
}
