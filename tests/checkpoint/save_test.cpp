#include <moefold/checkpoint/save.hpp>

#include "../support/checkpoint_faults.hpp"

#include <condition_variable>

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>

using namespace moefold;
using namespace moefold::test;
using doctest::Contains;

TEST_SUITE("checkpoint/save") {
  TEST_CASE("whichever call of a save fails, every rank throws the same, what is there loads, and the next save leaves nothing behind") {
    fail_calls(1, 1, false, {.code = ENOSPC, .half = true});
    fail_calls(2, 5, true, {.code = EIO});
    fail_calls(1, 5, true, {.code = EIO, .for_ever = true});
    fail_calls(4, 61, false, {.code = ENOSPC, .half = true});
  }
  TEST_CASE("whatever a power failure leaves, it is the save before or the new one") {
    crash_states(1, true, 12, 1);
    crash_states(1, false, 12, 2);
    crash_states(2, false, 4, 3);
  }
  TEST_CASE("a killed process leaves a save that loads") { kill_savers(20, 1); }
  TEST_CASE("a save under way waits for the disk, and its ranks do not") {
    memory_storage disk;
    std::mutex guard;
    std::condition_variable changed;
    bool open = false;
    disk.after = [&](const std::string& call) {
      if (!call.starts_with("write")) return;
      std::unique_lock lock(guard);
      changed.wait(lock, [&] { return open; });
    };
    on_ranks(fold_of(2), small_checkpoint_model(), 5, [&](host_exec e, thread_comm& comm, checkpoint_state& state) {
      checkpoint_writer writer(disk, "c");
      CHECK(writer.ready());
      writer.begin(e, comm, state.content());
      state.spoil();  // training goes on
      CHECK(!writer.ready());
      CHECK(writer.running());
      CHECK_THROWS_WITH_AS(writer.begin(e, comm, state.content()), Contains("a save is under way; finish it"), error);
      comm.barrier(e).wait(e);
      {
        const std::scoped_lock lock(guard);
        open = true;
      }
      changed.notify_all();
      writer.finish(e, comm);
      CHECK(writer.ready());
      CHECK(!writer.running());
      CHECK_THROWS_WITH_AS(writer.finish(e, comm), Contains("finish without begin"), error);
    });
    disk.after = nullptr;
    CHECK(load_step(disk, "c", {}, small_checkpoint_model()) == 5);
  }
  TEST_CASE("a writer that is left with a save under way ends it without giving it a name") {
    memory_storage disk;
    on_ranks(fold_of(2), small_checkpoint_model(), 5, [&](host_exec e, thread_comm& comm, checkpoint_state& state) {
      checkpoint_writer writer(disk, "c");
      writer.begin(e, comm, state.content());
    });
    CHECK(disk.list("c") == std::vector<std::string>{"step-00000005.partial"});
  }
  TEST_CASE("the copy is kept from one save to the next") {
    host_context context;
    self_comm self;
    memory_storage disk;
    checkpoint_writer writer(disk, "c");
    std::vector<const std::byte*> seen;
    checkpoint_content content;
    const box all{{1000}, {}, {1000}};
    content.tensors.push_back({"w", {all, {0, 1000}, 1000}, dtype::fp32, [&](std::span<std::byte> to) { seen.push_back(to.data()); }, {}});
    for (content.step = 0; content.step < 3; ++content.step) {
      writer.begin(host_exec(context), self, content);
      writer.finish(host_exec(context), self);
    }
    CHECK(seen == std::vector<const std::byte*>(3, seen.at(0)));
  }
  TEST_CASE("too little room is said before anything is written, with what is needed and what there is") {
    memory_storage disk(saved_by(2, 1));
    disk.room = 20'000;
    bool wrote = false;
    disk.after = [&](const std::string& call) { wrote = wrote || call.starts_with("create"); };
    std::atomic<int> threw{0};
    on_ranks(fold_of(2), small_checkpoint_model(), 2, [&](host_exec e, thread_comm& comm, checkpoint_state& state) {
      checkpoint_writer writer(disk, "c");
      CHECK_THROWS_WITH_AS(writer.begin(e, comm, state.content()), Contains("bytes in 'c', which has 20000 left; free some space"),
                           storage_error);
      CHECK(!writer.running());
      ++threw;
    });
    CHECK(threw == 2);
    CHECK(!wrote);
  }
  TEST_CASE("ranks that together hold too little, too much or another thing are refused, and nothing is saved") {
    const auto refuse = [](auto&& alter, const char* words) {
      memory_storage disk(saved_by(2, 1));
      std::atomic<int> threw{0};
      on_ranks(fold_of(2), small_checkpoint_model(), 2, [&](host_exec e, thread_comm& comm, checkpoint_state& state) {
        checkpoint_content content = state.content();
        alter(content.tensors, comm.rank());
        checkpoint_writer writer(disk, "c");
        try {
          writer.save(e, comm, content);
        } catch (const error& refused) {
          ++threw;
          const std::string said = refused.what();
          CAPTURE(said);
          CHECK(said.find(words) != std::string::npos);
        }
      });
      CHECK(threw == 2);
      CHECK(disk.list("c") == std::vector<std::string>{"latest", "step-00000001"});
      CHECK(load_step(disk, "c", {}, small_checkpoint_model()) == 1);
    };
    using list = std::vector<checkpoint_tensor>;
    const auto named = [](list& l, const char* name) {
      return std::find_if(l.begin(), l.end(), [&](const auto& t) { return t.name == name; });
    };
    refuse(
        [&](list& l, int rank) {
          if (rank == 1) l.erase(named(l, "embedding/weight"));
        },
        "the tensor 'embedding/weight' of [5, 4]: ");
    refuse(
        [&](list& l, int) {
          const auto t = named(l, "final_norm/weight");
          t->piece.range = {0, 4}, t->get = [](auto) {};
        },
        "the tensor 'final_norm/weight' of [4]: elements ");
    refuse(
        [&](list& l, int rank) {
          const auto t = named(l, "embedding/master");
          if (rank == 1) t->type = dtype::fp64, t->get = [](auto) {};
        },
        "ranks disagree on 'embedding/master'");
    refuse(
        [&](list& l, int rank) {
          if (rank == 1) l.push_back(l[0]);
        },
        "two tensors of a file are called ");
    refuse(
        [&](list& l, int rank) {
          if (rank == 1) l[0].get = {};
        },
        "has no get");
    refuse(
        [&](list& l, int rank) {
          if (rank == 0) l[0].get = [](auto) { throw std::runtime_error("the device is gone"); };
        },
        "rank 0: the device is gone");
  }
  TEST_CASE("on a real file system that fills up, every rank throws and the save before loads") {
    const ::pid_t child = ::fork();
    if (child == 0) {  // a mount of its own, where this user may
      const auto put = [](const char* path, const std::string& text) {
        const int file = ::open(path, O_WRONLY);
        const bool done = file >= 0 && ::write(file, text.data(), text.size()) == ::ssize_t(text.size());
        if (file >= 0) ::close(file);
        return done;
      };
      const std::string user = sentence("0 ", ::getuid(), " 1"), group = sentence("0 ", ::getgid(), " 1");
      const scratch_folder scratch;
      const bool mine = ::unshare(CLONE_NEWNS) == 0 || (::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && put("/proc/self/uid_map", user) &&
                                                        put("/proc/self/setgroups", "deny") && put("/proc/self/gid_map", group));
      const bool mounted = mine && ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                           ::mount("tmpfs", scratch.path.c_str(), "tmpfs", 0, "size=256k") == 0;
      if (!mounted) ::_exit(77);
      int failed = 0;
      try {
        const std::string folder = scratch.path + "/c";
        const model_shape model = small_checkpoint_model();
        save_step(disk(), folder, fold_of(2), model, 1, 0);
        faulty_storage lying(disk(), {.room = std::uint64_t{1} << 40});
        std::atomic<int> threw{0};
        std::int64_t step = 2;
        for (; threw == 0 && step < 100; ++step)
          on_ranks(fold_of(2), model, step, [&](host_exec e, thread_comm& comm, checkpoint_state& state) {
            try {
              checkpoint_writer(lying, folder, 0).save(e, comm, state.content());
            } catch (const storage_error& full) {
              threw += full.code() == ENOSPC;
            }
          });
        failed |= threw != 2;
        failed |= load_step(disk(), folder, {}, model) != step - 2;
      } catch (const std::exception& e) {
        std::fprintf(stderr, "%s\n", e.what());
        failed = 2;
      }
      ::umount2(scratch.path.c_str(), MNT_DETACH);
      ::_exit(failed);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
      MESSAGE("skipped: this user may not mount");
    else
      CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  }
}
