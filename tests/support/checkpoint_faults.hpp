#pragma once
// What may happen to a checkpoint, in whatever numbers a test asks for: files cut short, bits flipped, shards swapped, calls that fail, power failures after each call,
// processes killed. Each function returns how many cases it tried, and CHECKs every one.
#include <moefold/checkpoint/posix_storage.hpp>
#include "checkpoint_state.hpp"
#include "faulty_storage.hpp"
#include "memory_storage.hpp"

#include <doctest/doctest.h>

#include <filesystem>
#include <random>

#include <sys/wait.h>
#include <unistd.h>

namespace moefold::test {

/// Loads into one rank, again and again.
class one_rank_loader {
 public:
  explicit one_rank_loader(const model_shape& model = small_checkpoint_model())
      : state_(testing::owned_pieces({}, model), 0, 0), content_(state_.content()) {}

  /// The step that was loaded and compared, element by element. Throws what load throws.
  std::int64_t operator()(storage& from, const std::string& path = "c") {
    state_.spoil();
    const loaded_checkpoint loaded = load_checkpoint(host_exec(context_), self_, from, path, content_.tensors);
    require(state_.wrong(loaded.step) == 0, "wrong elements of step ", loaded.step);
    require(values_of<std::int64_t>(loaded.array("data/cursor"))[0] == loaded.step, "the wrong cursor");
    return loaded.step;
  }
  /// Why it is refused: "checksum", "incomplete", "format", "config"; else the step, as a text.
  std::string judge(storage& from, const std::string& path = "c") {
    try {
      return std::to_string((*this)(from, path));
    } catch (const checksum_mismatch&) {
      return "checksum";
    } catch (const incomplete_checkpoint&) {
      return "incomplete";
    } catch (const format_error&) {
      return "format";
    } catch (const config_error&) {
      return "config";
    }
  }

 private:
  host_context context_;
  self_comm self_;
  checkpoint_state state_;
  checkpoint_content content_;
};

inline folding_extents fold_of(int ranks) {
  using enum axis_id;
  if (ranks == 1) return {};
  if (ranks == 2) return make_folding({{tp, 2}}, {{ep, 2}});
  return make_folding({{tp, 2}, {dp, 2}}, {{ep, 2}, {edp, 2}});
}

/// A disk with the saves of steps 1 .. `last` by `ranks` ranks in folder "c".
inline memory_storage::state saved_by(int ranks, std::int64_t last) {
  memory_storage disk;
  for (std::int64_t step = 1; step <= last; ++step) save_step(disk, "c", fold_of(ranks), small_checkpoint_model(), step);
  return disk.now();
}

inline std::vector<std::string> files_of(memory_storage& disk, const std::string& save) {
  std::vector<std::string> files;
  for (const std::string& name : disk.list(save)) files.push_back(path_in(save, name));
  return files;
}

/// Every file of a save, and `latest`, cut at every `stride`th length.
inline int cut_files(int ranks, std::size_t stride) {
  const memory_storage::state good = saved_by(ranks, 1);
  memory_storage look(good);
  std::vector<std::string> files = files_of(look, "c/step-00000001");
  files.push_back("c/latest");
  one_rank_loader load;
  int tried = 0, taken = 0;
  for (const std::string& file : files) {
    const std::size_t size = look.bytes(file).size();
    for (std::size_t length = std::size_t(tried) % stride; length < size; length += stride) {
      if (file == "c/latest" && length + 1 == size) continue;  // its line end may be missing
      memory_storage disk(good);
      disk.bytes(file).resize(length);
      ++tried;
      const std::string verdict = load.judge(disk);
      if (verdict != "checksum" && verdict != "incomplete" && verdict != "format") {
        ++taken;
        MESSAGE(file, " cut at ", length, ": ", verdict);
      }
    }
  }
  CHECK(taken == 0);
  return tried;
}

/// One bit of every `stride`th byte of every file of a save; every bit in turn.
inline int flip_bits(int ranks, std::size_t stride) {
  const memory_storage::state good = saved_by(ranks, 1);
  memory_storage disk(good);
  one_rank_loader load;
  int tried = 0, taken = 0;
  for (const std::string& file : files_of(disk, "c/step-00000001")) {
    auto& bytes = disk.bytes(file);
    for (std::size_t at = std::size_t(tried) % stride; at < bytes.size(); at += stride) {
      const std::byte bit = std::byte(1 << (tried++ % 8));
      bytes[at] ^= bit;
      const std::string verdict = load.judge(disk);
      bytes[at] ^= bit;
      if (verdict != "checksum") {
        ++taken;
        MESSAGE(file, " byte ", at, ": ", verdict);
      }
    }
  }
  CHECK(taken == 0);
  CHECK(load(disk) == 1);
  return tried;
}

/// `count` random bits of what lies behind the headers of the ranks' files.
inline int flip_payload(int ranks, int count, std::uint64_t seed) {
  memory_storage disk(saved_by(ranks, 1));
  one_rank_loader load;
  std::mt19937_64 random(seed);
  int taken = 0;
  for (int i = 0; i < count; ++i) {
    auto& bytes = disk.bytes("c/step-00000001/" + rank_file_name(random() % std::size_t(ranks)));
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof header);
    std::byte& byte = bytes[8 + header + random() % (bytes.size() - 8 - header)];
    const std::byte bit = std::byte(1 << random() % 8);
    byte ^= bit;
    taken += load.judge(disk) != "checksum";
    byte ^= bit;
  }
  CHECK(taken == 0);
  return count;
}

/// The n-th call of a save fails, for every `stride`th n: every rank throws, or the save is complete and only an older one stays, which is said; what is there
/// loads, and the next save goes well.
inline int fail_calls(int ranks, int stride, bool apart, fault_plan kind) {
  const folding_extents fold = fold_of(ranks);
  const model_shape model = small_checkpoint_model();
  const memory_storage::state before = saved_by(ranks, 2);
  int calls = 0, tried = 0, committed = 0;
  {
    memory_storage disk(before);
    faulty_storage counting(disk);
    save_step(counting, "c", fold, model, 3, 1, apart);
    calls = counting.calls();
  }
  one_rank_loader load;
  for (int at = stride - 1; at < calls; at += stride, ++tried) {
    CAPTURE(at);
    memory_storage disk(before);
    kind.at = at;
    faulty_storage bad(disk, kind);
    std::atomic<int> threw{0}, same{0};
    std::string words, warning;
    std::mutex guard;
    on_ranks(fold, model, 3, [&](host_exec e, thread_comm& comm, checkpoint_state& state) {
      checkpoint_writer writer(bad, "c", 1);
      try {
        if (apart) {
          writer.begin(e, comm, state.content());
          writer.finish(e, comm);
        } else {
          writer.save(e, comm, state.content());
        }
        if (comm.rank() == 0) warning = writer.warning();
      } catch (const storage_error& failed) {
        ++threw;
        const std::scoped_lock lock(guard);
        if (words.empty()) words = failed.what();
        same += words == failed.what() && failed.code() == kind.code;
      }
    });
    const std::int64_t now = load(disk);
    CHECK((threw == ranks || (threw == 0 && now == 3)));
    CHECK((threw > 0) == warning.empty());
    CHECK(same == threw);
    committed += now == 3;
    CHECK((now == 2 || now == 3));
    save_step(disk, "c", fold, model, 4, 1);
    CHECK(load(disk) == 4);
    CHECK(disk.list("c") == std::vector<std::string>{"latest", "step-00000004"});
  }
  if (stride == 1) CHECK((committed > 0 && committed < tried));
  return tried;
}

/// After each call of a save upon two others, everything that a power failure may leave: `picks` of it where there are more. It loads the save before or the new
/// one, and once finish has returned, the new one.
inline int crash_states(int ranks, bool first, int picks, std::uint64_t seed) {
  const folding_extents fold = fold_of(ranks);
  const model_shape model = small_checkpoint_model();
  memory_storage disk(first ? memory_storage().now() : saved_by(ranks, 2));
  std::vector<memory_storage::state> seen;
  disk.after = [&](const std::string& call) {
    const bool changes = call.starts_with("create") || call.starts_with("write") || call.starts_with("sync") || call.starts_with("re") ||
                         call.starts_with("make");
    if (changes) seen.push_back(disk.now());
  };
  save_step(disk, "c", fold, model, 3, 1);
  disk.after = nullptr;
  seen.push_back(disk.now());
  const std::size_t finished = seen.size() - 1;
  one_rank_loader load;
  std::mt19937_64 random(seed);
  int tried = 0, old_ones = 0, new_ones = 0;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    const int choices = memory_storage::choices(seen[i]);
    const auto judge = [&](auto&& pick) {
      memory_storage left(memory_storage::after_power_failure(seen[i], pick));
      ++tried;
      const std::string verdict = load.judge(left);
      const bool is_old = verdict == (first ? "config" : "2"), is_new = verdict == "3";
      old_ones += is_old, new_ones += is_new;
      if (!is_new && (!is_old || i >= finished)) {
        FAIL_CHECK("after call ", i, " of ", seen.size(), ": ", verdict);
        return;
      }
      if (tried % 16 == 0) {  // and training goes on from there
        save_step(left, "c", fold, model, 4, 1);
        CHECK(load(left) == 4);
        CHECK(left.list("c") == std::vector<std::string>{"latest", "step-00000004"});
      }
    };
    judge([](int) { return 0; });
    judge([](int) { return 1; });
    int combinations = 1;
    for (int c = 0; c < choices && combinations <= picks; ++c) combinations *= 3;
    if (combinations <= picks)
      for (int code = 0; code < combinations; ++code) {
        int rest = code;
        judge([&](int ways) { return std::exchange(rest, rest / 3) % 3 % ways; });
      }
    else
      for (int p = 0; p < picks; ++p) {
        const auto often = random() % 4;  // mostly lost, mostly kept, even
        judge([&](int ways) {
          return often == 0 ? int(random() % 8 == 0) : often == 1 ? int(random() % 8 != 0) : int(random() % std::size_t(ways));
        });
      }
  }
  CHECK(old_ones > 0);
  CHECK(new_ones > 0);
  return tried;
}

/// A folder of its own, gone with the object.
struct scratch_folder {
  std::string path = (std::filesystem::temp_directory_path() / ("moefold_checkpoint_" + std::to_string(::getpid()))).string();
  scratch_folder() {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  ~scratch_folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

/// A process of two ranks that saves step after step is killed at a random moment, and what it left is loaded: at least the last step that it said was saved.
inline int kill_savers(int times, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  one_rank_loader load;
  const scratch_folder scratch;
  const std::string folder = scratch.path + "/c";
  std::int64_t saved = 0;  // over all lives
  for (int i = 0; i < times; ++i) {
    int told[2];
    REQUIRE(::pipe(told) == 0);
    const ::pid_t child = ::fork();
    if (child == 0) {
      ::close(told[0]);
      try {
        on_ranks(fold_of(2), small_checkpoint_model(), 0, [&](host_exec e, thread_comm& comm, checkpoint_state&) {
          checkpoint_writer writer(disk(), folder, 2);
          const auto owned = testing::owned_pieces(fold_of(2), small_checkpoint_model());
          for (std::int64_t step = saved + 1;; ++step) {
            checkpoint_state state(owned, comm.rank(), step);
            if (step % 2 == 0) {
              writer.save(e, comm, state.content());
            } else {
              writer.begin(e, comm, state.content());
              writer.finish(e, comm);
            }
            if (comm.rank() == 0 && ::write(told[1], &step, sizeof step) != sizeof step) ::_exit(2);
          }
        });
      } catch (const std::exception& failed) {
        std::fprintf(stderr, "%s\n", failed.what());
      }
      ::_exit(1);
    }
    REQUIRE(child > 0);
    ::close(told[1]);
    std::int64_t step = 0;
    if (i == 0) REQUIRE(::read(told[0], &step, sizeof step) == sizeof step);  // there is one
    ::usleep(useconds_t(random() % 20000));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status));
    std::int64_t last = step > 0 ? step : saved;
    while (::read(told[0], &step, sizeof step) == sizeof step) last = step;
    ::close(told[0]);
    const std::int64_t loaded = load(disk(), folder);
    CHECK(loaded >= last);
    CHECK(loaded <= last + 1);
    saved = loaded;
  }
  return times;
}

}  // namespace moefold::test
