#pragma once
// The files of a run, for real: published models in safetensors and checkpoints, on any storage. Include by name, in one translation unit of a program: it
// needs nlohmann-json and xxHash (moefold::checkpoint).
//
//   model_files files;                        // on the disk
//   program_options options{.files = &files, .load = "Mixtral-8x7B-v0.1", .save = "checkpoints"};
#include <moefold/checkpoint/checkpoint.hpp>
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/model/names.hpp>
#include <moefold/train/files.hpp>

#include <charconv>

namespace moefold {

namespace detail {

inline std::int64_t number_in(const run_notes& notes, const std::string& name, const std::string& folder) {
  const auto at = notes.find(name);
  std::int64_t number = 0;
  const bool there = at != notes.end();
  const char* const end = there ? at->second.data() + at->second.size() : nullptr;
  require_file(there && std::from_chars(at->second.data(), end, number).ptr == end && number >= 0, path_in(folder, manifest_file), 0,
               "its note '", name, "' is ", there ? "'" + shown_text(at->second) + "'" : "missing", ", needs a number from 0; the save is not one of a training run");
  return number;
}

/// One run's saves.
class file_saver final : public checkpoint_saver {
 public:
  file_saver(storage& to, const std::string& folder, int keep, bool beside) : to_(to), writer_(to, folder, keep), beside_(beside) {}

  void begin(host_exec e, rank_group& world, const run_position& position, const run_notes& notes, std::span<state_tensor> owned,
             std::span<state_array> shared) override {
    checkpoint_content content;
    content.step = position.step;
    content.notes = notes;
    content.notes["updates"] = std::to_string(position.updates);
    content.notes["samples"] = std::to_string(position.sample);
    for (state_tensor& t : owned) content.tensors.push_back({t.name(), t.piece, t.type, t.get, t.set});
    for (const state_array& a : shared) content.arrays.push_back({a.name, a.type, {a.bytes.begin(), a.bytes.end()}});
    if (beside_)
      writer_.begin(e, world, content);
    else
      writer_.save(e, world, content);
    saving_ = true;
  }
  bool saving() const override { return saving_; }
  bool ready() const override { return !beside_ || writer_.ready(); }
  std::string finish(host_exec e, rank_group& world) override {
    saving_ = false;
    if (beside_) writer_.finish(e, world);
    return find_checkpoint(to_, writer_.folder());
  }

 private:
  storage& to_;
  checkpoint_writer writer_;
  bool beside_, saving_ = false;
};

}  // namespace detail

class model_files final : public program_files {
 public:
  explicit model_files(storage& on = disk()) : storage_(on) {}

  found_save find_save(const std::string& folder) override {
    found_save save;
    save.folder = find_checkpoint(storage_, folder);
    const std::string path = path_in(save.folder, manifest_file);
    const auto file = storage_.open(path);
    std::vector<std::byte> text(std::size_t(file->size()));
    file->read(0, text);
    checkpoint_manifest manifest = parse_manifest(text_of(text), path);
    save.notes = std::move(manifest.notes);
    save.position = {manifest.step, detail::number_in(save.notes, "updates", save.folder), detail::number_in(save.notes, "samples", save.folder)};
    return save;
  }
  std::vector<std::string> resume(host_exec e, rank_group& world, const found_save& save, std::span<state_tensor> owned,
                                  std::span<state_array> shared) override {
    std::vector<checkpoint_tensor> tensors;
    for (state_tensor& t : owned) tensors.push_back({t.name(), t.piece, t.type, t.get, t.set});
    const loaded_checkpoint loaded = load_checkpoint(e, world, storage_, save.folder, tensors);
    std::vector<std::string> fresh;
    for (const state_array& a : shared) {
      const auto from = std::find_if(loaded.arrays.begin(), loaded.arrays.end(), [&](const checkpoint_array& c) { return c.name == a.name; });
      if (from == loaded.arrays.end()) {
        fresh.push_back(a.name);
        continue;
      }
      require_file(from->type == a.type && from->bytes.size() == a.bytes.size(), path_in(loaded.folder, manifest_file), 0, "the array '",
                   a.name, "' has ", from->bytes.size(), " bytes of ", name_of(from->type), ", this run needs ", a.bytes.size(), " of ",
                   name_of(a.type), "; resume with the model and the precision that saved it");
      std::copy(from->bytes.begin(), from->bytes.end(), a.bytes.begin());
    }
    return fresh;
  }
  std::unique_ptr<checkpoint_saver> saver(const std::string& folder, int keep, bool beside) override {
    return std::make_unique<detail::file_saver>(storage_, folder, keep, beside);
  }

  void require_model(const std::string&, const model_shape&, bool) override {}
  void load(const std::string&, const model_shape&, bool, std::uint64_t, std::span<state_tensor>, std::span<state_array>) override {}
  void write_model(host_exec, rank_group&, const std::string&, const model_shape&, const std::string&, std::span<state_tensor>, std::span<state_array>) override {}
  void write_gradients(host_exec, rank_group&, const std::string&, const model_shape&, std::span<state_tensor>) override {}
 private:
  storage& storage_;
};

}  // namespace moefold
