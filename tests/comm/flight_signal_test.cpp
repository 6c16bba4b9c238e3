#include <moefold/comm/flight_signal.hpp>

#include "../support/run_ranks.hpp"
#include "../support/temporary_folder.hpp"

#include <doctest/doctest.h>

using namespace moefold;
using namespace std::chrono_literals;

namespace {
std::vector<std::string> files_in(const std::filesystem::path& folder) {
  std::vector<std::string> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) found.push_back(entry.path().filename().string());
  return found;
}
bool complete(const temporary_folder& folder, std::size_t count) {
  const auto files = files_in(folder.path);
  return files.size() == count && std::all_of(files.begin(), files.end(), [&](const auto& f) { return folder.text(f).ends_with("end\n"); });
}
// Until it holds, at most ten seconds.
template <class F>
bool soon(F&& holds) {
  for (int i = 0; i < 1000 && !holds(); ++i) std::this_thread::sleep_for(10ms);
  return holds();
}
}  // namespace

TEST_SUITE("comm/flight_signal") {
  TEST_CASE("a signal writes the calls of ranks that are stuck, once per signal") {
    const temporary_folder folder;
    setenv("MOEFOLD_FLIGHT_DIR", folder.path.c_str(), 1);
    {
      const flight_signal on_signal;
      run_ranks<3>([&](thread_comm& world) {
        host_context context;
        const host_exec e(context);
        world.barrier(e);
        if (world.rank() == 0) {  // the others wait for it in a call
          std::raise(SIGUSR1);
          CHECK(soon([&] { return complete(folder, 3); }));
          std::raise(SIGUSR1);
          CHECK(soon([&] { return complete(folder, 6); }));
        }
        std::int64_t x = 1;
        world.all_reduce(e, std::span(&x, 1), std::span(&x, 1), sum{});
      });
      int inside = 0;
      for (const std::string& file : files_in(folder.path)) {
        const std::string text = folder.text(file);
        CHECK(text.find("\nreason SIGUSR1\n") != text.npos);
        inside += text.find(" all_reduce 1 int64 1 sum -1 host inside ") != text.npos;
      }
      CHECK(inside >= 2);  // at least the second time, both had come to it
    }
    unsetenv("MOEFOLD_FLIGHT_DIR");
  }
  TEST_CASE("without a folder to go to, files go to the current one, else to the temporary one") {
    unsetenv("MOEFOLD_FLIGHT_DIR");
    CHECK(flight_signal_folder() == ".");
    const auto here = std::filesystem::current_path();
    std::filesystem::current_path("/proc/self");
    setenv("TMPDIR", "/there", 1);
    CHECK(flight_signal_folder() == (access("/proc/self", W_OK) == 0 ? "." : "/there"));
    unsetenv("TMPDIR");
    std::filesystem::current_path(here);
  }
  TEST_CASE("there is one per process, and its end gives the signal back") {
    static std::atomic<int> seen{0};
    const auto before = std::signal(SIGUSR1, [](int) { ++seen; });
    {
      const flight_signal on_signal;
      CHECK_THROWS_WITH_AS(flight_signal{}, doctest::Contains("has a flight_signal already"), config_error);
    }
    std::raise(SIGUSR1);
    CHECK(seen == 1);
    { const flight_signal again; }
    std::signal(SIGUSR1, before);
  }
}
