#pragma once
// The files of a run, for real: published models in safetensors and checkpoints, on any storage. Include by name, in one translation unit of a program: it
// needs nlohmann-json and xxHash (moefold::checkpoint).
//
//   model_files files;                        // on the disk
//   program_options options{.files = &files, .load = "Mixtral-8x7B-v0.1", .save = "checkpoints"};
#include <moefold/checkpoint/checkpoint.hpp>
#include <moefold/checkpoint/posix_storage.hpp>
#include <moefold/checkpoint/published_writer.hpp>
#include <moefold/model/config_file.hpp>
#include <moefold/model/names.hpp>
#include <moefold/model/shape_text.hpp>
#include <moefold/model/upcycle.hpp>
#include <moefold/train/files.hpp>

#include <charconv>
#include <memory>
#include <mutex>

namespace moefold {

namespace detail {

inline std::int64_t number_in(const run_notes& notes, const std::string& name, const std::string& folder) {
  const auto at = notes.find(name);
  std::int64_t number = 0;
  constexpr std::int64_t most = std::int64_t{1} << 60;  // far from where counting on would overflow
  const bool there = at != notes.end();
  const char* const end = there ? std::to_address(at->second.end()) : nullptr;
  const auto read = there ? std::from_chars(at->second.data(), end, number) : std::from_chars_result{nullptr, std::errc::invalid_argument};
  require_file(read.ec == std::errc{} && read.ptr == end && number >= 0 && number <= most, path_in(folder, manifest_file), 0, "its note '",
               name, "' is ", there ? "'" + shown_text(at->second) + "'" : "missing",
               ", needs a number from 0 to 2^60; the save is not one of a training run");
  return number;
}

/// "layers is 4, the run has 8; ..." for every number in which two shapes differ; nothing where they are one.
inline std::string differing_fields(const model_shape& found, const model_shape& needed) {
  std::string out;
  const std::string a = write_shape(found, "m", ""), b = write_shape(needed, "m", "");
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const std::size_t end = std::min(a.find('\n', i), a.size()), stop = std::min(b.find('\n', j), b.size());
    const std::string_view x = std::string_view(a).substr(i, end - i), y = std::string_view(b).substr(j, stop - j);
    if (x != y) {
      const std::size_t name = x.find('.') + 1, equals = x.find(" = ");
      const auto value = [equals](std::string_view line) {
        line.remove_prefix(std::min(line.size(), equals + 3));
        return line.substr(0, line.find_first_of(",}"));
      };
      out += sentence(out.empty() ? "" : ", ", x.substr(name, equals - name), " is ", value(x), " and the run has ", value(y));
    }
    i = end + 1, j = stop + 1;
  }
  return out;
}

/// Calls f(span of T) for bytes that hold numbers of `type`.
template <class F>
void with_numbers(dtype type, std::span<std::byte> bytes, F&& f) {
  const auto as = [&](auto zero) {
    using T = decltype(zero);
    std::vector<T> numbers(bytes.size() / sizeof(T));
    load_all(bytes, std::span(numbers));
    f(std::span(numbers));
    store_all(bytes, std::span<const T>(numbers));
  };
  if (type == dtype::fp64) return as(double());
  if (type == dtype::bf16) return as(bf16());
  require(type == dtype::fp32, "moefold: weights are fp64, fp32 or bf16, not ", name_of(type));
  as(float());
}

/// One run's saves.
class file_saver final : public checkpoint_saver {
 public:
  file_saver(storage& to, const std::string& folder, int keep) : writer_(to, folder, keep) {}

  void begin(host_exec e, rank_group& world, const run_position& position, const run_notes& notes, std::span<state_tensor> owned,
             std::span<state_array> shared) override {
    checkpoint_content content;
    content.step = position.step;
    content.notes = notes;
    content.notes["updates"] = std::to_string(position.updates);
    content.notes["samples"] = std::to_string(position.sample);
    for (state_tensor& t : owned) content.tensors.push_back({t.name(), t.piece, t.type, t.get, t.set});
    for (const state_array& a : shared) content.arrays.push_back({a.name, a.type, {a.bytes.begin(), a.bytes.end()}});
    writer_.begin(e, world, content);
    saving_ = true;
  }
  bool saving() const override { return saving_; }
  bool ready() const override { return writer_.ready(); }
  finished_save finish(host_exec e, rank_group& world) override {
    saving_ = false;
    writer_.finish(e, world);
    return {writer_.last(), writer_.warning()};
  }

 private:
  checkpoint_writer writer_;
  bool saving_ = false;
};

}  // namespace detail

class model_files final : public program_files {
 public:
  explicit model_files(storage& on = disk()) : storage_(on) {}

  found_save find_save(const std::string& folder) override {
    found_save save;
    save.folder = find_checkpoint(storage_, folder);
    const std::string path = path_in(save.folder, manifest_file);
    checkpoint_manifest manifest = parse_manifest(text_of_file(path, std::uint64_t{1} << 40), path);
    save.notes = std::move(manifest.notes);
    save.position = {manifest.step, detail::number_in(save.notes, "updates", save.folder),
                     detail::number_in(save.notes, "samples", save.folder)};
    return save;
  }
  std::vector<std::string> resume(host_exec e, rank_group& world, const found_save& save, std::span<state_tensor> owned,
                                  std::span<state_array> shared) override {
    std::vector<checkpoint_tensor> tensors;
    for (state_tensor& t : owned) tensors.push_back({t.name(), t.piece, t.type, t.get, t.set});
    const loaded_checkpoint loaded = load_checkpoint(e, world, storage_, save.folder, tensors);
    require_file<incomplete_checkpoint>(loaded.folder == save.folder && loaded.step == save.position.step,
                                        path_in(save.folder, manifest_file), 0, "this process has found the save of step ",
                                        save.position.step, ", and rank 0 has loaded that of step ", loaded.step, " from ", loaded.folder,
                                        "; let all machines see the same files, and name the save itself");
    std::vector<std::string> fresh;
    for (const state_array& a : shared) {
      const auto from =
          std::find_if(loaded.arrays.begin(), loaded.arrays.end(), [&](const checkpoint_array& c) { return c.name == a.name; });
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
  std::unique_ptr<checkpoint_saver> saver(const std::string& folder, int keep) override {
    return std::make_unique<detail::file_saver>(storage_, folder, keep);
  }

  void require_outputs(const model_shape& model, const std::string& folder, const std::string& gradients) override {
    if (folder.empty() && gradients.empty()) return;
    family_of(model);
    require<config_error>(folder.empty() || !storage_.exists(folder), "moefold: '", folder,
                          "' exists; export into a folder that does not, or move it away");
    require<config_error>(gradients.empty() || is_safetensors_path(gradients),
                          "moefold: gradients are written into a safetensors file (given '", gradients, "'); name it FILE.safetensors");
    for (const std::string& path : {folder, gradients})
      require<config_error>(path.empty() || storage_.exists(parent_of(path)), "moefold: '", path,
                            "' would lie in a folder that does not exist; make '", parent_of(path), "' first");
  }
  void require_saves(const std::string& folder) override {
    const std::string probe = path_in(folder, "probe.partial");
    try {
      storage_.make_folder(folder);
      if (storage_.exists(probe)) storage_.remove(probe);
      storage_.create(probe);
      storage_.remove(probe);
    } catch (const error& wrong) {
      throw config_error(sentence("moefold: nothing can be saved into '", folder, "': ", wrong.what()));
    }
  }
  std::string require_model(const std::string& folder, const model_shape& model, bool dense) override {
    const std::string path = path_in(folder, "config.json");
    model_shape found = read_config(text_of_file(path, most_config), path);
    if (dense) {
      const upcycling u = upcycling_of(found, model);
      return sentence("upcycled from ", folder, ": ", model.experts / u.pieces, " copies of each MLP",
                      u.pieces > 1 ? sentence(", each cut into ", u.pieces, " experts") : " as experts", ", new routers; ",
                      u.exact ? "it begins with the dense model's loss" : "its first loss may differ from the dense model's");
    }
    found.init_std = model.init_std;  // of weights that are not drawn
    const std::string differences = detail::differing_fields(found, model);
    require_file(differences.empty(), path, 0, "it describes another model than the run: ", differences,
                 "; take the run's shape from this file with MOEFOLD_MODELS, or load a model of the run's shape");
    return sentence("model: ", folder, " (", name_of(family_of(model)), ")");
  }

  void load(host_exec e, rank_group& world, const std::string& folder, const model_shape& model, bool dense, std::uint64_t seed,
            std::span<state_tensor> owned, std::span<state_array> shared) override {
    failure_note note;
    note.attempt([&] {
      const std::shared_ptr<const published_reader> reader = reader_of(folder);
      const auto has = [&](const std::string& name) { return reader->find(name).has_value(); };
      const expert_layout layout = layout_of(model, has);
      const std::string config = path_in(folder, "config.json");
      const model_shape from = dense ? read_config(text_of_file(config, most_config), config) : model;
      std::vector<std::byte> bytes;
      for (state_tensor& t : owned) {
        if (t.part != "weight") continue;
        const tensor_piece piece = unpadded(t.piece);
        const std::span<std::byte> room = t.memory.empty() ? (bytes.resize(t.bytes()), std::span(bytes)) : t.memory.first(t.bytes());
        if (!dense) {
          reader->read(piece, published_segments(model, t.fact, layout), t.type, room);
        } else {
          const upcycled_parameter part = upcycled(from, model, t.fact);
          if (part.segments.empty())
            detail::with_numbers(t.type, room, [&](auto numbers) { draw_router(upcycling_of(from, model), t.fact, seed, piece, numbers); });
          else
            reader->read(piece, part.segments, t.type, room);
          if (part.scale != 1)
            detail::with_numbers(t.type, room, [&](auto numbers) {
              for (auto& x : numbers) x = std::remove_reference_t<decltype(x)>(x * part.scale);
            });
        }
        if (t.memory.empty()) t.set(room);
      }
      if (!dense) read_biases(*reader, model, shared);
    });
    agree(e, world, note);
  }

  void write_model(host_exec e, rank_group& world, const std::string& folder, const model_shape& model, const std::string& like,
                   dtype stored, std::span<state_tensor> owned, std::span<state_array> shared) override {
    failure_note note;
    std::string partial;
    std::unique_ptr<published_writer> out;
    note.attempt([&] {
      const std::shared_ptr<const published_reader> source = like.empty() ? nullptr : reader_of(like);
      const auto type_of = [&](const std::string& name, const char* otherwise) {
        std::optional<stored_tensor> t = source ? source->find(name) : std::nullopt;
        if (source && !t) t = source->find(otherwise);
        return t ? t->type : file_dtype_of(stored);
      };
      std::vector<tensor_to_store> plan;
      for (const published_tensor& t : published_tensors(model))
        plan.push_back({t.name,
                        t.name.ends_with("e_score_correction_bias") ? file_dtype::f32 : type_of(t.name, "model.embed_tokens.weight"),
                        extents_of(t.extent)});
      partial = without_slash(folder) + ".partial";
      out = std::make_unique<published_writer>(storage_, partial, std::move(plan));
    });
    agree(e, world, note);
    if (world.rank() == 0)
      note.attempt([&] {
        require_outputs(model, folder, "");
        if (storage_.exists(partial)) detail::remove_folder(storage_, partial);  // of an export that was cut
        storage_.make_folder(partial);
        const std::uint64_t have = storage_.free_bytes(partial);
        if (have < out->bytes())
          throw storage_error(
              sentence("moefold: the model takes ", out->bytes(), " bytes, and '", partial, "' has ", have, " left; free some space"),
              partial, ENOSPC);
        out->create();
        for (const auto& [name, text] : beside_the_weights(like, model, stored)) write_text(path_in(partial, name), text);
      });
    agree(e, world, note);
    write_owned(*out, model, owned, note);
    note.attempt([&] {
      if (world.rank() == 0 && model.score == score_function::sigmoid) write_biases(*out, model, shared);
      out->finish();
    });
    complete(e, world, *out, note);
    if (world.rank() == 0)
      note.attempt([&] {
        storage_.rename(partial, without_slash(folder));
        storage_.sync_folder(parent_of(folder));
      });
    agree(e, world, note);
  }

  void write_gradients(host_exec e, rank_group& world, const std::string& file, const model_shape& model,
                       std::span<state_tensor> owned) override {
    failure_note note;
    const std::string partial = file + ".partial.safetensors";
    std::unique_ptr<published_writer> out;
    note.attempt([&] {
      require_outputs(model, "", file);
      const bool wide = std::any_of(owned.begin(), owned.end(), [](const state_tensor& t) { return t.type == dtype::fp64; });
      std::vector<tensor_to_store> plan;
      for (const published_tensor& t : published_tensors(model))
        if (!t.name.ends_with("e_score_correction_bias"))
          plan.push_back({t.name, wide ? file_dtype::f64 : file_dtype::f32, extents_of(t.extent)});
      out = std::make_unique<published_writer>(storage_, partial, std::move(plan));
    });
    agree(e, world, note);
    if (world.rank() == 0)
      note.attempt([&] {
        if (storage_.exists(partial)) storage_.remove(partial);
        out->create();
      });
    agree(e, world, note);
    write_owned(*out, model, owned, note);
    note.attempt([&] { out->finish(); });
    complete(e, world, *out, note);
    if (world.rank() == 0)
      note.attempt([&] {
        storage_.rename(partial, file);
        storage_.sync_folder(parent_of(file));
      });
    agree(e, world, note);
  }

 private:
  static constexpr std::uint64_t most_config = std::uint64_t{1} << 20;  // bytes: its tree takes up to a hundred times as many

  static std::string without_slash(std::string path) {
    while (path.size() > 1 && path.back() == '/') path.pop_back();
    return path;
  }
  static std::string parent_of(const std::string& path) {
    const std::string own = without_slash(path);
    const std::size_t slash = own.rfind('/');
    return slash == std::string::npos ? "." : slash == 0 ? "/" : own.substr(0, slash);
  }
  static std::vector<std::uint64_t> extents_of(const shape& extent) {
    std::vector<std::uint64_t> out;
    for (int i = 0; i < extent.rank; ++i) out.push_back(std::uint64_t(extent[i]));
    return out;
  }
  void write_text(const std::string& path, const std::string& text) {
    const auto file = storage_.create(path);
    file->write(0, std::as_bytes(std::span(text)));
    file->sync();
  }
  /// config.json, and of the folder that the model came from what says how text becomes tokens.
  std::map<std::string, std::string> beside_the_weights(const std::string& like, const model_shape& model, dtype stored) {
    std::map<std::string, std::string> files;
    if (like.empty()) {
      files["config.json"] = write_config(model, stored == dtype::bf16 ? "bfloat16" : stored == dtype::fp64 ? "float64" : "float32");
      return files;
    }
    for (const std::string& name : storage_.list(like))
      for (const char* known : {"config.json", "generation_config.json", "tokenizer", "special_tokens_map.json", "added_tokens.json",
                                "vocab.", "merges.txt", "chat_template"})
        if (name == known || (name.starts_with("tokenizer") && known == std::string_view("tokenizer")) ||
            (name.starts_with(known) && (known == std::string_view("vocab.") || known == std::string_view("chat_template"))))
          files[name] = text_of_file(path_in(like, name));
    return files;
  }
  static void write_owned(published_writer& out, const model_shape& model, std::span<state_tensor> owned, failure_note& note) {
    note.attempt([&] {
      std::vector<std::byte> bytes;
      for (state_tensor& t : owned) {
        if (t.part != "weight" && t.part != "gradient") continue;
        bytes.resize(t.bytes());
        t.get(bytes);
        out.write(unpadded(t.piece), published_segments(model, t.fact), t.type, bytes);
      }
    });
  }
  static void read_biases(const published_reader& reader, const model_shape& model, std::span<state_array> shared) {
    for (state_array& a : shared)
      if (a.name == "router.bias")
        for (extent_t l = model.dense_layers; l < model.layers; ++l) {
          const std::string name = published_router_bias(l);
          if (!reader.find(name)) continue;
          const box all{{model.experts}, {}, {model.experts}};
          const published_segment segment{name, 0, 0, model.experts, {model.experts}};
          const std::size_t row = std::size_t(model.experts) * size_of(a.type);
          reader.read({all, {0, model.experts}, model.experts}, std::span(&segment, 1), a.type, a.bytes.subspan(std::size_t(l) * row, row));
        }
  }
  static void write_biases(published_writer& out, const model_shape& model, std::span<state_array> shared) {
    const box all{{model.experts}, {}, {model.experts}};
    for (extent_t l = model.dense_layers; l < model.layers; ++l) {
      std::vector<float> zeros(std::size_t(model.experts), 0.0f);
      std::span<const std::byte> row = std::as_bytes(std::span(zeros));
      dtype type = dtype::fp32;
      for (const state_array& a : shared)
        if (a.name == "router.bias") {
          const std::size_t bytes = std::size_t(model.experts) * size_of(a.type);
          row = a.bytes.subspan(std::size_t(l) * bytes, bytes), type = a.type;
        }
      out.write({all, {0, model.experts}, model.experts},
                std::vector<published_segment>{{published_router_bias(l), 0, 0, model.experts, {model.experts}}}, type, row);
    }
  }
  /// All ranks have written, and together everything. Collective.
  static void complete(host_exec e, rank_group& world, const published_writer& out, failure_note& note) {
    agree(e, world, note);
    std::int64_t written = std::int64_t(out.written());
    world.all_reduce(e, std::span<const std::int64_t>(&written, 1), std::span<std::int64_t>(&written, 1), sum{}).wait(e);
    require(written == std::int64_t(out.elements()), "moefold: the ranks have written ", written, " of the ", out.elements(),
            " elements of the model; please report it");
  }
  std::string text_of_file(const std::string& path, std::uint64_t most = std::uint64_t{1} << 26) {
    const auto file = storage_.open(path);
    const std::uint64_t size = file->size();
    require_file(size <= most, path, 0, "it has ", size, " bytes, and such a file at most ", most);
    std::vector<std::byte> bytes(static_cast<std::size_t>(size));
    file->read(0, bytes);
    return std::string(text_of(bytes));
  }
  /// The ranks of one process share a reader: headers and indices are read once.
  std::shared_ptr<const published_reader> reader_of(const std::string& folder) {
    const std::lock_guard lock(mutex_);
    if (reader_ == nullptr || folder != opened_) {
      reader_ = std::make_shared<const published_reader>(storage_, folder);
      opened_ = folder;
    }
    return reader_;
  }

  storage& storage_;
  std::mutex mutex_;
  std::string opened_;
  std::shared_ptr<const published_reader> reader_;
};

}  // namespace moefold
