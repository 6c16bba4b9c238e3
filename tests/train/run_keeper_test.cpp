#include <moefold/train/run_keeper.hpp>

#include <moefold/comm/self.hpp>

#include <doctest/doctest.h>

using namespace moefold;

namespace {

/// Files that keep nothing but what was asked of them, and fail where they are told to.
struct telling_files final : program_files {
  struct telling_saver final : checkpoint_saver {
    telling_files& files;
    bool now = false;
    explicit telling_saver(telling_files& f) : files(f) {}
    void begin(host_exec, rank_group&, const run_position& p, const run_notes& notes, std::span<state_tensor>,
               std::span<state_array>) override {
      files.told += sentence("begin ", p.step, notes.contains("spikes") ? "" : " without spikes", "; ");
      now = true;
    }
    bool saving() const override { return now; }
    bool ready() const override { return files.ready; }
    finished_save finish(host_exec, rank_group&) override {
      now = false;
      files.told += "finish; ";
      if (std::exchange(files.fails, false)) throw storage_error("the disk is full", "there", 28);
      return {"there", {}};
    }
  };
  std::string told;
  bool ready = false, fails = false;

  void require_outputs(const model_shape&, const std::string&, const std::string&) override {}
  void require_saves(const std::string&) override {}
  std::string require_model(const std::string&, const model_shape&, bool) override { return ""; }
  void load(host_exec, rank_group&, const std::string& folder, const model_shape&, bool dense, std::uint64_t, std::span<state_tensor> owned,
            std::span<state_array>) override {
    told += sentence(dense ? "upcycle " : "load ", folder, "; ");
    for (state_tensor& t : owned) {
      std::vector<std::byte> zeros(t.bytes());
      t.set(zeros);
    }
  }
  void write_model(host_exec, rank_group&, const std::string& folder, const model_shape&, const std::string& like, dtype stored,
                   std::span<state_tensor>, std::span<state_array>) override {
    told += sentence("export ", folder, " like ", like, " in ", name_of(stored), "; ");
  }
  void write_gradients(host_exec, rank_group&, const std::string& file, const model_shape&, std::span<state_tensor>) override {
    told += "gradients " + file + "; ";
  }
  found_save find_save(const std::string&) override { return {}; }
  std::vector<std::string> resume(host_exec, rank_group&, const found_save& save, std::span<state_tensor> owned,
                                  std::span<state_array>) override {
    told += "resume " + save.folder + "; ";
    for (state_tensor& t : owned) {
      std::vector<std::byte> zeros(t.bytes());
      t.set(zeros);
    }
    return {"router.bias"};
  }
  std::unique_ptr<checkpoint_saver> saver(const std::string&, int) override { return std::make_unique<telling_saver>(*this); }
};

constexpr model_shape small{.layers = 1, .hidden = 8, .heads = 2, .kv_heads = 2, .head_dim = 4, .experts = 2, .ffn = 4, .vocabulary = 256};

/// Calls f(keeper, trainer, log) for a run of one rank with these options.
template <class F>
void keep(program_options options, telling_files& files, F&& f, std::optional<found_save> resumed = {}) {
  options.files = &files;
  const dataset data(token_stream::from_bytes(std::string(400, 'x')), 8, 1);
  basic_trainer<policies_of<run_defaults>, self_comm> trainer(self_comm(), small, 8, {}, options.train, data);
  host_context context;
  string_sink log;
  group_over group(trainer.world().inner());
  run_keeper keeper(options, resumed, trainer, group, host_exec(context), {}, log);
  keeper.begin(small);
  f(keeper, trainer, log);
}

}  // namespace

TEST_SUITE("train/run_keeper") {
  TEST_CASE("it saves when due and at the end, finishes when all are ready or before the next save, and does not save a step twice") {
    telling_files files;
    keep({.save = "there", .save_every = 2}, files, [&](auto& keeper, auto& trainer, string_sink&) {
      for (int i = 0; i < 5; ++i) {
        trainer.step();
        files.ready = i == 2;
        CHECK(keeper.ready() == (i == 2));
        keeper.after_step(keeper.ready(), {});
      }
      CHECK(files.told == "begin 2; finish; begin 4; ");
      keeper.end({});
      CHECK(files.told == "begin 2; finish; begin 4; finish; begin 5; finish; ");
      keeper.end({});
      CHECK(files.told == "begin 2; finish; begin 4; finish; begin 5; finish; ");
    });
  }

  TEST_CASE("a save that fails is said and the run goes on; the last one's failure is an error") {
    telling_files files;
    keep({.save = "there", .save_every = 1, .save_beside = false}, files, [&](auto& keeper, auto& trainer, string_sink& log) {
      files.fails = true;
      trainer.step();
      keeper.after_step(false, {});
      REQUIRE(log.lines.size() == 1);
      CHECK(log.lines[0].find("WARNING: the disk is full") == 0);
      trainer.step();
      keeper.after_step(false, {});
      keeper.end({});
      CHECK_NOTHROW(keeper.require_saved());  // the second one did
      trainer.step();
      files.fails = true;
      keeper.end({});
      CHECK_THROWS_WITH(keeper.require_saved(), "the disk is full");
    });
  }

  TEST_CASE("a run begins from a published model, a dense one or a save, and ends in an export that is like what it was loaded from") {
    telling_files files;
    keep({.load = "model", .export_to = "out"}, files, [](auto& keeper, auto& trainer, string_sink&) {
      for (const auto& entry : trainer.parameters().entries()) CHECK(entry.value[0] == 0);
      keeper.export_model(small);
    });
    keep({.upcycle = "dense"}, files, [](auto&, auto&, string_sink&) {});
    keep(
        {}, files,
        [](auto&, auto& trainer, string_sink& log) {
          CHECK(trainer.position() == run_position{7, 6, 70});
          CHECK(log.lines.at(0) == "  router.bias: not in the save, starts anew");
          for (const auto& entry : trainer.parameters().entries()) CHECK(entry.value[0] == 0);
        },
        found_save{"saves", {7, 6, 70}, {}});
    CHECK(files.told == "load model; export out like model in fp32; upcycle dense; resume saves; ");
  }

  TEST_CASE("the spike watch's memory survives as a note, bit for bit; a note that is none gives an empty one") {
    spike_watch watch;
    for (int i = 0; i < 40; ++i) watch.add(i, 2.0 / 3 + i * 1e-3);
    CHECK(spike_memory_of(note_of(watch.memory())) == watch.memory());
    CHECK(spike_memory_of("") == spike_memory{});
    CHECK(spike_memory_of("3 x") == spike_memory{});
    CHECK(spike_memory_of("-3 0" + note_of({}).substr(3)) == spike_memory{});
  }
}
