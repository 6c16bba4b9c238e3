#include <moefold/checkpoint/load.hpp>

#include "../support/checkpoint_faults.hpp"

using namespace moefold;
using namespace moefold::test;
using doctest::Contains;

TEST_SUITE("checkpoint/load") {
  TEST_CASE("a file that is cut short is never taken, wherever the cut") { CHECK(cut_files(2, 29) > 500); }
  TEST_CASE("one flipped bit anywhere is a checksum mismatch") {
    CHECK(flip_bits(2, 29) > 500);
    flip_payload(2, 500, 1);
  }
  TEST_CASE("a shard in another's place is caught: of another rank, of an older step, of the same step saved again") {
    one_rank_loader load;
    memory_storage disk(saved_by(4, 2));
    save_step(disk, "c", fold_of(4), small_checkpoint_model(), 2, 0);
    const std::string old = "c/step-00000001/", before = "c/step-00000002/", now = "c/step-00000002-2/";
    REQUIRE(load(disk) == 2);
    for (const std::string& other : {old + rank_file_name(1), before + rank_file_name(1), now + rank_file_name(2)}) {
      CAPTURE(other);
      const auto good = disk.bytes(now + rank_file_name(1)), theirs = disk.bytes(other);
      REQUIRE(good.size() == theirs.size());
      disk.bytes(now + rank_file_name(1)) = theirs;
      if (other.starts_with(now)) disk.bytes(other) = good;
      CHECK(load.judge(disk) == "checksum");
      disk.bytes(now + rank_file_name(1)) = good;
      disk.bytes(other) = theirs;
      if (other.starts_with(before)) continue;  // of the same numbers
      // Nor does the payload alone pass: its hashes know their file.
      std::uint64_t header = 0;
      std::memcpy(&header, good.data(), sizeof header);
      auto& bytes = disk.bytes(now + rank_file_name(1));
      std::copy(theirs.begin() + std::ptrdiff_t(8 + header), theirs.end(), bytes.begin() + std::ptrdiff_t(8 + header));
      CHECK(load.judge(disk) == "checksum");
      bytes = good;
    }
    CHECK(load(disk) == 2);
  }
  TEST_CASE("a missing shard, one too many, and a manifest of another world are named") {
    const memory_storage::state good = saved_by(2, 1);
    one_rank_loader load;
    {
      memory_storage disk(good);
      disk.remove("c/step-00000001/rank-0001.safetensors");
      CHECK_THROWS_WITH_AS(load(disk), Contains("rank-0001.safetensors' at byte 0: it is not there; the save was written by 2 ranks"),
                           incomplete_checkpoint);
    }
    {
      memory_storage disk(good);
      disk.create("c/step-00000001/rank-0002.safetensors");
      CHECK_THROWS_WITH_AS(load(disk), Contains("rank-0002.safetensors' at byte 0: it belongs to no rank of this save"), format_error);
    }
    {
      memory_storage disk(good);
      disk.bytes("c/step-00000001/rank-0001.safetensors").push_back(std::byte{0});
      CHECK_THROWS_WITH_AS(load(disk), Contains("rank-0001.safetensors' at byte "), incomplete_checkpoint);
    }
    {
      memory_storage disk(good);
      auto& bytes = disk.bytes("c/step-00000001/manifest.json");
      std::string text(text_of(bytes));
      text = text.substr(0, text.size() - 19);
      text.replace(text.find("\"world\":2"), 9, "\"world\":3");
      text += hash_text(XXH3_64bits(text.data(), text.size())) + "\"}\n";
      const auto changed = bytes_of(text);
      bytes.assign(changed.begin(), changed.end());
      CHECK_THROWS_WITH_AS(load(disk), Contains("a world of 3 ranks has as many files, found 2"), format_error);
    }
  }
  TEST_CASE("another model or optimizer is refused by the name of what differs, on every rank") {
    memory_storage disk;
    const model_shape model = small_checkpoint_model();
    save_step(disk, "c", fold_of(2), model, 1);
    const auto refuse = [&](auto&& alter, const char* words, auto kind) {
      std::atomic<int> threw{0};
      on_ranks(fold_of(4), model, 1, [&](host_exec e, thread_comm& comm, checkpoint_state& state) {
        std::vector<checkpoint_tensor> tensors = state.content().tensors;
        alter(tensors, comm.rank());
        try {
          load_checkpoint(e, comm, disk, "c", tensors);
        } catch (const decltype(kind)& refused) {
          ++threw;
          const std::string said = refused.what();
          CAPTURE(said);
          CHECK(said.find(words) != std::string::npos);
        }
      });
      CHECK(threw == 4);
    };
    using list = std::vector<checkpoint_tensor>;
    refuse(
        [](list& l, int rank) {
          if (rank == 3) l[0].name = "other";
        },
        "holds no tensor 'other', which this run has", incomplete_checkpoint("", "", 0));
    refuse([](list& l, int) { std::erase_if(l, [](const auto& t) { return t.name == "final_norm/weight"; }); },
           "it holds 'final_norm/weight', which this run does not have", format_error("", "", 0));
    refuse(
        [](list& l, int) {
          for (auto& t : l)
            if (t.name == "final_norm/weight") t.piece = {{{8}, {}, {8}}, {0, 8}, 8};
        },
        "'final_norm/weight' was saved as [4], this run needs [8]", format_error("", "", 0));
    refuse(
        [](list& l, int) {
          for (auto& t : l)
            if (t.name == "final_norm/weight") t.type = dtype::int32;
        },
        "was saved as bf16, which does not become the int32", format_error("", "", 0));
    refuse(
        [](list& l, int rank) {
          if (rank == 2) l[1].set = [](auto) { throw error("moefold: it does not fit"); };
        },
        "moefold: rank 2: it does not fit", error(""));
  }
  TEST_CASE("saved numbers become what the run computes with") {
    memory_storage disk;
    save_step(disk, "c", fold_of(2), small_checkpoint_model(), 1);
    for (const dtype type : {dtype::fp64, dtype::fp32, dtype::bf16})
      CHECK(load_step(disk, "c", fold_of(4), small_checkpoint_model(), type) == 1);
  }
  TEST_CASE("a tensor of several chunks is read in the pieces that others want, and only the chunks they lie in are looked at") {
    host_context context;
    const host_exec e(context);
    self_comm self;
    memory_storage disk;
    constexpr extent_t rows = 1500, columns = 301;
    std::vector<float> values(std::size_t(rows * columns)), got;
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = float(i);
    const box all{{rows, columns}, {}, {rows, columns}}, part{{rows, columns}, {880, 100}, {7, 150}};
    const auto bytes = std::as_bytes(std::span(values));
    checkpoint_content content;
    content.tensors.push_back(
        {"w", {all, {0, all.size()}, all.size()}, dtype::fp32, [&](std::span<std::byte> to) { load_all(bytes, to); }, {}});
    checkpoint_writer(disk, "c").save(e, self, content);
    const auto load = [&] {
      load_checkpoint(e, self, disk, "c", {{"w", {part, {20, 1000}, all.size()}, dtype::fp32, {}, [&](std::span<const std::byte> from) {
                                              got.resize(from.size() / 4);
                                              load_all(from, std::span(got));
                                            }}});
    };
    load();
    REQUIRE(got.size() == 980);
    extent_t wrong = 0;
    for (extent_t i = 0; i < 980; ++i) wrong += got[std::size_t(i)] != float(part.global_index(20 + i));
    CHECK(wrong == 0);
    auto& stored = disk.bytes("c/step-00000000/rank-0000.safetensors");
    const std::size_t data = stored.size() - values.size() * 4;
    stored[data + 5] ^= std::byte{1};  // chunk 0 is not needed
    load();
    stored[data + (1 << 20) + 5] ^= std::byte{1};  // elements 262144 ..: rows 871 ..
    CHECK_THROWS_WITH_AS(load(), Contains("bytes from here, of 'w', are not what was written"), checksum_mismatch);
  }
}
