// F19 and F20 of the fault matrix: a part of them every day, all where MOEFOLD_SOAK is set (train_resume_soak).
#include <moefold/train/model_files.hpp>

#include <doctest/doctest.h>
#include "../support/counting_storage.hpp"
#include "../support/resumed_runs.hpp"

#include <algorithm>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <thread>

#include <sys/wait.h>
#include <unistd.h>

using namespace moefold;
using namespace moefold::testing;

namespace {

bool soak() { return std::getenv("MOEFOLD_SOAK") != nullptr; }

struct cut_run {
  temporary_folder folder;
  resumed_run saved, on;  // until the cut; and further, in the same mapping
};

}  // namespace

TEST_SUITE("train/model_files") {
  TEST_CASE("a run that was saved goes on in another mapping: weights, moments, routers and cursor bit for bit, then the same losses") {
    const auto mappings = resumed_mappings();
    REQUIRE(mappings.size() >= 24);
    std::vector<std::pair<std::size_t, std::size_t>> pairs{{0, 18}, {18, 0}, {16, 12}, {12, 16}, {15, 19}, {23, 5}};
    if (soak()) {
      pairs.clear();
      for (std::size_t a = 0; a < mappings.size(); ++a)
        for (std::size_t b = 0; b < mappings.size(); ++b)
          if (a != b) pairs.emplace_back(a, b);
      CHECK(pairs.size() >= 552);
    }
    const int further = soak() ? 10 : 3;
    std::map<std::size_t, cut_run> cuts;
    double worst = 0;
    for (const auto& [a, b] : pairs) {
      const auto& from = mappings[a];
      const auto& to = mappings[b];
      CAPTURE(from.name);
      CAPTURE(to.name);
      if (!cuts.contains(a)) {
        cut_run& cut = cuts[a];
        cut.saved = run_part<fp64>(from.fold, {.steps = 3, .to = cut.folder / "saves"});
        cut.on = run_part<fp64>(from.fold, {.steps = further, .from = cut.folder / "saves"});
      }
      const cut_run& cut = cuts[a];
      const resumed_run same = run_part<fp64>(to.fold, {.from = cut.folder / "saves"});
      CHECK((same.state == cut.saved.state));
      CHECK(same.position == cut.saved.position);
      const resumed_run other = run_part<fp64>(to.fold, {.steps = further, .from = cut.folder / "saves"});
      const double difference = apart(other.losses, cut.on.losses);
      CHECK(difference < 1e-12);
      worst = std::max(worst, difference);
    }
    std::printf("F19: %zu ordered pairs of %zu mappings, state bit-identical, %d further losses differ by %.1e at most\n", pairs.size(),
                mappings.size(), further, worst);
  }

  TEST_CASE(
      "cut after any step and resumed, with saves beside the steps or not, a run's losses and state are those of the uncut run, bit for "
      "bit") {
    const folding_extents fold = resumed_mappings()[18].fold;
    const resumed_run whole = run_part<mixed_bf16>(fold, {.steps = 8});
    for (const bool beside : {true, false})
      for (const int cut : {1, 4, 7}) {
        CAPTURE(beside);
        CAPTURE(cut);
        const temporary_folder folder;
        const resumed_run first = run_part<mixed_bf16>(fold, {.steps = cut, .to = folder / "saves", .every = 2, .beside = beside});
        const resumed_run rest =
            run_part<mixed_bf16>(fold, {.steps = 8 - cut, .from = folder / "saves", .to = folder / "saves", .beside = beside});
        std::vector<double> losses = first.losses;
        losses.insert(losses.end(), rest.losses.begin(), rest.losses.end());
        CHECK(losses == whole.losses);
        CHECK((rest.state == whole.state));
      }
  }

  TEST_CASE("killed at any moment, a run that resumes repeats the losses of the undisturbed one, bit for bit") {
    const auto mapping = resumed_mappings()[12];  // tp 2, pp 2, interleaved
    constexpr int steps = 12;
    const resumed_run whole = run_part<fp64>(mapping.fold, {.steps = steps});
    const auto begin = std::chrono::steady_clock::now();
    const temporary_folder timed;
    run_part<fp64>(mapping.fold, {.steps = steps, .to = timed / "saves", .every = 2});
    const auto lasts = std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::steady_clock::now() - begin).count();
    const int kills = soak() ? 100 : 6;
    int resumed = 0, finished = 0;
    for (int i = 0; i < kills; ++i) {
      CAPTURE(i);
      const temporary_folder folder;
      const pid_t child = fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        run_part<fp64>(mapping.fold, {.steps = steps, .to = folder / "saves", .every = 2, .beside = i % 2 == 0});
        _exit(0);
      }
      const double when = random_stream(17, "kill").uniform(std::uint64_t(i)) * 1.1;
      std::this_thread::sleep_for(std::chrono::microseconds(std::int64_t(when * double(lasts))));
      kill(child, SIGKILL);
      int status = 0;
      waitpid(child, &status, 0);
      finished += WIFEXITED(status);
      std::string from;
      std::size_t done = 0;
      try {
        done = std::size_t(model_files().find_save(folder / "saves").position.step);
        from = folder / "saves";
        ++resumed;
      } catch (const config_error& none) {  // it had not saved yet
        CHECK(dynamic_cast<const file_error*>(&none) == nullptr);
      }
      const resumed_run rest = run_part<fp64>(mapping.fold, {.steps = steps - int(done), .from = from});
      CHECK(rest.position.step == steps);
      if (done < steps) CHECK(rest.losses == std::vector<double>(whole.losses.begin() + std::ptrdiff_t(done), whole.losses.end()));
      CHECK((rest.state == whole.state));
    }
    std::printf("F20: %d kills, %d resumed from a save, %d came after the end: losses and state as undisturbed\n", kills, resumed,
                finished);
  }

  TEST_CASE("a run resumed with another global batch goes on with the sample behind the last one it has seen") {
    const temporary_folder folder;
    run_part<fp64>({}, {.steps = 3, .to = folder / "saves"});
    const resumed_run on = run_part<fp64>({}, {.steps = 2, .from = folder / "saves", .to = folder / "more", .global_batch = 4});
    CHECK(on.position == run_position{5, 5, 3 * 8 + 2 * 4});
    CHECK(model_files().find_save(folder / "more").position == on.position);
  }

  TEST_CASE("while a slow disk takes a save the steps go on: none of them waits for a write") {
    const temporary_folder folder;
    counting_storage slow(disk());
    slow.write_takes = std::chrono::milliseconds(5);
    using clock = std::chrono::steady_clock;
    std::vector<double> seconds;
    clock::time_point last = clock::now();
    const folding_extents fold = resumed_mappings()[3].fold;  // dp 2
    const resumed_plan plan{.steps = 12, .to = folder / "saves", .every = 6, .on = &slow, .after_step = [&] {
                              const clock::time_point now = clock::now();
                              seconds.push_back(std::chrono::duration<double>(now - std::exchange(last, now)).count());
                            }};
    run_part<fp64>(fold, plan);
    const double save = 5e-3 * double(slow.writes) / 2 / 2;  // of one of the two saves, by one of the two ranks
    std::sort(seconds.begin(), seconds.begin() + 11);        // all but the step behind which the second save waits for the first
    std::printf("a save takes %.2f s, the longest step beside it %.3f s\n", save, seconds[10]);
    CHECK(save > 0.3);
    CHECK(seconds[10] < save / 3);
    CHECK(model_files().find_save(folder / "saves").position.step == 12);
  }

  TEST_CASE("a save of another program is refused by the note it lacks, and no save at all by its folder") {
    const temporary_folder folder;
    CHECK_THROWS_AS(model_files().find_save(folder / "nothing"), config_error);
    run_threads(1, [&](thread_comm& world) {
      host_context context;
      checkpoint_writer writer(disk(), folder / "other");
      checkpoint_content content;
      content.step = 3;
      writer.save(host_exec(context), world, content);
    });
    CHECK_THROWS_WITH_AS(model_files().find_save(folder / "other"), doctest::Contains("'updates' is missing"), format_error);
  }
}
